//! What can go wrong, and how to tell.

use std::{borrow::Cow, fmt, io, time::Duration};

use finetuner_protocol::{DocumentError, InvalidField};
use reqwest::StatusCode;
use url::Url;

use crate::{data::Problems, transport::NotMade};

/// The result of a call.
///
/// ```no_run
/// async fn name() -> finetuner::Result<String> {
///     let finetuner = finetuner::Finetuner::login().await?;
///     Ok(finetuner.whoami().await?.name)
/// }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The most of an answer's body that an error keeps.
const BODY_START: usize = 500;

/// Why a call did not do what was asked. What kind of failure it was is told
/// by the methods that begin with `is_`, each of which says what to do.
///
/// No token is ever part of an error.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// match finetuner.get_run("clip-fashion-1").await {
///     Ok(run) => println!("{}", run.status().await?),
///     Err(error) if error.is_not_found() => println!("there is no such run yet"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    /// Tries made, and how long they took together.
    attempts: u32,
    elapsed: Duration,
    url: Option<Url>,
    /// The proxy that the call went to, without its password.
    proxy: Option<String>,
    request_id: Option<String>,
    /// How long the server asks to wait.
    retry_after: Option<Duration>,
    /// Whether an earlier try may have had its effect.
    maybe_done: bool,
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error(
        "nobody answers ({}). Start a backend with `cargo run --release -p finetuner-server -- \
         serve`, or set JINA_FINETUNER_REGISTRY to the address of one that runs",
        innermost(.0)
    )]
    Connect(#[source] reqwest::Error),
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    #[error("the connection broke: {}", innermost(.0))]
    Broken(#[source] reqwest::Error),
    #[error("{0}")]
    BrokenOff(&'static str),
    #[error("{} ({status})", words(*status, message, body))]
    Status {
        status: StatusCode,
        message: String,
        body: String,
    },
    #[error("{}", not_understood(reason, body))]
    Decode { reason: String, body: String },
    #[error("{0}")]
    Redirect(String),
    #[error(
        "there is no token: set JINA_AUTH_TOKEN, or give one with \
         `Finetuner::builder().token(..)`. A backend prints its first token when it starts, and \
         `finetuner-server token` makes more"
    )]
    NotLoggedIn,
    #[error("the login failed: {0}")]
    Login(String),
    #[error(transparent)]
    Invalid(InvalidField),
    #[error(transparent)]
    Data(Problems),
    #[error("The run needs to be finished in order to {0}.")]
    InProgress(&'static str),
    #[error("Preparing to run, logs will be ready to pull when `status` is `STARTED`.")]
    Preparing,
    #[error("The run `{name}` failed, please check the `logs` for detailed information: {details}")]
    RunFailed { name: String, details: String },
    #[error("this backend can't {0}")]
    Unsupported(&'static str),
    #[error(transparent)]
    Documents(DocumentError),
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the artifact can't be used: {0}")]
    Artifact(String),
    #[error("{0}")]
    Setup(String),
}

impl Error {
    fn new(kind: Kind) -> Self {
        Self(Box::new(Inner {
            kind,
            attempts: 1,
            elapsed: Duration::ZERO,
            url: None,
            proxy: None,
            request_id: None,
            retry_after: None,
            maybe_done: false,
        }))
    }

    pub(crate) fn transport(error: reqwest::Error, limit: Duration) -> Self {
        let error = error.without_url();
        if let Some(reason) = not_made(&error) {
            return Self::setup(reason);
        }
        // A connection that takes too long was never there.
        Self::new(if error.is_connect() {
            Kind::Connect(error)
        } else if error.is_timeout() {
            Kind::Timeout(limit)
        } else if error.is_redirect() {
            Kind::Redirect(innermost(&error))
        } else {
            Kind::Broken(error)
        })
    }

    pub(crate) fn timeout(limit: Duration) -> Self {
        Self::new(Kind::Timeout(limit))
    }

    /// A stream that ended before it was complete.
    pub(crate) fn broken_off(reason: &'static str) -> Self {
        Self::new(Kind::BrokenOff(reason))
    }

    /// An answer that is not a success. The server's words are looked for in
    /// the body, but whatever the body is, the status is what counts.
    pub(crate) fn status_of(status: StatusCode, body: &[u8]) -> Self {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let message = ["detail", "readableMessage", "message"]
            .iter()
            .find_map(|key| match &json[*key] {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            });
        Self::new(Kind::Status {
            status,
            message: message.unwrap_or_default(),
            body: start_of(body),
        })
    }

    pub(crate) fn decode(reason: impl fmt::Display, body: &[u8]) -> Self {
        Self::new(Kind::Decode {
            reason: reason.to_string(),
            body: start_of(body),
        })
    }

    pub(crate) fn not_logged_in() -> Self {
        Self::new(Kind::NotLoggedIn)
    }

    pub(crate) fn login(reason: impl fmt::Display) -> Self {
        Self::new(Kind::Login(reason.to_string()))
    }

    pub(crate) fn in_progress(what: &'static str) -> Self {
        Self::new(Kind::InProgress(what))
    }

    pub(crate) fn preparing() -> Self {
        Self::new(Kind::Preparing)
    }

    pub(crate) fn unsupported(what: &'static str) -> Self {
        Self::new(Kind::Unsupported(what))
    }

    pub(crate) fn run_failed(name: &str, details: &str) -> Self {
        Self::new(Kind::RunFailed {
            name: name.to_owned(),
            details: details.to_owned(),
        })
    }

    pub(crate) fn file(path: &std::path::Path, source: io::Error) -> Self {
        Self::new(Kind::File {
            path: path.display().to_string(),
            source,
        })
    }

    pub(crate) fn artifact(reason: impl fmt::Display) -> Self {
        Self::new(Kind::Artifact(reason.to_string()))
    }

    pub(crate) fn setup(reason: impl fmt::Display) -> Self {
        Self::new(Kind::Setup(reason.to_string()))
    }

    /// A row or document that can't be used.
    pub(crate) fn row(number: u64, reason: impl fmt::Display) -> Self {
        let mut problems = Problems::new("the data");
        problems.add(number, reason.to_string());
        problems.into()
    }

    /// A row of a file that can't be used.
    pub(crate) fn rows(file: &str, number: u64, reason: impl fmt::Display) -> Self {
        let mut problems = Problems::new(file);
        problems.add(number, reason.to_string());
        problems.into()
    }

    /// A setting that can't be used.
    pub(crate) fn invalid(field: &str, value: impl fmt::Display, limit: &str) -> Self {
        Self::from(InvalidField {
            field: field.to_owned(),
            value: value.to_string(),
            limit: limit.to_owned(),
        })
    }

    /// Data that can't be used as a whole.
    pub(crate) fn data(data: &str, reason: impl fmt::Display) -> Self {
        let mut problems = Problems::new(data);
        problems.add(0, reason.to_string());
        problems.into()
    }

    /// Returns what is wrong with the data, where that is the error.
    pub(crate) fn into_problems(self) -> Result<Problems> {
        match self.0.kind {
            Kind::Data(problems) => Ok(problems),
            _ => Err(self),
        }
    }

    /// A word for logs, which shows nothing of the call.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.0.kind {
            Kind::Connect(_) => "connect",
            Kind::Timeout(_) => "timeout",
            Kind::Broken(_) | Kind::BrokenOff(_) => "broken",
            Kind::Status { .. } => "status",
            Kind::Decode { .. } => "decode",
            Kind::Redirect(_) => "redirect",
            _ => "other",
        }
    }

    pub(crate) fn at(mut self, url: &Url) -> Self {
        let mut url = url.clone();
        // Addresses may carry credentials, and download addresses a key.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        if url.path().starts_with("/v2/download/") {
            url.set_path("/v2/download/...");
        }
        self.0.url = Some(url);
        self
    }

    /// Notes the proxy that the call went to.
    pub(crate) fn through(mut self, proxy: Option<String>) -> Self {
        self.0.proxy = proxy;
        self
    }

    /// Notes the request's name, where the server has not given it another.
    pub(crate) fn request(mut self, id: &str) -> Self {
        self.0.request_id.get_or_insert_with(|| id.to_owned());
        self
    }

    /// Notes how long the server asks to wait.
    pub(crate) fn asking_to_wait(mut self, pause: Option<Duration>) -> Self {
        self.0.retry_after = pause;
        self
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Notes whether an earlier try may have had its effect.
    pub(crate) fn maybe_done(mut self, maybe: bool) -> Self {
        self.0.maybe_done = maybe;
        self
    }

    pub(crate) fn is_maybe_done(&self) -> bool {
        self.0.maybe_done
    }

    pub(crate) fn after(mut self, attempts: u32, elapsed: Duration) -> Self {
        self.0.attempts = attempts;
        self.0.elapsed = elapsed;
        self
    }

    /// Nobody answers at the address.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_connect() {
    ///     eprintln!("is `finetuner-server serve` started?");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Is the backend started (`finetuner-server serve`), and is
    /// `JINA_FINETUNER_REGISTRY` its address? From another machine it must
    /// listen on more than loopback (`--address 0.0.0.0:8642`), and a firewall
    /// or a proxy (`HTTPS_PROXY`, `NO_PROXY`) may stand between; the message
    /// names the proxy that was used. A name that
    /// can't be resolved and a certificate that is not trusted count too; the
    /// message ends with the cause. The call was never sent, so that repeating
    /// it is safe.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.0.kind, Kind::Connect(_))
    }

    /// An answer, or the next part of it, took too long.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_timeout() {
    ///     eprintln!("the server is busy");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// The server is busy, or the connection slow. Limits are set with
    /// [`Builder::timeout`](crate::Builder::timeout) and
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout). A call that
    /// creates something may have had its effect: look before repeating it.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout(_))
    }

    /// There is no token, or the server does not accept it.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_unauthorized() {
    ///     eprintln!("log in again");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Tokens are looked for in code, `JINA_AUTH_TOKEN`, the keyring and
    /// `~/.jina/config.json`, in this order, and the first one found is used: an
    /// old `JINA_AUTH_TOKEN` hides a good stored one. A stored token is used for
    /// the backend that it was stored for and for no other, and the Python
    /// client's `auth_token` for Jina AI only. Tokens may have an end date. `Finetuner::login().force(true)` gets
    /// a new one.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.0.kind, Kind::NotLoggedIn | Kind::Login(_)) || self.status() == Some(401)
    }

    /// The token is good, but not for this.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_forbidden() {
    ///     eprintln!("this token is for reading alone");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// What is asked for belongs to somebody else who has not made it public.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status() == Some(403)
    }

    /// There is no experiment, run or data of that name.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_not_found() {
    ///     eprintln!("there is no such run");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Names are case-sensitive, and each user's own: the data of another user
    /// is `owner/name`. Runs are looked for in the experiment `default` unless
    /// another is named. `list_runs`, `list_experiments` and `list_documents`
    /// show what there is.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// There is something of that name already.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_conflict() {
    ///     eprintln!("the name is taken");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Choose another name, leave it out to have one made up, or delete what
    /// has it (`delete_run`, `delete_experiment`).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    /// More was sent than the server takes.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_too_large() {
    ///     eprintln!("split the data");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// An upload may have 4 GiB: split the data, or make its pictures smaller;
    /// models look at 224 pixels a side.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.status() == Some(413)
            || matches!(
                &self.0.kind,
                Kind::Documents(DocumentError::TooLarge { .. })
            )
    }

    /// Too many calls came in too short a time.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_rate_limited() {
    ///     eprintln!("later, perhaps");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// The client waits as long as the server asks for, within the limits of its
    /// [`RetryPolicy`](crate::RetryPolicy). Call less often, or allow longer
    /// pauses with [`RetryPolicy::pause_limit`](crate::RetryPolicy::pause_limit).
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.status() == Some(429)
    }

    /// The server, or a proxy before it, has failed.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_server() {
    ///     eprintln!("the server's log says why");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Its operator finds the call in the log under [`Error::request_id`].
    /// [`Error::body`] is the start of what came in place of an answer.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.status().is_some_and(|status| status >= 500)
    }

    /// A setting or the data can't be used; the message names the field.
    /// Nothing was created.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_invalid() {
    ///     eprintln!("an argument can't be used");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// The message says which argument of the call it is, what it was and what
    /// it may be. [`Error::is_data`] tells data from settings.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::Invalid(_) | Kind::Data(_) | Kind::Documents(_)
        ) || matches!(self.status(), Some(400 | 422))
    }

    /// The data can't be used; the message names the rows or documents.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_data() {
    ///     eprintln!("rows of the file can't be used");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// [`Error::problems`] lists them, each with its number and the reason.
    /// Nothing was stored.
    #[must_use]
    pub fn is_data(&self) -> bool {
        matches!(self.0.kind, Kind::Data(_) | Kind::Documents(_))
    }

    /// What is wrong with the data, row by row or document by document.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// for problem in error.problems().iter().flat_map(|all| &all.problems) {
    ///     eprintln!("{}: {}", problem.number, problem.reason);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn problems(&self) -> Option<&Problems> {
        match &self.0.kind {
            Kind::Data(problems) => Some(problems),
            _ => None,
        }
    }

    /// What was asked for is there only once the run has finished.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_run_in_progress() {
    ///     eprintln!("it has not finished yet");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// `run.wait().await` returns when it has.
    #[must_use]
    pub fn is_run_in_progress(&self) -> bool {
        matches!(self.0.kind, Kind::InProgress(_))
    }

    /// What was asked for is there only once the run has started.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_run_preparing() {
    ///     eprintln!("it has not begun yet");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// The run waits for others before it. `stream_logs` waits with it.
    #[must_use]
    pub fn is_run_preparing(&self) -> bool {
        matches!(self.0.kind, Kind::Preparing)
    }

    /// The run has failed; its log says why.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_run_failed() {
    ///     eprintln!("its log says why");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// The message ends with the reason, and `run.logs()` shows what led there.
    /// A failed run is not repeated: submit it again under another name.
    #[must_use]
    pub fn is_run_failed(&self) -> bool {
        matches!(self.0.kind, Kind::RunFailed { .. })
    }

    /// The backend does not have what was asked for.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_unsupported() {
    ///     eprintln!("this server can't do that");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Backends older than this client, and other implementations of the same
    /// API, know fewer calls. Use a newer `finetuner-server`.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.0.kind, Kind::Unsupported(_))
    }

    /// The answer was not what the API promises.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_decode() {
    ///     eprintln!("is that a Finetuner server?");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Is the address that of a Finetuner backend? A login page of a proxy or
    /// another web server answers too. [`Error::body`] is the start of what
    /// came.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        matches!(self.0.kind, Kind::Decode { .. } | Kind::Redirect(_))
    }

    /// A download is not what was announced, or no model.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_artifact() {
    ///     eprintln!("what came is not what was announced");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// Nothing was written. Download it again; where that fails too, the
    /// backend's storage is damaged.
    #[must_use]
    pub fn is_artifact(&self) -> bool {
        matches!(self.0.kind, Kind::Artifact(_))
    }

    /// A file or folder of this machine can't be read or written.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_file() {
    ///     eprintln!("a file can't be read or written");
    /// }
    /// # }
    /// ```
    ///
    /// # Troubleshooting
    /// The message begins with the path and ends with the system's reason.
    /// Nothing half-written is left.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.0.kind, Kind::File { .. })
    }

    /// The same call may succeed later. Calls are repeated before they fail,
    /// so waiting longer than that is what may help.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.is_retryable() {
    ///     eprintln!("it may be better later");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match &self.0.kind {
            Kind::Connect(_) | Kind::Timeout(_) | Kind::Broken(_) | Kind::BrokenOff(_) => true,
            Kind::Status { status, .. } => is_passing(*status),
            _ => false,
        }
    }

    /// The HTTP status, where the server answered with an error.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// if error.status() == Some(503) {
    ///     eprintln!("not now");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.0.kind {
            Kind::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// The server's own words.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// eprintln!("{}", error.server_message().unwrap_or("the server said nothing"));
    /// # }
    /// ```
    #[must_use]
    pub fn server_message(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Status { message, .. } if !message.is_empty() => Some(message),
            _ => None,
        }
    }

    /// The start of an answer that could not be understood or was an error.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// eprintln!("{}", error.body().unwrap_or_default());
    /// # }
    /// ```
    #[must_use]
    pub fn body(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Status { body, .. } | Kind::Decode { body, .. } => Some(body),
            _ => None,
        }
    }

    /// The name of the request, for the server's operator: the server's own, or
    /// the one that was sent along.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// eprintln!("{}", error.request_id().unwrap_or("unknown"));
    /// # }
    /// ```
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// How often the call was made.
    ///
    /// ```no_run
    /// # fn example(error: finetuner::Error) {
    /// eprintln!("tried {} times", error.attempts());
    /// # }
    /// ```
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }
}

