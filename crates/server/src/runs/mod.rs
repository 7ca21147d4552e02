//! Operations on runs that the API and the console share: lookup, creation,
//! results and logs.

mod annotations;
mod continuation;
mod create;
mod find;
mod log;
mod read;
mod results;
mod shares;
mod submit;

pub(crate) use annotations::{annotate, invalid_annotation};
pub(crate) use continuation::{Continuation, check_keys, continue_from};
pub(crate) use create::create_from;
pub(crate) use find::{find_experiment, find_run};
pub(crate) use log::{as_it_comes, follow, log_text};
pub(crate) use read::read_submission;
pub(crate) use results::{examples_of, status_of, train_data_name};
pub(crate) use shares::{MAX_SHARE_DAYS, create_share, share_address};
pub(crate) use submit::{check_quota, name_is_taken};
