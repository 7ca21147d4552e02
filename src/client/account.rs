//! The user's account: identity, logout, personal access tokens.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    finetuner::Finetuner,
    user::{User, whoami},
};
use crate::{
    error::{Error, Result},
    secret::Secret,
    transport::{Call, Transport, private_rpc},
};

/// A personal access token as listed, without the token itself.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let tokens = finetuner.list_tokens().await?;
/// let lasting = tokens.iter().filter(|token| token.expires_at.is_none());
/// println!("{} never expire", lasting.count());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PersonalToken {
    /// Name, unique per user.
    pub name: String,
    /// `personal`, or `session` for a token that a login created.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Time of creation.
    #[serde(default, rename = "createdAt", with = "finetuner_protocol::time")]
    pub created_at: Option<Timestamp>,
    /// Time of expiry; `None` if the token never expires.
    #[serde(default, rename = "expireAt", with = "finetuner_protocol::time")]
    pub expires_at: Option<Timestamp>,
}

impl Finetuner {
    /// Asks the backend for the user of the token.
    ///
    /// # Errors
    /// [`Error::is_unauthorized`] if the token is no longer accepted.
    pub async fn whoami(&self) -> Result<User> {
        whoami(&self.transport).await
    }

    /// Returns the token that authenticates the calls.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// if let Some(token) = finetuner.get_token() {
    ///     std::process::Command::new("worker").env("JINA_AUTH_TOKEN", token.expose());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn get_token(&self) -> Option<&Secret> {
        self.transport.token()
    }

    /// Ends the session and deletes the token from every store.
    ///
    /// A token that the program got in code or in `JINA_AUTH_TOKEN` stays where it
    /// is, and no store is changed.
    ///
    /// # Errors
    /// If the backend can't be reached or a store can't be cleared; the message
    /// names the store. Every store is tried, even if the backend can't be
    /// reached.
    pub async fn logout(self) -> Result<()> {
        let call = Call::rpc("user.session.dismiss").repeatable();
        let dismissed = self.transport.done(call).await;
        let cleared = self.vault.clear().await;
        match (dismissed, cleared) {
            // Already logged out, or a backend without sessions.
            (Err(error), cleared) if matches!(error.status(), Some(401 | 404)) => cleared,
            (Err(ended), Err(cleared)) => Err(Error::setup(format!(
                "{cleared}; and the session could not be ended: {ended}"
            ))),
            (ended, cleared) => ended.and(cleared),
        }
    }

    /// Creates a personal access token.
    ///
    /// Awaiting the returned value gives the token. It is not shown again.
    pub fn create_token(&self, name: impl Into<String>) -> CreateToken {
        CreateToken {
            transport: self.transport.clone(),
            name: name.into(),
            days: None,
        }
    }

    /// Lists all personal access tokens, without the tokens themselves.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// for token in finetuner.list_tokens().await? {
    ///     println!("{} expires {:?}", token.name, token.expires_at);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the call fails.
    pub async fn list_tokens(&self) -> Result<Vec<PersonalToken>> {
        #[derive(Deserialize)]
        struct Tokens {
            personal_access_tokens: Vec<PersonalToken>,
        }
        let call = Call::rpc("user.pat.list").repeatable();
        let tokens: Tokens = self.transport.rpc(call).await?;
        Ok(tokens.personal_access_tokens)
    }

    /// Revokes a personal access token.
    ///
    /// # Errors
    /// [`Error::is_not_found`] if there is no token with this name.
    pub async fn delete_token(&self, name: &str) -> Result<()> {
        let form = vec![("name", name.to_owned())];
        self.transport
            .done(Call::rpc("user.pat.delete").form(form).deleting())
            .await
    }
}

/// Request for a personal access token, from [`Finetuner::create_token`].
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let token = finetuner.create_token("nightly-job").expires_in_days(30).await?;
/// println!("{}", token.expose());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives [`Error::is_conflict`] if a token with this name exists.
#[derive(Clone)]
#[must_use = "a token is created when it is awaited"]
pub struct CreateToken {
    transport: Transport,
    name: String,
    days: Option<u32>,
}

impl CreateToken {
    /// Sets the lifetime in days. By default, the backend decides.
    pub fn expires_in_days(mut self, days: u32) -> Self {
        self.days = Some(days);
        self
    }

    async fn run(self) -> Result<Secret> {
        #[derive(Deserialize)]
        struct Created {
            token: String,
        }
        if self.name.is_empty() {
            return Err(Error::setup("`name` is empty: give the token a name"));
        }
        let mut form = vec![("name", self.name)];
        if let Some(days) = self.days {
            form.push(("expirationDays", days.to_string()));
        }
        let call = Call::rpc("user.pat.create").form(form).keyed();
        let created: Created = private_rpc(&self.transport, call).await?;
        Ok(created.token.into())
    }
}

impl IntoFuture for CreateToken {
    type Output = Result<Secret>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl std::fmt::Debug for CreateToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateToken")
            .field("name", &self.name)
            .field("days", &self.days)
            .finish_non_exhaustive()
    }
}
