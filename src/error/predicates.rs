//! How to tell errors apart, and what to do about each.

use finetuner_protocol::DocumentError;

use super::{Error, Kind, is_passing};
use crate::data::Problems;

impl Error {
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
