//! The page of a run and its subpages: results, actions, curves, log, sharing.

mod actions;
mod curves;
mod examples;
mod facts;
mod forms;
mod page;
mod shared;
mod shares;
mod shown;
mod tabs;
mod top;

pub(crate) use actions::{ask_to_cancel, ask_to_delete, cancel, delete};
pub(super) use curves::{Curves, of as curves_of};
pub(super) use examples::{EXAMPLES, Examples};
pub(crate) use forms::{clone, clone_form, continue_form, go_on};
pub(crate) use page::{live, page};
pub(crate) use shared::{download as shared_download, image as shared_image, page as shared_page};
pub(crate) use shares::{create as create_share, list as list_shares, revoke as revoke_share};
