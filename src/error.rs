//! What can go wrong, and how to tell.

use std::{fmt, io, time::Duration};

use finetuner_protocol::{DocumentError, InvalidField};
use reqwest::StatusCode;
use url::Url;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The most of an answer's body that an error keeps.
const BODY_START: usize = 500;

/// Why a call did not do what was asked. What kind of failure it was is told
/// by the methods that begin with `is_`.
///
/// No token is ever part of an error.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    /// Tries made, where there was more than one.
    attempts: u32,
    url: Option<Url>,
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
    #[error("{} ({status})", if message.is_empty() { body } else { message })]
    Status {
        status: StatusCode,
        message: String,
        body: String,
        request_id: Option<String>,
    },
    #[error("the answer can't be understood: {reason}: {body}")]
    Decode { reason: String, body: String },
    #[error(
        "there is no token: set JINA_AUTH_TOKEN, or give one with \
         `Finetuner::builder().token(..)`. A backend prints its first token when it starts, and \
         `finetuner-server token` makes more"
    )]
    NotLoggedIn,
    #[error(transparent)]
    Invalid(InvalidField),
    #[error("The run needs to be finished in order to {0}.")]
    InProgress(&'static str),
    #[error("The run `{name}` failed, please check the `logs` for detailed information: {details}")]
    RunFailed { name: String, details: String },
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
            url: None,
        }))
    }

    pub(crate) fn transport(error: reqwest::Error, limit: Duration) -> Self {
        let error = error.without_url();
        Self::new(if error.is_timeout() {
            Kind::Timeout(limit)
        } else if error.is_connect() {
            Kind::Connect(error)
        } else {
            Kind::Broken(error)
        })
    }

    pub(crate) fn timeout(limit: Duration) -> Self {
        Self::new(Kind::Timeout(limit))
    }

    /// An answer that is not a success. The server's words are looked for in
    /// the body, but whatever the body is, the status is what counts.
    pub(crate) fn status_of(status: StatusCode, request_id: Option<String>, body: &[u8]) -> Self {
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
            request_id,
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

    pub(crate) fn in_progress(what: &'static str) -> Self {
        Self::new(Kind::InProgress(what))
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

    pub(crate) fn after(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Nobody answers at the address.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.0.kind, Kind::Connect(_))
    }

    /// An answer, or the next part of it, took too long.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout(_))
    }

    /// There is no token, or the server does not accept it.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.0.kind, Kind::NotLoggedIn) || self.status() == Some(401)
    }

    /// There is no experiment, run or data of that name.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// There is something of that name already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    /// A setting or the data can't be used; the message names the field.
    /// Nothing was created.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.0.kind, Kind::Invalid(_)) || matches!(self.status(), Some(400 | 422))
    }

    /// What was asked for is there only once the run has finished.
    #[must_use]
    pub fn is_run_in_progress(&self) -> bool {
        matches!(self.0.kind, Kind::InProgress(_))
    }

    /// The run has failed; its log says why.
    #[must_use]
    pub fn is_run_failed(&self) -> bool {
        matches!(self.0.kind, Kind::RunFailed { .. })
    }

    /// The same call may succeed later. Calls are repeated before they fail,
    /// so waiting longer than that is what may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match &self.0.kind {
            Kind::Connect(_) | Kind::Timeout(_) | Kind::Broken(_) => true,
            Kind::Status { status, .. } => is_passing(*status),
            _ => false,
        }
    }

    /// The HTTP status, where the server answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.0.kind {
            Kind::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// The server's own words.
    #[must_use]
    pub fn server_message(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Status { message, .. } if !message.is_empty() => Some(message),
            _ => None,
        }
    }

    /// The start of an answer that could not be understood or was an error.
    #[must_use]
    pub fn body(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Status { body, .. } | Kind::Decode { body, .. } => Some(body),
            _ => None,
        }
    }

    /// The server's name for the request, for its operator.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Status { request_id, .. } => request_id.as_deref(),
            _ => None,
        }
    }
}

/// Statuses that go away by themselves.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}

fn start_of(body: &[u8]) -> String {
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
        self.0.kind.fmt(f)?;
        if let Some(id) = self.request_id() {
            write!(f, " [request {id}]")?;
        }
        match self.0.attempts {
            0 | 1 => Ok(()),
            n => write!(f, " (after {n} tries)"),
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
            .field("url", &self.0.url.as_ref().map(Url::as_str))
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
