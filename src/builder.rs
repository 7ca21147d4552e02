//! Settings of a client, and the way from them to one that is logged in.

use std::{
    future::{Future, IntoFuture},
    io::IsTerminal,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use url::Url;

use crate::{
    Error, Finetuner, Result, RetryPolicy, Secret, TokenStorage,
    account::User,
    address::Addresses,
    auth::{self, Link, TOKEN_VARIABLE, TokenOrigin, Vault},
    environment::{process as environment, variable},
    transport::{HttpService, HttpSettings, RequestBody, Timeouts, Transport},
};

/// Allows plain http to other machines where it is `1` or `true`.
///
/// ```no_run
/// println!("{:?}", std::env::var(finetuner::PLAIN_HTTP_VARIABLE));
/// ```
pub const PLAIN_HTTP_VARIABLE: &str = "FINETUNER_ALLOW_PLAIN_HTTP";

/// Settings of a client. Everything that isn't set here comes from the
/// environment, as for the Python client: the address from
/// `JINA_FINETUNER_REGISTRY` and `JINA_HUBBLE_REGISTRY`, the token from
/// `JINA_AUTH_TOKEN`, the keyring or `~/.jina/config.json`. A stored token is
/// sent only to the backend that it was stored for.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let finetuner = finetuner::Finetuner::builder()
///     .registry("https://finetuner.example.com")
///     .token(std::fs::read_to_string("token")?.trim())
///     .login()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "settings do nothing until `login`"]
pub struct Builder {
    /// Addresses may hold a password.
    registry: Option<Secret>,
    hubble_registry: Option<Secret>,
    token: Option<Secret>,
    storage: TokenStorage,
    retry: RetryPolicy,
    timeouts: Timeouts,
    http: HttpSettings,
}

impl Builder {
    /// The address of the backend.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let builder = builder.registry("https://finetuner.example.com");
    /// # }
    /// ```
    pub fn registry(mut self, address: impl Into<Secret>) -> Self {
        self.registry = Some(address.into());
        self
    }

    /// The address of accounts and artifacts, where it isn't the same.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let builder = builder.hubble_registry("https://hubble.example.com");
    /// # }
    /// ```
    pub fn hubble_registry(mut self, address: impl Into<Secret>) -> Self {
        self.hubble_registry = Some(address.into());
        self
    }

    /// The token. It comes before any that is stored, and is not stored; with
    /// it, no file of the home folder and no keyring is read or changed.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let builder = builder.token("the-token");
    /// # }
    /// ```
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Where tokens are looked for and kept; [`TokenStorage::Auto`] by default.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use finetuner::TokenStorage;
    ///
    /// let builder = builder.token_storage(TokenStorage::File);
    /// # }
    /// ```
    pub fn token_storage(mut self, storage: TokenStorage) -> Self {
        self.storage = storage;
        self
    }

    /// How hard calls try before they fail.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use finetuner::RetryPolicy;
    ///
    /// let builder = builder.retry(RetryPolicy::default().attempts(10));
    /// # }
    /// ```
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long an answer may take; 30 seconds by default. Uploads, downloads
    /// and log streams may take longer, see [`Builder::idle_timeout`], and so
    /// may the submission of a run, whose data the backend checks.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use std::time::Duration;
    ///
    /// let builder = builder.timeout(Duration::from_secs(5));
    /// # }
    /// ```
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeouts.request = Some(limit);
        self
    }

    /// How long an upload, a download or a log stream may stand still; 60
    /// seconds by default.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use std::time::Duration;
    ///
    /// let builder = builder.idle_timeout(Duration::from_secs(300));
    /// # }
    /// ```
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.idle = Some(limit);
        self
    }

    /// How long [`Run::wait`](crate::Run::wait), [`Run::watch`](crate::Run::watch)
    /// and [`Run::stream_logs`](crate::Run::stream_logs) go on while the backend
    /// does not answer: it refuses connections, times out or answers with a
    /// server error. 30 minutes by default. A warning is logged meanwhile.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use std::time::Duration;
    ///
    /// // The server is updated at night, which takes an hour.
    /// let builder = builder.outage_limit(Duration::from_secs(2 * 3600));
    /// # }
    /// ```
    pub fn outage_limit(mut self, limit: Duration) -> Self {
        self.timeouts.outage = Some(limit);
        self
    }

    /// How long it may take to reach the server; 10 seconds by default.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use std::time::Duration;
    ///
    /// let builder = builder.connect_timeout(Duration::from_secs(3));
    /// # }
    /// ```
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.http.connect_timeout = Some(limit);
        self
    }

    /// A proxy for all calls, such as `http://proxy:3128` or
    /// `socks5h://user:password@proxy`. Without one, `HTTP_PROXY`,
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read as curl and Go read
    /// them, and where none is set the system's proxy is used; none of these is
    /// used for a backend on this machine.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let builder = builder.proxy("http://proxy.example.com:3128");
    /// # }
    /// ```
    pub fn proxy(mut self, address: impl Into<Secret>) -> Self {
        self.http.proxy = Some(address.into());
        self
    }

    /// Trusts these certificates, in PEM form, beside those that the system
    /// trusts.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// // A server with a certificate of its own.
    /// if let Ok(certificate) = std::fs::read("cert.pem") {
    ///     let builder = builder.root_certificate(certificate);
    /// }
    /// # }
    /// ```
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http.root_certificates.push(pem.into());
        self
    }

    /// Whether a backend on another machine may be spoken to over plain http,
    /// so that everybody on the way can read the token and the data; not by
    /// default. `FINETUNER_ALLOW_PLAIN_HTTP=1` allows it as well.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// // Within a network that is trusted.
    /// let builder = builder.registry("http://trainer:8642").allow_plain_http(true);
    /// # }
    /// ```
    pub fn allow_plain_http(mut self, allow: bool) -> Self {
        self.http.allow_plain_http = allow;
        self
    }

    /// What the program calls itself towards the server, such as `my-app/1.2`.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let builder = builder.user_agent("my-app/1.2");
    /// # }
    /// ```
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.http.user_agent = Some(name.into());
        self
    }

    /// Sends all requests through this service in place of the SDK's own HTTP
    /// client: a client with middleware, a connection of another kind, or a
    /// backend in the same process for tests.
    ///
    /// Time-outs, retries and the rules of [`Builder::outage_limit`] stay the
    /// SDK's own. The service makes connections, so TLS, proxies and redirects
    /// are its part; [`Builder::proxy`], [`Builder::root_certificate`] and
    /// [`Builder::connect_timeout`] are refused together with it. A cause of its
    /// errors that is an [`std::io::Error`] of the kind `ConnectionRefused` or
    /// `TimedOut` makes [`Error::is_connect`] or [`Error::is_timeout`] true.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// use finetuner::RequestBody;
    ///
    /// let service = tower::service_fn(|request: http::Request<RequestBody>| async move {
    ///     let answer = format!("nothing at {}", request.uri().path());
    ///     http::Response::builder().status(404).body(answer)
    /// });
    /// let builder = builder.http_service(service);
    /// # }
    /// ```
    pub fn http_service<S, B>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<RequestBody>, Response = http::Response<B>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.http.service = Some(HttpService::new(service));
        self
    }

    /// Makes a client of the token that is found, without asking the backend
    /// whether it is good. [`Finetuner::user`] is not known then.
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let finetuner = builder.connect();
    /// # drop(finetuner);
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_unauthorized`] where there is no token.
    pub async fn connect(self) -> Result<Finetuner> {
        let (transport, vault, given) = self.parts(environment)?;
        let (token, vault) = match given {
            Some((token, _)) => (token, vault.untouched()),
            None => {
                let found = vault.find().await?;
                (found.ok_or_else(Error::not_logged_in)?.0, vault)
            }
        };
        Ok(Finetuner::new(transport.with_token(token), vault, None))
    }

    /// Logs in; see [`Login`].
    ///
    /// ```no_run
    /// # fn example(builder: finetuner::Builder) {
    /// let login = builder.login();
    /// # drop(login);
    /// # }
    /// ```
    pub fn login(self) -> Login {
        Login {
            builder: self,
            force: false,
            interactive: None,
            pasted: None,
            link: Arc::new(auth::open_and_print),
        }
    }

    /// The connection, where tokens are kept, and the token that comes before
    /// those.
    #[allow(clippy::type_complexity)]
    fn parts(
        mut self,
        environment: impl Fn(&str) -> Option<String> + Copy,
    ) -> Result<(Transport, Vault, Option<(Secret, TokenOrigin)>)> {
        let set = |name| variable(environment, name);
        let given = |address: Option<Secret>| address.map(|address| address.expose().to_owned());
        let (registry, hubble) = (given(self.registry), given(self.hubble_registry));
        let addresses = Addresses::choose(registry, hubble, environment)?;
        if let Some(value) = set(PLAIN_HTTP_VARIABLE) {
            self.http.allow_plain_http |= value == "1" || value.eq_ignore_ascii_case("true");
        }
        let vault = Vault::new(self.storage, &addresses, environment);
        let (http, timeouts) = (&self.http, self.timeouts);
        let transport = Transport::new(addresses, http, self.retry, timeouts, environment)?;
        let token = match self.token {
            Some(token) => Some((trimmed(&token, "token")?, TokenOrigin::Code)),
            None => set(TOKEN_VARIABLE).map(|token| (token.into(), TokenOrigin::Environment)),
        };
        Ok((transport, vault, token))
    }
}

