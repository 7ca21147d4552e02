//! Upload of a content to the store.
//!
//! An upload receives bytes and is sealed after the last one. It is then moved
//! to its place under the SHA-256 of what the store really holds. If its owner
//! is cancelled at any point, nothing incomplete and no temporary file is kept.

use bytes::Bytes;
use object_store::{ObjectStoreExt, buffered::BufWriter, path::Path};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{Hold, MAX_ARTIFACT_BYTES, Store, Stored, place};
use crate::{
    error::{ApiError, Result},
    secret,
};

/// Size from which bytes are hashed on a blocking thread.
const LARGE: usize = 256 << 10;

/// Check of an upload's size before more bytes are accepted.
type Check = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// An upload in progress. If it is dropped before [`Upload::seal`], it leaves
/// nothing in the store.
pub(crate) struct Upload {
    store: Store,
    /// `None` after sealing.
    out: Option<BufWriter>,
    path: Path,
    hash: Sha256,
    size: u64,
    /// Whether the store has all counted bytes. False during a write, and after a
    /// write that failed or was cancelled.
    whole: bool,
    check: Option<Check>,
}

impl Upload {
    pub(super) fn new(store: &Store) -> Self {
        let path = Path::from_iter(["uploads".to_owned(), secret::new_id()]);
        Self {
            store: store.clone(),
            out: Some(BufWriter::new(store.objects(), path.clone())),
            path,
            hash: Sha256::new(),
            size: 0,
            whole: true,
            check: None,
        }
    }

    /// Adds a check of every new size.
    pub(crate) fn checked(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// Adds bytes. After an error or a cancellation, the upload accepts no more.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let size = self.size + bytes.len() as u64;
        if size > MAX_ARTIFACT_BYTES {
            return Err(ApiError::too_large(format!(
                "an artifact must not be larger than {} GiB: split it",
                MAX_ARTIFACT_BYTES >> 30
            )));
        }
        if let Some(check) = &self.check {
            check(size)?;
        }
        let out = match &mut self.out {
            Some(out) if self.whole => out,
            _ => return Err(interrupted()),
        };
        self.whole = false;
        let hash = std::mem::take(&mut self.hash);
        self.hash = hashed(hash, bytes.clone()).await?;
        out.put(bytes).await?;
        self.size = size;
        self.whole = true;
        Ok(())
    }

    /// Returns the number of bytes received.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Ends the upload and verifies what the store holds against what was received.
    pub(crate) async fn seal(mut self) -> Result<Sealed> {
        let out = self.out.take().filter(|_| self.whole);
        let mut out = out.ok_or_else(interrupted)?;
        let sealed = Sealed {
            store: self.store.clone(),
            path: self.path.clone(),
            content: hex::encode(std::mem::take(&mut self.hash).finalize()),
            size: self.size,
            placed: false,
        };
        // Runs in its own task, so that it completes if this call is cancelled.
        let ended = tokio::spawn(async move {
            out.shutdown().await?;
            sealed.verify().await?;
            Ok::<_, ApiError>(sealed)
        });
        ended.await.map_err(|e| ApiError::internal(&e))?
    }
}

fn interrupted() -> ApiError {
    ApiError::conflict("the upload was interrupted while it was stored: start it again")
}

/// Hashes bytes; large pieces on a blocking thread.
async fn hashed(mut hash: Sha256, bytes: Bytes) -> Result<Sha256> {
    if bytes.len() < LARGE {
        hash.update(&bytes);
        return Ok(hash);
    }
    let hashed = tokio::task::spawn_blocking(move || {
        hash.update(&bytes);
        hash
    });
    hashed.await.map_err(|e| ApiError::internal(&e))
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut out) = self.out.take() else {
            return;
        };
        // An S3 store keeps the parts of an unfinished upload, and charges for them,
        // until it is aborted.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let path = self.path.clone();
            runtime.spawn(async move {
                if let Err(error) = out.abort().await {
                    tracing::warn!("The upload {path} can't be aborted: {error}");
                }
            });
        }
    }
}

/// A complete content without its final place. Removed when dropped.
pub(crate) struct Sealed {
    store: Store,
    path: Path,
    content: String,
    size: u64,
    placed: bool,
}

impl Sealed {
    /// Returns the SHA-256 as hex digits.
    pub(crate) fn content(&self) -> &str {
        &self.content
    }

    async fn verify(&self) -> Result<()> {
        let (size, hash) = self.store.digest(&self.path).await?;
        if (size, hash.as_str()) == (self.size, self.content.as_str()) {
            return Ok(());
        }
        tracing::error!(
            "The store holds {size} bytes with SHA-256 {hash} of an upload of {} bytes with \
             SHA-256 {}",
            self.size,
            self.content
        );
        Err(ApiError::unavailable(
            "the store did not keep the bytes that were sent: send them again",
        ))
    }

    /// Moves the content to its place. `hold` must be a hold of this content.
    pub(crate) async fn place(mut self, hold: Hold) -> Result<Stored> {
        // Runs in its own task, so that the content is held until the move has
        // completed or failed, even if this call is cancelled.
        let placed = tokio::spawn(async move {
            let place = place(&self.content);
            self.store.objects().rename(&self.path, &place).await?;
            self.placed = true;
            drop(hold);
            Ok::<_, ApiError>(Stored {
                content: std::mem::take(&mut self.content),
                size: self.size,
            })
        });
        placed.await.map_err(|e| ApiError::internal(&e))?
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, path) = (self.store.objects(), self.path.clone());
            runtime.spawn(async move {
                match store.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => tracing::warn!("The upload {path} can't be removed: {error}"),
                }
            });
        }
    }
}
