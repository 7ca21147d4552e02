//! The logged-in client.

use super::user::User;
use crate::{auth::Vault, transport::Transport};

/// A client of one backend. Cloning is cheap; clones share connections.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let everywhere = finetuner.clone();
/// tokio::spawn(async move { everywhere.list_runs().await });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Finetuner {
    pub(crate) transport: Transport,
    pub(crate) vault: Vault,
    user: Option<User>,
}

impl Finetuner {
    pub(crate) fn new(transport: Transport, vault: Vault, user: Option<User>) -> Self {
        Self {
            transport,
            vault,
            user,
        }
    }

    /// Returns the user who logged in.
    ///
    /// It is `None` after [`Builder::connect`](crate::Builder::connect), which
    /// does not ask the backend.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// if let Some(user) = finetuner.user() {
    ///     println!("logged in as {}", user.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }
}

impl std::fmt::Debug for Finetuner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finetuner")
            .field("backend", &self.transport.addresses().finetuner_host())
            .field("user", &self.user.as_ref().map(|user| &user.name))
            .finish_non_exhaustive()
    }
}
