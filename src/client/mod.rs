//! Settings, login, the logged-in client, and the user's account.

mod account;
mod builder;
mod finetuner;
mod login;
mod user;

pub use account::{CreateToken, PersonalToken};
pub use builder::Builder;
pub use finetuner::Finetuner;
pub use login::Login;
pub use user::User;
