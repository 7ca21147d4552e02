//! Failures of commands: one sentence and an exit code.

use std::{fmt, io, process::ExitCode};

/// The exit codes as `--help` shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the run failed, or another error
  2    an option, its value or the data behind it can't be used
  3    there is no run, experiment, data or token of that name
  4    not logged in, or the token is not accepted
  130  interrupted by Ctrl-C";

/// Failure of a command.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// Creates an error without a specific exit code.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }

    /// Creates the error of an option, or of the file or data that it names.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 2,
        }
    }

    /// Creates the error of a name that does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 3,
        }
    }

    /// Creates the error after Ctrl-C; `hint` says how to continue.
    pub(crate) fn interrupted(hint: Option<String>) -> Self {
        Self {
            message: match hint {
                Some(hint) => format!("interrupted. {hint}"),
                None => "interrupted".to_owned(),
            },
            code: 130,
        }
    }

    /// Names what was deleted before a deletion failed, and what was not.
    pub(crate) fn after_deleting(self, deleted: &[String], left: &[String]) -> Self {
        if deleted.is_empty() {
            return self;
        }
        let (deleted, left) = (deleted.join(", "), left.join(", "));
        Self {
            message: format!("deleted {deleted}, but not {left}: {}", self.message),
            ..self
        }
    }

    /// Creates the silent success of a closed output, such as after `| head`.
    fn unread() -> Self {
        Self {
            message: String::new(),
            code: 0,
        }
    }

    /// Creates the error of a file that can't be read or written.
    pub(crate) fn file(option: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::usage(format!("`{option} {}`: {error}", path.display()))
    }

    /// Whether nothing is printed.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Converts a failed write to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::unread(),
            _ => Self::failed(format!("standard output can't be written: {error}")),
        }
    }
}

impl From<finetuner::Error> for Failure {
    fn from(error: finetuner::Error) -> Self {
        if error.is_unauthorized() {
            return Self {
                message: match error.status() {
                    // The SDK's message is for programs.
                    None if error.to_string().contains("there is no token") => {
                        "you are not logged in. Run `finetuner login`, or set JINA_AUTH_TOKEN"
                            .to_owned()
                    }
                    None => error.to_string(),
                    Some(_) => format!(
                        "{error}. Run `finetuner login --force`, or set JINA_AUTH_TOKEN to \
                         another token"
                    ),
                },
                code: 4,
            };
        }
        let code = match () {
            () if error.is_not_found() => 3,
            () if error.is_invalid() => 2,
            () => 1,
        };
        let mut message = error.to_string();
        if error.is_connect() {
            let server = "`cargo run --release -p finetuner-server -- serve`";
            message = message.replace(server, "`finetuner serve`").replace(
                "set JINA_FINETUNER_REGISTRY to the address of one that runs",
                "give the address of one that runs with `--url` or JINA_FINETUNER_REGISTRY",
            );
        }
        Self { message, code }
    }
}

#[cfg(feature = "local")]
impl From<finetuner::local::Error> for Failure {
    fn from(error: finetuner::local::Error) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(feature = "embedded")]
impl From<finetuner_server::StartError> for Failure {
    fn from(error: finetuner_server::StartError) -> Self {
        Self::failed(format!("the embedded backend can't start: {error}"))
    }
}

/// Converts the end of a thread without a result.
impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::failed(format!("a thread ended early: {error}"))
    }
}

/// Result of a command.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;
