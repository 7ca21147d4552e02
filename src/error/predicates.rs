//! The predicates of an error, each with its remedy.

use std::{io, time::Duration};

use finetuner_protocol::{DocumentError, InvalidField};

use super::{Error, Problems, Reason, kind::ErrorKind, words::is_passing};

impl Error {
    /// Returns the kind of failure. An error has one kind, but several predicates
    /// may be true.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.0.reason {
            Reason::Connect(_) => ErrorKind::Connect,
            Reason::Timeout(_) => ErrorKind::Timeout,
            Reason::Broken(_) | Reason::BrokenOff(_) => ErrorKind::Broken,
            Reason::Status { status, .. } => match status.as_u16() {
                400 | 422 => ErrorKind::Invalid,
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                409 => ErrorKind::Conflict,
                413 => ErrorKind::TooLarge,
                429 => ErrorKind::RateLimited,
                500.. => ErrorKind::Server,
                _ => ErrorKind::Status,
            },
            Reason::Decode { .. } | Reason::Redirect(_) => ErrorKind::Decode,
            Reason::NotLoggedIn | Reason::Login(_) => ErrorKind::Unauthorized,
            Reason::Invalid(_) => ErrorKind::Invalid,
            Reason::Documents(DocumentError::TooLarge { .. }) => ErrorKind::TooLarge,
            Reason::Data(_) | Reason::Documents(_) => ErrorKind::Data,
            Reason::InProgress(_) => ErrorKind::RunInProgress,
            Reason::Preparing => ErrorKind::RunPreparing,
            Reason::RunFailed { .. } => ErrorKind::RunFailed,
            Reason::Unsupported(_) => ErrorKind::Unsupported,
            Reason::File { .. } => ErrorKind::File,
            Reason::Artifact(_) => ErrorKind::Artifact,
            Reason::Setup(_) => ErrorKind::Setup,
        }
    }

    /// Returns whether the backend could not be reached.
    ///
    /// # Troubleshooting
    /// Check that the backend is running (`finetuner-server serve`) and that
    /// `JINA_FINETUNER_REGISTRY` is its address. For other machines it must listen
    /// on more than loopback (`--address 0.0.0.0:8642`). A firewall or a proxy
    /// (`HTTPS_PROXY`, `NO_PROXY`) may block the connection; the message names the
    /// proxy that was used. Host names that can't be resolved and untrusted
    /// certificates also count; the message ends with the cause. The call was never
    /// sent, so it is safe to repeat it.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.kind() == ErrorKind::Connect
    }

    /// Returns whether an answer, or the next part of one, took too long.
    ///
    /// # Troubleshooting
    /// The backend is busy, or the connection slow. Change the limits with
    /// [`Builder::timeout`](crate::Builder::timeout) and
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout). A call that creates
    /// something may have taken effect: check before repeating it.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Returns whether there is no token, or the backend does not accept it.
    ///
    /// # Troubleshooting
    /// The client looks for a token in code, `JINA_AUTH_TOKEN`, the keyring and
    /// `~/.jina/config.json`, in this order, and uses the first one: an old
    /// `JINA_AUTH_TOKEN` hides a valid stored token. A stored token is used only for
    /// the backend that it was stored for, and the Python client's `auth_token` only
    /// for Jina AI. Tokens may expire. `Finetuner::login().force(true)` gets a new
    /// one.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.kind() == ErrorKind::Unauthorized
    }

    /// Returns whether the token does not allow this call.
    ///
    /// # Troubleshooting
    /// The message says why: the run, data or artifact belongs to another user who has
    /// not published it, the token is read-only, the user's role in the project does
    /// not allow the change, or a limit of the user or the project is reached.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.kind() == ErrorKind::Forbidden
    }

    /// Returns whether no experiment, run or data has that name.
    ///
    /// # Troubleshooting
    /// Names are case-sensitive and belong to a user; the data of another user is
    /// `owner/name`. Runs are looked up in the experiment `default` unless you name
    /// another one. `list_runs`, `list_experiments` and `list_documents` show what
    /// exists.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Returns whether the name is taken.
    ///
    /// # Troubleshooting
    /// Choose another name, omit it to get a generated one, or delete the existing
    /// item (`delete_run`, `delete_experiment`).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.kind() == ErrorKind::Conflict
    }

    /// Returns whether the upload was larger than the backend accepts.
    ///
    /// # Troubleshooting
    /// The limit for an upload is 4 GiB. Split the data, or make its images
    /// smaller: models use 224 pixels a side.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.kind() == ErrorKind::TooLarge
    }

    /// Returns whether there were too many calls in too short a time.
    ///
    /// # Troubleshooting
    /// The client waits as long as the backend asks, within the limits of its
    /// [`RetryPolicy`](crate::RetryPolicy). Call less often, or allow longer pauses
    /// with [`RetryPolicy::pause_limit`](crate::RetryPolicy::pause_limit).
    /// [`Error::retry_after`] returns the requested pause.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.kind() == ErrorKind::RateLimited
    }

    /// Returns whether the backend, or a proxy in front of it, failed.
    ///
    /// # Troubleshooting
    /// The backend's operator finds the call in the log under
    /// [`Error::request_id`]. [`Error::body`] is the start of the answer.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.kind() == ErrorKind::Server
    }

    /// Returns whether an argument or the data can't be used. Nothing was
    /// created.
    ///
    /// # Troubleshooting
    /// The message names the argument, its value and the limit;
    /// [`Error::invalid_field`] returns them separately. [`Error::is_data`]
    /// distinguishes data from arguments.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.kind() == ErrorKind::Invalid || self.is_data()
    }

    /// Returns whether the data can't be used.
    ///
    /// # Troubleshooting
    /// The message names the rows or documents; [`Error::problems`] lists them,
    /// each with its number and the reason. Nothing was stored.
    #[must_use]
    pub fn is_data(&self) -> bool {
        matches!(self.0.reason, Reason::Data(_) | Reason::Documents(_))
    }

    /// Returns whether the run must finish first.
    ///
    /// # Troubleshooting
    /// `run.wait().await` returns when the run has finished.
    #[must_use]
    pub fn is_run_in_progress(&self) -> bool {
        self.kind() == ErrorKind::RunInProgress
    }

    /// Returns whether the run must start first.
    ///
    /// # Troubleshooting
    /// The run is queued behind others. `stream_logs` waits for its start.
    #[must_use]
    pub fn is_run_preparing(&self) -> bool {
        self.kind() == ErrorKind::RunPreparing
    }

    /// Returns whether the run failed.
    ///
    /// # Troubleshooting
    /// The message ends with the reason, and `run.logs()` shows the details. The
    /// backend does not repeat a failed run: submit it again under another name.
    #[must_use]
    pub fn is_run_failed(&self) -> bool {
        self.kind() == ErrorKind::RunFailed
    }

    /// Returns whether the backend does not know this call.
    ///
    /// # Troubleshooting
    /// Backends older than this client, and other implementations of the API,
    /// support fewer calls. Use a newer `finetuner-server`.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.kind() == ErrorKind::Unsupported
    }

    /// Returns whether the answer does not follow the API.
    ///
    /// # Troubleshooting
    /// Check that the address belongs to a Finetuner backend: the login page of a
    /// proxy or another web server may have answered. [`Error::body`] is the start
    /// of the answer.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        self.kind() == ErrorKind::Decode
    }

    /// Returns whether a download is corrupt, or contains no model.
    ///
    /// # Troubleshooting
    /// Nothing was written. Download it again. If that fails too, the backend's
    /// storage is damaged.
    #[must_use]
    pub fn is_artifact(&self) -> bool {
        self.kind() == ErrorKind::Artifact
    }

    /// Returns whether a local file or folder can't be read or written.
    ///
    /// # Troubleshooting
    /// The message begins with the path and ends with the system's reason, which
    /// [`Error::io_kind`] returns as a kind. No partially written file remains.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == ErrorKind::File
    }

    /// Returns whether the same call may succeed later.
    ///
    /// The client has already repeated it within its
    /// [`RetryPolicy`](crate::RetryPolicy), so wait longer than that.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match &self.0.reason {
            Reason::Connect(_) | Reason::Timeout(_) | Reason::Broken(_) | Reason::BrokenOff(_) => {
                true
            }
            Reason::Status { status, .. } => is_passing(*status),
            _ => false,
        }
    }

    /// Returns the argument that can't be used, its value and the limit.
    ///
    /// ```
    /// # async fn example(finetuner: finetuner::Finetuner) {
    /// let fit = finetuner.fit("clip-small", "train").epochs(50);
    /// if let Err(error) = fit.await
    ///     && let Some(invalid) = error.invalid_field()
    /// {
    ///     println!("{}: {}, but {}", invalid.field, invalid.value, invalid.limit);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn invalid_field(&self) -> Option<&InvalidField> {
        match &self.0.reason {
            Reason::Invalid(field) => Some(field),
            _ => None,
        }
    }

    /// Returns the problems of the data by row or document.
    #[must_use]
    pub fn problems(&self) -> Option<&Problems> {
        match &self.0.reason {
            Reason::Data(problems) => Some(problems),
            _ => None,
        }
    }

    /// Returns the HTTP status, if the backend answered with an error.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.0.reason {
            Reason::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Returns the message that the backend sent.
    #[must_use]
    pub fn server_message(&self) -> Option<&str> {
        match &self.0.reason {
            Reason::Status { message, .. } if !message.is_empty() => Some(message),
            _ => None,
        }
    }

    /// Returns the start of an answer that was an error or could not be decoded.
    #[must_use]
    pub fn body(&self) -> Option<&str> {
        match &self.0.reason {
            Reason::Status { body, .. } | Reason::Decode { body, .. } => Some(body),
            _ => None,
        }
    }

    /// Returns the id of the request, which the backend also logs.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Returns the number of attempts.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Returns the pause that the backend asked for (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the kind of the underlying I/O error, of a file or a connection.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.0.reason {
            Reason::File { error, .. } => Some(error.kind()),
            Reason::Documents(DocumentError::Io(error)) => Some(error.kind()),
            Reason::Connect(cause) | Reason::Broken(cause) => super::words::io_kind(&**cause),
            _ => None,
        }
    }

    /// Returns the underlying error, such as one of the program's own
    /// [`Builder::http_service`](crate::Builder::http_service).
    ///
    /// The message of this error already includes it, so
    /// [`source`](std::error::Error::source) does not return it. A report that
    /// prints the chain of sources therefore prints each cause once.
    #[must_use]
    pub fn get_ref(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        match &self.0.reason {
            Reason::Connect(cause) | Reason::Broken(cause) => {
                Some(&**cause as &(dyn std::error::Error + Send + Sync))
            }
            Reason::File { error, .. } => Some(error),
            Reason::Documents(error) => Some(error),
            _ => None,
        }
    }
}
