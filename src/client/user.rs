//! Users of a backend.

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    transport::{Call, Transport},
};

/// A user of the backend.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let user = finetuner.whoami().await?;
/// println!("{} ({})", user.name, user.id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The account's id.
    #[serde(rename = "_id")]
    pub id: String,
    /// The account's name.
    pub name: String,
    /// Display name that the user has chosen.
    #[serde(default)]
    pub nickname: Option<String>,
}

/// Asks the backend for the user that the token belongs to.
pub(crate) async fn whoami(transport: &Transport) -> Result<User> {
    let call = Call::rpc("user.identity.whoami").repeatable();
    transport.rpc(call).await
}
