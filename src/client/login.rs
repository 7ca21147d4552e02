//! Logging in with an existing token or through a browser.

use std::{
    future::{Future, IntoFuture},
    io::IsTerminal,
    pin::Pin,
    sync::Arc,
};

use url::Url;

use super::{
    builder::{Builder, trim_token},
    finetuner::Finetuner,
    user::{User, whoami},
};
use crate::{
    auth::{self, Link, TOKEN_VARIABLE, TokenOrigin},
    environment::{process as environment, variable},
    error::{Error, Result},
    secret::Secret,
    transport::Transport,
};

impl Finetuner {
    /// Logs in with the settings of the environment; see [`Login`] and [`Builder`].
    pub fn login() -> Login {
        Self::builder().login()
    }
}

impl Builder {
    /// Logs in with these settings; see [`Login`].
    pub fn login(self) -> Login {
        Login {
            builder: self,
            force: false,
            interactive: None,
            pasted: None,
            link: Arc::new(auth::open_and_print),
        }
    }
}

/// A login, from [`Finetuner::login`] or [`Builder::login`].
///
/// Awaiting it gives a [`Finetuner`]. The backend verifies the token that was
/// found. If there is none, or if a stored one is no longer valid, and the program
/// has a terminal, the user logs in through a browser and the new token is stored.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> finetuner::Result<()> {
/// use finetuner::Finetuner;
///
/// let finetuner = Finetuner::login().await?;
/// // As another user, even if a stored token is valid:
/// let finetuner = Finetuner::login().force(true).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives [`Error::is_unauthorized`] if there is no token that the
/// backend accepts, and [`Error::is_connect`] if the backend does not answer.
#[derive(Clone)]
#[must_use = "a login happens when it is awaited"]
pub struct Login {
    builder: Builder,
    force: bool,
    interactive: Option<bool>,
    pasted: Option<Secret>,
    link: Link,
}

impl Login {
    /// Logs in again even if there is a valid token.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets whether a user can log in through a browser.
    ///
    /// By default, this is the case if the program has a terminal.
    pub fn interactive(mut self, interactive: bool) -> Self {
        self.interactive = Some(interactive);
        self
    }

    /// Sets a token that the user has pasted, such as a personal access token.
    ///
    /// It is stored once the backend has accepted it.
    pub fn paste(mut self, token: impl Into<Secret>) -> Self {
        self.pasted = Some(token.into());
        self
    }

    /// Sets what happens with the address of the login page.
    ///
    /// By default, it is opened in a browser and printed to standard error.
    pub fn on_link(mut self, show: impl Fn(&Url) + Send + Sync + 'static) -> Self {
        self.link = Arc::new(show);
        self
    }

    async fn run(self) -> Result<Finetuner> {
        let (transport, vault, given) = self.builder.parts(environment)?;
        let accepted = async |token: Secret| -> Result<(Transport, User)> {
            let transport = transport.with_token(token);
            let user = whoami(&transport).await?;
            Ok((transport, user))
        };
        if let Some(token) = self.pasted {
            let token = trim_token(&token, "paste")?;
            let (transport, user) = accepted(token.clone()).await?;
            vault.save(&token).await?;
            return Ok(Finetuner::new(transport, vault, Some(user)));
        }
        let interactive = self
            .interactive
            .unwrap_or_else(|| std::io::stdin().is_terminal() && std::io::stderr().is_terminal());
        let mut refused = None;
        if !self.force {
            let found = match given {
                Some(found) => Some(found),
                None => vault.find().await?,
            };
            if let Some((token, origin)) = found {
                match accepted(token).await {
                    Ok((transport, user)) => {
                        let vault = match origin {
                            TokenOrigin::Code | TokenOrigin::Environment => vault.untouched(),
                            TokenOrigin::Keyring | TokenOrigin::File => vault,
                        };
                        return Ok(Finetuner::new(transport, vault, Some(user)));
                    }
                    // The next login would use the token from the code again.
                    Err(error) if matches!(origin, TokenOrigin::Code) => return Err(error),
                    Err(error) if error.status() == Some(401) => refused = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        if !interactive {
            return Err(refused.unwrap_or_else(Error::not_logged_in));
        }
        let token = match auth::browser_login(&transport, &self.link).await {
            Err(error) if error.status().is_none() => return Err(refused.unwrap_or(error)),
            token => token?,
        };
        let (transport, user) = accepted(token.clone()).await?;
        vault.save(&token).await?;
        if variable(environment, TOKEN_VARIABLE).is_some() {
            tracing::warn!(
                "logged in as {}, but {TOKEN_VARIABLE} contains another token, which the next \
                 program will use: unset it",
                user.name
            );
        }
        Ok(Finetuner::new(transport, vault, Some(user)))
    }
}

impl IntoFuture for Login {
    type Output = Result<Finetuner>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("builder", &self.builder)
            .field("force", &self.force)
            .field("interactive", &self.interactive)
            .finish_non_exhaustive()
    }
}
