//! Work that continues when its client disconnects.

use crate::error::{ApiError, Result};

/// Does work to its end, even if nobody waits for it any more: what follows a
/// change of the database must not be left out because a client has gone.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|e| ApiError::internal(&e))?
}
