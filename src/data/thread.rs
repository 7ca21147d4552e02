//! Work that blocks, off the async threads.

use crate::error::{Error, Result};

/// Does something that blocks, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// The error of a thread that ended without a result.
pub(super) fn ended(error: tokio::task::JoinError) -> Error {
    let Ok(panic) = error.try_into_panic() else {
        return Error::setup("the program ended before this was done");
    };
    let message = match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "it did not say why".to_owned(),
        },
    };
    Error::setup(format!(
        "a thread panicked, perhaps in code that the program gave: {message}"
    ))
}
