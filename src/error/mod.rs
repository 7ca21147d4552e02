//! The error type of the crate.

mod kind;
mod made;
mod predicates;
mod words;

use std::{fmt, io, time::Duration};

use finetuner_data::Problems;
use finetuner_protocol::{DocumentError, InvalidField};
use reqwest::StatusCode;
use url::Url;

pub use kind::ErrorKind;
pub(crate) use words::{NotMade, is_passing, is_web_page, start_of};
use words::{failure_message, innermost, io_kind, not_made, not_understood};

/// An error of any type.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// [`Error::kind`] and the predicates (`is_..`) distinguish failures; each
/// predicate explains the remedy. The message is complete: it includes the causes
/// and the backend's message. An error never contains a token.
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
    reason: Reason,
    /// Number of attempts, and the total time they took.
    attempts: u32,
    elapsed: Duration,
    url: Option<Url>,
    /// Proxy of the call, without its password.
    proxy: Option<String>,
    request_id: Option<String>,
    /// Pause that the server requested with `Retry-After`.
    retry_after: Option<Duration>,
    /// Whether an earlier attempt may have taken effect.
    maybe_done: bool,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(
        "nobody answers ({}). Start a backend with `cargo run --release -p finetuner-server -- \
         serve`, or set JINA_FINETUNER_REGISTRY to the address of one that runs",
        innermost(.0.as_ref())
    )]
    Connect(BoxError),
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    #[error("the connection broke: {}", innermost(.0.as_ref()))]
    Broken(BoxError),
    #[error("{0}")]
    BrokenOff(&'static str),
    #[error("{} ({status})", failure_message(*status, message, body))]
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
    #[error("{0}")]
    Documents(DocumentError),
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
    #[error("the artifact can't be used: {0}")]
    Artifact(String),
    #[error("{0}")]
    Setup(String),
}

