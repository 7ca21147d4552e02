//! Telling errors apart, and what to do about each.

use std::{io, time::Duration};

use finetuner_protocol::{DocumentError, InvalidField};

use super::{Error, Problems, Reason, kind::ErrorKind, words::is_passing};

impl Error {
    /// Returns the kind of failure. An error has one kind; the predicates below
    /// may overlap.
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
    /// Is the backend started (`finetuner-server serve`), and is
    /// `JINA_FINETUNER_REGISTRY` its address? From another machine it must
    /// listen on more than loopback (`--address 0.0.0.0:8642`), and a firewall
    /// or a proxy (`HTTPS_PROXY`, `NO_PROXY`) may stand between; the message
    /// names the proxy that was used. A name that can't be resolved and a
    /// certificate that is not trusted count too; the message ends with the
    /// cause. The call was never sent, so repeating it is safe.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.kind() == ErrorKind::Connect
    }

    /// Returns whether an answer, or the next part of it, took too long.
    ///
    /// # Troubleshooting
    /// The backend is busy, or the connection slow. Limits are set with
    /// [`Builder::timeout`](crate::Builder::timeout) and
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout). A call that
    /// creates something may have had its effect: look before repeating it.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Returns whether there is no token, or the backend does not accept it.
    ///
    /// # Troubleshooting
    /// Tokens are looked for in code, `JINA_AUTH_TOKEN`, the keyring and
    /// `~/.jina/config.json`, in this order, and the first one found is used: an
    /// old `JINA_AUTH_TOKEN` hides a good stored one. A stored token is used for
    /// the backend that it was stored for and for no other, and the Python
    /// client's `auth_token` for Jina AI only. Tokens may have an end date.
    /// `Finetuner::login().force(true)` gets a new one.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.kind() == ErrorKind::Unauthorized
    }

    /// Returns whether the token does not allow this call.
    ///
    /// # Troubleshooting
    /// The run, data or artifact belongs to another user who has not made it
    /// public, or the token is for reading only.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.kind() == ErrorKind::Forbidden
    }

    /// Returns whether there is no experiment, run or data of that name.
    ///
    /// # Troubleshooting
    /// Names are case-sensitive, and each user's own: the data of another user
    /// is `owner/name`. Runs are looked for in the experiment `default` unless
    /// another is named. `list_runs`, `list_experiments` and `list_documents`
    /// show what there is.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Returns whether the name is taken.
    ///
    /// # Troubleshooting
    /// Choose another name, leave it out to have one made up, or delete what
    /// has it (`delete_run`, `delete_experiment`).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.kind() == ErrorKind::Conflict
    }

    /// Returns whether more was sent than the backend takes.
    ///
    /// # Troubleshooting
    /// An upload may have 4 GiB: split the data, or make its pictures smaller;
    /// models look at 224 pixels a side.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.kind() == ErrorKind::TooLarge
    }

    /// Returns whether too many calls came in too short a time.
    ///
    /// # Troubleshooting
    /// The client waits as long as the backend asks for, within the limits of its
    /// [`RetryPolicy`](crate::RetryPolicy). Call less often, or allow longer
    /// pauses with [`RetryPolicy::pause_limit`](crate::RetryPolicy::pause_limit).
    /// [`Error::retry_after`] says how long the backend asked to wait.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.kind() == ErrorKind::RateLimited
    }

    /// Returns whether the backend, or a proxy before it, failed.
    ///
    /// # Troubleshooting
    /// Its operator finds the call in the log under [`Error::request_id`].
    /// [`Error::body`] is the start of what came in place of an answer.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.kind() == ErrorKind::Server
    }

    /// Returns whether an argument or the data can't be used. Nothing was
    /// created.
    ///
    /// # Troubleshooting
    /// The message names the argument, its value and what is allowed;
    /// [`Error::invalid_field`] has them as data. [`Error::is_data`] tells data
    /// from arguments.
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
    /// `run.wait().await` returns when it has.
    #[must_use]
    pub fn is_run_in_progress(&self) -> bool {
        self.kind() == ErrorKind::RunInProgress
    }

    /// Returns whether the run must start first.
    ///
    /// # Troubleshooting
    /// The run waits for others before it. `stream_logs` waits with it.
    #[must_use]
    pub fn is_run_preparing(&self) -> bool {
        self.kind() == ErrorKind::RunPreparing
    }

    /// Returns whether the run failed.
    ///
    /// # Troubleshooting
    /// The message ends with the reason, and `run.logs()` shows what led there.
    /// A failed run is not repeated: submit it again under another name.
    #[must_use]
    pub fn is_run_failed(&self) -> bool {
        self.kind() == ErrorKind::RunFailed
    }

    /// Returns whether the backend does not know this call.
    ///
    /// # Troubleshooting
    /// Backends older than this client, and other implementations of the same
    /// API, know fewer calls. Use a newer `finetuner-server`.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.kind() == ErrorKind::Unsupported
    }

    /// Returns whether the answer was not what the API promises.
    ///
    /// # Troubleshooting
    /// Is the address that of a Finetuner backend? A login page of a proxy or
    /// another web server answers too. [`Error::body`] is the start of what
    /// came.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        self.kind() == ErrorKind::Decode
    }

    /// Returns whether a download is not what was announced, or holds no model.
    ///
    /// # Troubleshooting
    /// Nothing was written. Download it again; where that fails too, the
    /// backend's storage is damaged.
    #[must_use]
    pub fn is_artifact(&self) -> bool {
        self.kind() == ErrorKind::Artifact
    }

    /// Returns whether a file or folder of this machine can't be read or written.
    ///
    /// # Troubleshooting
    /// The message begins with the path and ends with the system's reason, whose
    /// kind is [`Error::io_kind`]. Nothing half-written is left.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == ErrorKind::File
    }

    /// Returns whether the same call may succeed later. The client has already
    /// repeated it within its [`RetryPolicy`](crate::RetryPolicy), so wait longer
    /// than that.
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

    /// Returns the argument that can't be used, its value, and what is allowed.
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

    /// Returns what is wrong with the data, row by row or document by document.
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

    /// Returns the backend's own message.
    #[must_use]
    pub fn server_message(&self) -> Option<&str> {
        match &self.0.reason {
            Reason::Status { message, .. } if !message.is_empty() => Some(message),
            _ => None,
        }
    }

    /// Returns the start of an answer that was an error or was not understood.
    #[must_use]
    pub fn body(&self) -> Option<&str> {
        match &self.0.reason {
            Reason::Status { body, .. } | Reason::Decode { body, .. } => Some(body),
            _ => None,
        }
    }

    /// Returns the id of the request, for the backend's operator.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Returns how often the call was made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Returns how long the backend asked to wait before the next call
    /// (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the kind of the I/O error underneath, of a file or of a
    /// connection.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.0.reason {
            Reason::File { error, .. } => Some(error.kind()),
            Reason::Documents(DocumentError::Io(error)) => Some(error.kind()),
            Reason::Connect(cause) | Reason::Broken(cause) => super::words::io_kind(&**cause),
            _ => None,
        }
    }

    /// Returns the error underneath, such as one of the program's own
    /// [`Builder::http_service`](crate::Builder::http_service).
    ///
    /// The message of this error includes its message, so
    /// [`source`](std::error::Error::source) does not return it: a report that
    /// prints all sources prints each cause once.
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
