//! Settings of a client.

use std::time::Duration;

use super::finetuner::Finetuner;
use crate::{
    auth::{TOKEN_VARIABLE, TokenOrigin, TokenStorage, Vault},
    environment::{process as environment, variable},
    error::{Error, Result},
    secret::Secret,
    transport::{
        Addresses, HttpService, HttpSettings, PLAIN_HTTP_VARIABLE, PROJECT_VARIABLE, RequestBody,
        RetryPolicy, Timeouts, Transport,
    },
};

/// Settings of a client.
///
/// Defaults come from the environment, as in the Python client: the address from
/// `JINA_FINETUNER_REGISTRY` and `JINA_HUBBLE_REGISTRY`, the token from
/// `JINA_AUTH_TOKEN`, the keyring or `~/.jina/config.json`. A stored token is sent
/// only to the backend that it was stored for.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use finetuner::{Finetuner, RetryPolicy, TokenStorage};
///
/// let finetuner = Finetuner::builder()
///     .registry("https://finetuner.example.com")
///     .token(std::fs::read_to_string("token")?.trim())
///     .token_storage(TokenStorage::Memory)
///     .add_root_certificate(std::fs::read("authority.pem")?)
///     .timeout(Duration::from_secs(10))
///     .retry(RetryPolicy::default().attempts(10))
///     .user_agent("my-app/1.2")
///     .login()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "settings do nothing until `login`"]
pub struct Builder {
    /// Secret, because an address may contain a password.
    registry: Option<Secret>,
    hubble_registry: Option<Secret>,
    token: Option<Secret>,
    storage: TokenStorage,
    retry: RetryPolicy,
    timeouts: Timeouts,
    http: HttpSettings,
}

impl Finetuner {
    /// Returns the default settings, to be changed before logging in.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Sets the address of the backend.
    pub fn registry(mut self, address: impl Into<Secret>) -> Self {
        self.registry = Some(address.into());
        self
    }

    /// Sets the address for accounts and artifacts, if it differs.
    pub fn hubble_registry(mut self, address: impl Into<Secret>) -> Self {
        self.hubble_registry = Some(address.into());
        self
    }

    /// Sets the token.
    ///
    /// It takes precedence over stored tokens and is not stored. The client then
    /// neither reads nor changes the token file and the keyring.
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets where tokens are stored; [`TokenStorage::Auto`] by default.
    pub fn token_storage(mut self, storage: TokenStorage) -> Self {
        self.storage = storage;
        self
    }

    /// Sets when and how often calls are repeated.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the time limit for an answer; 30 seconds by default.
    ///
    /// It does not apply to uploads, downloads and log streams (see
    /// [`Builder::idle_timeout`]), nor to the submission of a run, for which the
    /// backend checks the data.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeouts.request = Some(limit);
        self
    }

    /// Sets how long an upload, download or log stream may make no progress.
    ///
    /// The default is 60 seconds.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.idle = Some(limit);
        self
    }

    /// Sets how long following a run tolerates an outage of the backend.
    ///
    /// It applies to [`Run::wait`](crate::Run::wait),
    /// [`Run::watch`](crate::Run::watch) and
    /// [`Run::stream_logs`](crate::Run::stream_logs). An outage means refused
    /// connections, time-outs or server errors. The default is 30 minutes; the
    /// client logs warnings during the outage.
    pub fn outage_limit(mut self, limit: Duration) -> Self {
        self.timeouts.outage = Some(limit);
        self
    }

    /// Sets the time limit for connecting; 10 seconds by default.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.http.connect_timeout = Some(limit);
        self
    }

    /// Sets a proxy for all calls.
    ///
    /// Examples are `http://proxy:3128` and `socks5h://user:password@proxy`. By
    /// default, `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read as
    /// curl and Go read them; if none is set, the system's proxy is used. Neither
    /// is used for a backend on this machine.
    pub fn proxy(mut self, address: impl Into<Secret>) -> Self {
        self.http.proxy = Some(address.into());
        self
    }

    /// Trusts certificates in PEM format, in addition to the system's.
    pub fn add_root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http.root_certificates.push(pem.into());
        self
    }

    /// Allows plain http to a backend on another machine; off by default.
    ///
    /// Everybody on the network path can then read the token and the data.
    /// `FINETUNER_ALLOW_PLAIN_HTTP=1` allows it as well.
    pub fn allow_plain_http(mut self, allow: bool) -> Self {
        self.http.allow_plain_http = allow;
        self
    }

    /// Sets the project whose runs, data and models are used, such as `search-team`.
    ///
    /// The default is the project that `FINETUNER_PROJECT` names, otherwise the user's
    /// personal project.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.http.project = Some(name.into());
        self
    }

    /// Sets the program's name for the backend's log, such as `my-app/1.2`.
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.http.user_agent = Some(name.into());
        self
    }

    /// Sends all requests through this service instead of the built-in HTTP client.
    ///
    /// It may be a client with middleware, another kind of connection, or a backend
    /// in the same process for tests. Time-outs, retries and
    /// [`Builder::outage_limit`] still apply.
    ///
    /// The service is responsible for connections, TLS, proxies and redirects;
    /// combining it with [`Builder::proxy`], [`Builder::add_root_certificate`] or
    /// [`Builder::connect_timeout`] is an error. If the cause of an error is an
    /// [`std::io::Error`] of the kind `ConnectionRefused` or `TimedOut`,
    /// [`Error::is_connect`] or [`Error::is_timeout`] is true.
    ///
    /// ```no_run
    /// use finetuner::{Finetuner, RequestBody};
    ///
    /// let service = tower::service_fn(|request: http::Request<RequestBody>| async move {
    ///     let answer = format!("nothing at {}", request.uri().path());
    ///     http::Response::builder().status(404).body(answer)
    /// });
    /// let builder = Finetuner::builder().http_service(service);
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

    /// Creates a client with the token at hand, without asking the backend.
    ///
    /// The token is not verified, and [`Finetuner::user`] returns `None`.
    ///
    /// # Errors
    /// [`Error::is_unauthorized`] if there is no token.
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

    /// Returns the connection, the token stores, and the token from the program or
    /// the environment, which takes precedence over stored ones.
    #[allow(clippy::type_complexity)]
    pub(super) fn parts(
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
        if self.http.project.is_none() {
            self.http.project = set(PROJECT_VARIABLE);
        }
        let vault = Vault::new(
            self.storage,
            &addresses,
            environment,
            etcetera::home_dir().ok(),
        );
        let (http, timeouts) = (&self.http, self.timeouts);
        let transport = Transport::new(addresses, http, self.retry, timeouts, environment)?;
        let token = match self.token {
            Some(token) => Some((trim_token(&token, "token")?, TokenOrigin::Code)),
            None => set(TOKEN_VARIABLE).map(|token| (token.into(), TokenOrigin::Environment)),
        };
        Ok((transport, vault, token))
    }
}

/// Trims a token that the program was given, and refuses a blank one.
pub(super) fn trim_token(token: &Secret, field: &str) -> Result<Secret> {
    match token.expose().trim() {
        "" => Err(Error::setup(format!(
            "`{field}` is blank: give a token, or leave it out to use a stored one"
        ))),
        token => Ok(token.into()),
    }
}
