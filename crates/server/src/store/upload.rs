//! Contents on their way in. An upload takes bytes, is sealed when all have
//! come, and gets its place under the SHA-256 of what the store really holds.
//! Wherever its owner is cancelled, nothing is left and nothing wrong is kept.

use bytes::Bytes;
use object_store::{ObjectStoreExt, buffered::BufWriter, path::Path};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{Hold, MAX_ARTIFACT_BYTES, Store, Stored, place};
use crate::{
    error::{ApiError, Result},
    secret::{self, hex},
};

/// Bytes that are hashed on a thread of their own.
const LARGE: usize = 256 << 10;

/// A check of an upload's size, made before more bytes are taken.
type Check = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// A content on its way in. Dropped before [`Upload::seal`], it leaves nothing.
pub(crate) struct Upload {
    store: Store,
    /// None once it is sealed.
    out: Option<BufWriter>,
    path: Path,
    hash: Sha256,
    size: u64,
    /// Whether all bytes counted above are with the store. Not so while some
    /// are being written, or when that was broken off.
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

    /// Makes `check` decide about every size before the upload gets it.
    pub(crate) fn checked(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// Adds bytes. If this is cancelled or fails, the upload takes no more.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let size = self.size + bytes.len() as u64;
        if size > MAX_ARTIFACT_BYTES {
            return Err(ApiError::too_large(format!(
                "an artifact may have {} GiB at most: split it",
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

    /// How many bytes have come.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Ends the upload, and compares what the store holds with what has come.
    pub(crate) async fn seal(mut self) -> Result<Sealed> {
        let out = self.out.take().filter(|_| self.whole);
        let mut out = out.ok_or_else(interrupted)?;
        let sealed = Sealed {
            store: self.store.clone(),
            path: self.path.clone(),
            content: hex(&std::mem::take(&mut self.hash).finalize()),
            size: self.size,
            placed: false,
        };
        // Goes on where this call is cancelled, so that it ends in order.
        let ended = tokio::spawn(async move {
            out.shutdown().await?;
            sealed.verify().await?;
            Ok::<_, ApiError>(sealed)
        });
        ended.await.map_err(|e| ApiError::internal(&e))?
    }
}

fn interrupted() -> ApiError {
    ApiError::conflict("the upload was interrupted while it was stored: begin it again")
}

/// Hashes bytes, and many of them off the async threads.
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
        // A store keeps, and charges for, the parts of an upload that is not
        // aborted.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let path = self.path.clone();
            runtime.spawn(async move {
                if let Err(error) = out.abort().await {
                    tracing::warn!("The upload {path} could not be aborted: {error}");
                }
            });
        }
    }
}

/// A content that has come whole and has no place yet. Dropped, it is removed.
pub(crate) struct Sealed {
    store: Store,
    path: Path,
    content: String,
    size: u64,
    placed: bool,
}

impl Sealed {
    /// SHA-256 as hex digits.
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
            "the store did not keep what was sent: send it again",
        ))
    }

    /// Puts the content in its place. `hold` is its own.
    pub(crate) async fn place(mut self, hold: Hold) -> Result<Stored> {
        // Goes on where this call is cancelled: the content is held until it is
        // known where it is.
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
                    Err(error) => tracing::warn!("{path} could not be removed: {error}"),
                }
            });
        }
    }
}