impl Error {
    fn new(reason: Reason) -> Self {
        Self(Box::new(Inner {
            reason,
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
        // A connection that takes too long was never established.
        Self::new(if error.is_connect() {
            Reason::Connect(error.into())
        } else if error.is_timeout() {
            Reason::Timeout(limit)
        } else if error.is_redirect() {
            Reason::Redirect(innermost(&error))
        } else {
            Reason::Broken(error.into())
        })
    }

    /// Converts an error of the program's own HTTP service.
    pub(crate) fn service(error: BoxError, limit: Duration) -> Self {
        let error = match error.downcast::<reqwest::Error>() {
            Ok(error) => return Self::transport(*error, limit),
            Err(error) => error,
        };
        if let Some(reason) = not_made(&*error) {
            return Self::setup(reason);
        }
        Self::new(match io_kind(&*error) {
            Some(io::ErrorKind::ConnectionRefused) => Reason::Connect(error),
            Some(io::ErrorKind::TimedOut) => Reason::Timeout(limit),
            _ => Reason::Broken(error),
        })
    }

    pub(crate) fn timeout(limit: Duration) -> Self {
        Self::new(Reason::Timeout(limit))
    }

    /// Creates the error of a stream that ended early.
    pub(crate) fn broken_off(reason: &'static str) -> Self {
        Self::new(Reason::BrokenOff(reason))
    }

    /// Creates the error of an answer that is not a success. The body may contain
    /// a message of the server, but the status alone decides the kind.
    pub(crate) fn status_of(status: StatusCode, body: &[u8]) -> Self {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let message = ["detail", "readableMessage", "message"]
            .iter()
            .find_map(|key| match &json[*key] {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            });
        Self::new(Reason::Status {
            status,
            message: message.unwrap_or_default(),
            body: start_of(body),
        })
    }

    pub(crate) fn decode(reason: impl fmt::Display, body: &[u8]) -> Self {
        Self::new(Reason::Decode {
            reason: reason.to_string(),
            body: start_of(body),
        })
    }

    pub(crate) fn not_logged_in() -> Self {
        Self::new(Reason::NotLoggedIn)
    }

    pub(crate) fn login(reason: impl fmt::Display) -> Self {
        Self::new(Reason::Login(reason.to_string()))
    }

    pub(crate) fn in_progress(what: &'static str) -> Self {
        Self::new(Reason::InProgress(what))
    }

    pub(crate) fn preparing() -> Self {
        Self::new(Reason::Preparing)
    }

    pub(crate) fn unsupported(what: &'static str) -> Self {
        Self::new(Reason::Unsupported(what))
    }

    pub(crate) fn run_failed(name: &str, details: &str) -> Self {
        Self::new(Reason::RunFailed {
            name: name.to_owned(),
            details: details.to_owned(),
        })
    }

    pub(crate) fn file(path: &std::path::Path, error: io::Error) -> Self {
        Self::new(Reason::File {
            path: path.display().to_string(),
            error,
        })
    }

    pub(crate) fn artifact(reason: impl fmt::Display) -> Self {
        Self::new(Reason::Artifact(reason.to_string()))
    }

    pub(crate) fn setup(reason: impl fmt::Display) -> Self {
        Self::new(Reason::Setup(reason.to_string()))
    }

    /// Creates the error of a setting that can't be used.
    pub(crate) fn invalid(field: &str, value: impl fmt::Display, limit: &str) -> Self {
        InvalidField::new(field, value, limit).into()
    }

    pub(crate) fn at(mut self, url: &Url) -> Self {
        let mut url = url.clone();
        // Addresses may contain credentials, and download addresses a key.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        // A backend behind a proxy may have a path before its own.
        if let Some((base, _)) = url.path().split_once("/v2/download/") {
            let path = format!("{base}/v2/download/...");
            url.set_path(&path);
        }
        self.0.url = Some(url);
        self
    }

    /// Records the proxy of the call.
    pub(crate) fn through(mut self, proxy: Option<String>) -> Self {
        self.0.proxy = proxy;
        self
    }

    /// Records the request's id, unless the server assigned another.
    pub(crate) fn request(mut self, id: &str) -> Self {
        self.0.request_id.get_or_insert_with(|| id.to_owned());
        self
    }

    /// Records how long the server asks the client to wait.
    pub(crate) fn asking_to_wait(mut self, pause: Option<Duration>) -> Self {
        self.0.retry_after = pause;
        self
    }

    /// Records whether an earlier attempt may have taken effect.
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
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // If the server sent a message, its address adds nothing.
        if let Some(url) = self
            .0
            .url
            .as_ref()
            .filter(|_| self.server_message().is_none())
        {
            write!(f, "{url}: ")?;
        }
        match (&self.0.reason, &self.0.proxy) {
            (Reason::Connect(cause), Some(proxy)) => write!(
                f,
                "not reached through the proxy {proxy} ({}). Check the proxy's address and that it \
                 is running. NO_PROXY lists hosts that are reached without a proxy",
                innermost(cause.as_ref())
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("reason", &self.0.reason)
            .field("attempts", &self.0.attempts)
            .field("elapsed", &self.0.elapsed)
            .field("url", &self.0.url.as_ref().map(Url::as_str))
            .field("proxy", &self.0.proxy)
            .field("request_id", &self.0.request_id)
            .finish()
    }
}

// The message includes the causes; `Error::get_ref` returns them.
impl std::error::Error for Error {}

impl From<InvalidField> for Error {
    fn from(field: InvalidField) -> Self {
        Self::new(Reason::Invalid(field))
    }
}

impl From<DocumentError> for Error {
    fn from(error: DocumentError) -> Self {
        Self::new(Reason::Documents(error))
    }
}

impl From<finetuner_data::Error> for Error {
    fn from(error: finetuner_data::Error) -> Self {
        use finetuner_data::Error as Data;
        Self::new(match error {
            Data::Invalid(field) => Reason::Invalid(field),
            Data::Data(problems) => Reason::Data(problems),
            Data::File { path, error } => Reason::File { path, error },
            Data::Setup(reason) => Reason::Setup(reason),
        })
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::new(Reason::Data(problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_credentials_and_no_key_of_a_download() {
        for (address, shown) in [
            ("https://u:key@h/a?key=1", "https://h/a"),
            ("https://h/v2/download/key", "https://h/v2/download/..."),
            (
                "https://h/base/v2/download/key",
                "https://h/base/v2/download/...",
            ),
        ] {
            let error = Error::artifact("x").at(&Url::parse(address).unwrap());
            assert!(
                error.to_string().starts_with(&format!("{shown}: ")),
                "{error}"
            );
            assert!(!format!("{error:?}").contains("key"), "{error:?}");
        }
    }
}
