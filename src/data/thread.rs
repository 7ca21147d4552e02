//! Blocking work outside the async threads.

use crate::error::{Error, Result};

/// Runs blocking work in a thread for blocking tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(thread_error)?
}

/// Converts a thread's panic or cancellation into an error.
pub(super) fn thread_error(error: tokio::task::JoinError) -> Error {
    let Ok(panic) = error.try_into_panic() else {
        return Error::setup("the program ended before this task was done");
    };
    let message = match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "without a message".to_owned(),
        },
    };
    Error::setup(format!(
        "a thread panicked, perhaps in code that the program passed in: {message}"
    ))
}