/// Statuses that go away by themselves. Those from 520 on are a proxy's, of a
/// server behind it that does not answer.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        408 | 425 | 429 | 500 | 502..=504 | 520..=524
    )
}

/// Returns why the body of a request could not be made, where that broke it.
fn not_made(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An `io::Error` is not the source of itself.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let own = error.downcast_ref::<NotMade>();
        if let Some(own) = own.or_else(|| inner?.downcast_ref()) {
            return Some(own.to_string());
        }
        cause = error.source();
    }
    None
}

/// Whether a body is a web page.
pub(crate) fn is_web_page(body: &[u8]) -> bool {
    let start = start_of(body).trim_start().to_ascii_lowercase();
    let is_page = |tag| start.starts_with(tag);
    ["<!doctype html", "<html", "<head", "<body"]
        .iter()
        .any(is_page)
}

/// What an answer says that is not a success.
fn words<'a>(status: StatusCode, message: &'a str, body: &'a str) -> Cow<'a, str> {
    match (message, status.is_server_error()) {
        ("", true) if is_web_page(body.as_bytes()) => format!(
            "this is not a Finetuner backend, or a proxy whose backend does not answer; a web \
             page came: {body}"
        )
        .into(),
        ("", false) if is_web_page(body.as_bytes()) => {
            format!("this is not a Finetuner backend; a web page came: {body}").into()
        }
        ("", _) => body.into(),
        (message, _) => message.into(),
    }
}