/// A token that was given, without the white space around it.
fn trimmed(token: &Secret, field: &str) -> Result<Secret> {
    match token.expose().trim() {
        "" => Err(Error::setup(format!(
            "`{field}` is blank: give a token, or leave it out to use a stored one"
        ))),
        token => Ok(token.into()),
    }
}

/// A login in the making, from [`Finetuner::login`] or [`Builder::login`].
/// Awaiting it gives a [`Finetuner`].
///
/// A token that is found is shown to the backend, which says whose it is. Where
/// there is none, or a stored one is no longer good, and somebody sits at the
/// terminal, they log in through a browser, and the new token is stored.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> finetuner::Result<()> {
/// use finetuner::Finetuner;
///
/// let finetuner = Finetuner::login().await?;
/// // As another user, even though there is a good token:
/// let finetuner = Finetuner::login().force(true).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives [`Error::is_unauthorized`] where there is no token that
/// the backend accepts, [`Error::is_connect`] where nobody answers.
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
    /// Whether to log in anew even where there is a good token.
    ///
    /// ```no_run
    /// # async fn example(login: finetuner::Login) -> finetuner::Result<()> {
    /// let finetuner = login.force(true).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Whether somebody is there to log in through a browser. By default that
    /// is so where the program has a terminal.
    ///
    /// ```no_run
    /// # async fn example(login: finetuner::Login) -> finetuner::Result<()> {
    /// // A job must not wait for somebody.
    /// let finetuner = login.interactive(false).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn interactive(mut self, interactive: bool) -> Self {
        self.interactive = Some(interactive);
        self
    }

    /// A token that the user has pasted, such as a personal access token. It is
    /// stored once the backend has accepted it.
    ///
    /// ```no_run
    /// # async fn example(login: finetuner::Login) -> finetuner::Result<()> {
    /// let finetuner = login.paste("the-token").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn paste(mut self, token: impl Into<Secret>) -> Self {
        self.pasted = Some(token.into());
        self
    }

    /// What to do with the page at which the user logs in. By default it is
    /// opened in a browser, and its address printed to standard error.
    ///
    /// ```no_run
    /// # async fn example(login: finetuner::Login) -> finetuner::Result<()> {
    /// let finetuner = login.on_link(|page| println!("open {page}")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_link(mut self, show: impl Fn(&Url) + Send + Sync + 'static) -> Self {
        self.link = Arc::new(show);
        self
    }

    async fn run(self) -> Result<Finetuner> {
        let (transport, vault, given) = self.builder.parts(environment)?;
        let whoami = async |token: Secret| -> Result<(Transport, User)> {
            let transport = transport.with_token(token);
            let user = crate::account::whoami(&transport).await?;
            Ok((transport, user))
        };
        if let Some(token) = self.pasted {
            let token = trimmed(&token, "paste")?;
            let (transport, user) = whoami(token.clone()).await?;
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
                match whoami(token).await {
                    Ok((transport, user)) => {
                        let vault = match origin {
                            TokenOrigin::Code | TokenOrigin::Environment => vault.untouched(),
                            TokenOrigin::Keyring | TokenOrigin::File => vault,
                        };
                        return Ok(Finetuner::new(transport, vault, Some(user)));
                    }
                    // Another token would not be looked at next time.
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
        let (transport, user) = whoami(token.clone()).await?;
        vault.save(&token).await?;
        if variable(environment, TOKEN_VARIABLE).is_some() {
            tracing::warn!(
                "logged in as {}, but {TOKEN_VARIABLE} holds another token, which the next program \
                 will use: unset it",
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
