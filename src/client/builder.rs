//! Settings of a client, and the way from them to one that is logged in.

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

/// Settings of a client. Defaults come from the environment, as for the Python
/// client: the address from `JINA_FINETUNER_REGISTRY` and
/// `JINA_HUBBLE_REGISTRY`, the token from `JINA_AUTH_TOKEN`, the keyring or
/// `~/.jina/config.json`. A stored token is sent only to the backend that it was
/// stored for.
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
    /// Addresses may hold a password.
    registry: Option<Secret>,
    hubble_registry: Option<Secret>,
    token: Option<Secret>,
    storage: TokenStorage,
    retry: RetryPolicy,
    timeouts: Timeouts,
    http: HttpSettings,
}

impl Finetuner {
    /// Settings to log in with.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// The address of the backend.
    pub fn registry(mut self, address: impl Into<Secret>) -> Self {
        self.registry = Some(address.into());
        self
    }

    /// The address of accounts and artifacts, if it is another one.
    pub fn hubble_registry(mut self, address: impl Into<Secret>) -> Self {
        self.hubble_registry = Some(address.into());
        self
    }

    /// The token. It comes before any that is stored, and is not stored; with
    /// it, no file of the home folder and no keyring is read or changed.
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Where tokens are looked for and kept; [`TokenStorage::Auto`] by default.
    pub fn token_storage(mut self, storage: TokenStorage) -> Self {
        self.storage = storage;
        self
    }

    /// When and how often calls are repeated.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long an answer may take; 30 seconds by default. Uploads, downloads
    /// and log streams may take longer, see [`Builder::idle_timeout`], and so
    /// may the submission of a run, whose data the backend checks.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeouts.request = Some(limit);
        self
    }

    /// How long an upload, a download or a log stream may stand still; 60
    /// seconds by default.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.idle = Some(limit);
        self
    }

    /// How long [`Run::wait`](crate::Run::wait), [`Run::watch`](crate::Run::watch)
    /// and [`Run::stream_logs`](crate::Run::stream_logs) go on while the backend
    /// does not answer: it refuses connections, times out or answers with a
    /// server error. 30 minutes by default. A warning is logged meanwhile.
    pub fn outage_limit(mut self, limit: Duration) -> Self {
        self.timeouts.outage = Some(limit);
        self
    }

    /// How long it may take to reach the server; 10 seconds by default.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.http.connect_timeout = Some(limit);
        self
    }

    /// A proxy for all calls, such as `http://proxy:3128` or
    /// `socks5h://user:password@proxy`. Without one, `HTTP_PROXY`,
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read as curl and Go read
    /// them, and where none is set the system's proxy is used; none of these is
    /// used for a backend on this machine.
    pub fn proxy(mut self, address: impl Into<Secret>) -> Self {
        self.http.proxy = Some(address.into());
        self
    }

    /// Trusts these certificates, in PEM form, beside those that the system
    /// trusts.
    pub fn add_root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http.root_certificates.push(pem.into());
        self
    }

    /// Whether to use plain http for a backend on another machine, so that
    /// everybody on the way can read the token and the data; off by default. `FINETUNER_ALLOW_PLAIN_HTTP=1` allows it as well.
    pub fn allow_plain_http(mut self, allow: bool) -> Self {
        self.http.allow_plain_http = allow;
        self
    }

    /// The project whose runs, data and models are used, such as `search-team`. By
    /// default it is the one of `FINETUNER_PROJECT`, and without that the user's
    /// personal project.
    pub fn project(mut self, name: impl Into<String>) -> Self {
        self.http.project = Some(name.into());
        self
    }

    /// The name of the program for the backend's log, such as `my-app/1.2`.
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
    /// are its part; [`Builder::proxy`], [`Builder::add_root_certificate`] and
    /// [`Builder::connect_timeout`] are refused together with it. A cause of its
    /// errors that is an [`std::io::Error`] of the kind `ConnectionRefused` or
    /// `TimedOut` makes [`Error::is_connect`] or [`Error::is_timeout`] true.
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

    /// Creates a client with the token that is found, without asking the backend
    /// whether it accepts it. [`Finetuner::user`] is none then.
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

    /// The connection, where tokens are kept, and the token that comes before
    /// those.
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
            Some(token) => Some((trimmed(&token, "token")?, TokenOrigin::Code)),
            None => set(TOKEN_VARIABLE).map(|token| (token.into(), TokenOrigin::Environment)),
        };
        Ok((transport, vault, token))
    }
}

/// A token that was given, without the white space around it.
pub(super) fn trimmed(token: &Secret, field: &str) -> Result<Secret> {
    match token.expose().trim() {
        "" => Err(Error::setup(format!(
            "`{field}` is blank: give a token, or leave it out to use a stored one"
        ))),
        token => Ok(token.into()),
    }
}
