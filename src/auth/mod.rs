//! Sources and storage of tokens.
//!
//! The first token found is used, in this order: code, `JINA_AUTH_TOKEN`, the
//! keyring of the operating system, the token file. A stored token belongs to the
//! backend that it was stored for and is sent to no other.

mod backend;
mod browser;
mod failure;
#[cfg(feature = "keyring")]
mod keyring;
mod token_file;
mod vault;

pub(crate) use browser::{Link, browser_login, open_and_print};
pub use token_file::FOLDER_VARIABLE;
pub use vault::{TOKEN_VARIABLE, TokenStorage};
pub(crate) use vault::{TokenOrigin, Vault};