/// What an answer is that makes no sense.
fn not_understood(reason: &str, body: &str) -> String {
    match is_web_page(body.as_bytes()) {
        true => format!("this is not a Finetuner backend; a web page came: {body}"),
        false => format!("the answer can't be understood: {reason}: {body}"),
    }
}

pub(crate) fn start_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * BODY_START)]);
    text.chars().take(BODY_START).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where the server had its say, its address says nothing new.
        if let Some(url) = self
            .0
            .url
            .as_ref()
            .filter(|_| self.server_message().is_none())
        {
            write!(f, "{url}: ")?;
        }
        match (&self.0.kind, &self.0.proxy) {
            (Kind::Connect(cause), Some(proxy)) => write!(
                f,
                "not reached through the proxy {proxy} ({}). Is it the right proxy, and does it \
                 run? NO_PROXY lists the hosts that are reached without one",
                innermost(cause)
            )?,
            (kind, _) => kind.fmt(f)?,
        }
        if let (Some(407), Some(proxy)) = (self.status(), &self.0.proxy) {
            write!(
                f,
                " from the proxy {proxy}, whose address takes `user:password@`"
            )?;
        }
        if let Some(id) = self.request_id().filter(|_| self.status().is_some()) {
            write!(f, " [request {id}]")?;
        }
        if let Some(pause) = self.0.retry_after.filter(|pause| !pause.is_zero()) {
            write!(f, " (the server asks to wait {pause:?})")?;
        }
        match self.0.attempts {
            0 | 1 => Ok(()),
            n => write!(f, " (after {n} tries in {:.1?})", self.0.elapsed),
        }
    }
}

/// The cause that says what happened; those around it say that something did.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("attempts", &self.0.attempts)
            .field("elapsed", &self.0.elapsed)
            .field("url", &self.0.url.as_ref().map(Url::as_str))
            .field("proxy", &self.0.proxy)
            .field("request_id", &self.0.request_id)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.kind.source()
    }
}

impl From<InvalidField> for Error {
    fn from(field: InvalidField) -> Self {
        Self::new(Kind::Invalid(field))
    }
}

impl From<DocumentError> for Error {
    fn from(error: DocumentError) -> Self {
        Self::new(Kind::Documents(error))
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::new(Kind::Data(problems))
    }
}
