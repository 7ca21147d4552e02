//! Work that continues when its client disconnects.

use crate::error::{ApiError, Result};

/// Runs work to its end even if the caller is cancelled: the steps after a change
/// of the database must not be skipped because a client has disconnected.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|e| ApiError::internal(&e))?
}
