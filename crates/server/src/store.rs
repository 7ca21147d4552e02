//! The bytes of artifacts, under the SHA-256 of their content. What is written
//! appears whole or not at all.

use std::{path::Path as FilePath, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use object_store::{
    ObjectStore, ObjectStoreExt, buffered::BufWriter, local::LocalFileSystem, path::Path,
    prefix::PrefixStore,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{
    error::{ApiError, Result},
    secret::{self, hex},
};

/// The most bytes of one artifact, as the Python client has it.
pub(crate) const MAX_ARTIFACT_BYTES: u64 = 4 << 30;

/// Bytes of a content that are read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// A store of contents.
#[derive(Clone)]
pub(crate) struct Store(Arc<dyn ObjectStore>);

/// A content that was stored.
pub(crate) struct Stored {
    /// SHA-256 as hex digits.
    pub(crate) content: String,
    pub(crate) size: u64,
}

/// A content that is there.
#[derive(Debug)]
pub(crate) struct Found {
    /// SHA-256 as hex digits: the content's name, which is yet to be checked.
    pub(crate) content: String,
    pub(crate) size: u64,
}

impl Store {
    /// A store in a folder, which must exist.
    pub(crate) fn in_folder(folder: &FilePath) -> Result<Self, object_store::Error> {
        Ok(Self(Arc::new(
            LocalFileSystem::new_with_prefix(folder)?.with_fsync(true),
        )))
    }

    /// The store at an address such as `s3://bucket/folder`. What else it takes
    /// comes from the environment: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT` and so on.
    pub(crate) fn at(address: &url::Url) -> Result<Self, object_store::Error> {
        // Its client takes the process's TLS, where it has one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (store, path) = object_store::parse_url_opts(address, std::env::vars())?;
        Ok(Self(Arc::new(PrefixStore::new(store, path))))
    }

    /// All contents that are there.
    pub(crate) fn list(&self) -> impl Stream<Item = Result<Found, object_store::Error>> + use<> {
        let found = |meta: object_store::ObjectMeta| {
            let content = meta.location.filename().map(str::to_owned);
            content.map(|content| Found {
                content,
                size: meta.size,
            })
        };
        let objects = self.0.list(Some(&Path::from("objects")));
        objects.try_filter_map(move |meta| std::future::ready(Ok(found(meta))))
    }

    /// Removes what broken uploads of an earlier server have left.
    pub(crate) async fn drop_uploads(&self) -> Result<(), object_store::Error> {
        let left = self.0.list(Some(&Path::from("uploads")));
        let left: Vec<_> = left.map_ok(|meta| meta.location).try_collect().await?;
        for path in left {
            self.0.delete(&path).await?;
        }
        Ok(())
    }

    /// The SHA-256 of a content's bytes, as hex digits.
    pub(crate) async fn hash(&self, content: &str) -> Result<String, object_store::Error> {
        let mut hash = Sha256::new();
        let mut bytes = self.0.get(&place(content)).await?.into_stream();
        while let Some(bytes) = bytes.try_next().await? {
            hash.update(&bytes);
        }
        Ok(hex(&hash.finalize()))
    }

    /// Copies a content into another store. Says whether it was there.
    pub(crate) async fn copy(&self, content: &str, to: &Self) -> Result<bool> {
        let place = place(content);
        if to.0.head(&place).await.is_ok() {
            return Ok(true);
        }
        let mut bytes = match self.0.get(&place).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut upload = to.upload();
        while let Some(bytes) = bytes.try_next().await? {
            upload.write(bytes).await?;
        }
        let stored = upload.finish().await?;
        if stored.content != content {
            return Err(ApiError::internal(&format!("{content} is damaged")));
        }
        Ok(true)
    }

    /// Starts to take in a content.
    pub(crate) fn upload(&self) -> Upload {
        let path = Path::from_iter(["uploads".to_owned(), secret::new_id()]);
        Upload {
            store: self.clone(),
            out: BufWriter::new(Arc::clone(&self.0), path.clone()),
            path,
            hash: Sha256::new(),
            size: 0,
        }
    }

    /// The bytes of a content, as they come.
    pub(crate) async fn body(&self, content: &str) -> Result<Body> {
        self.body_from(content, 0).await
    }

    /// The bytes of a content from a place on.
    pub(crate) async fn body_from(&self, content: &str, start: u64) -> Result<Body> {
        let (store, place) = (Arc::clone(&self.0), place(content));
        let size = store.head(&place).await?.size;
        // Larger pieces than the store's own stream has: each costs a call.
        let pieces = stream::try_unfold(start, move |start| {
            let (store, place) = (Arc::clone(&store), place.clone());
            async move {
                let end = (start + PIECE_BYTES).min(size);
                if start >= end {
                    return Ok::<_, object_store::Error>(None);
                }
                Ok(Some((store.get_range(&place, start..end).await?, end)))
            }
        });
        Ok(Body::from_stream(pieces))
    }

    /// How many bytes a content has.
    pub(crate) async fn size(&self, content: &str) -> Result<u64, object_store::Error> {
        Ok(self.0.head(&place(content)).await?.size)
    }

    /// Some bytes of a content.
    pub(crate) async fn range(
        &self,
        content: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, object_store::Error> {
        self.0.get_range(&place(content), range).await
    }

    /// Removes a content that nothing refers to any more.
    pub(crate) async fn remove(&self, content: &str) {
        if let Err(error) = self.0.delete(&place(content)).await {
            tracing::warn!("{content} could not be removed: {error}");
        }
    }
}

fn place(content: &str) -> Path {
    Path::from_iter(["objects", &content[..2.min(content.len())], content])
}

/// A content on its way in. Dropped before [`Upload::finish`], it leaves nothing.
pub(crate) struct Upload {
    store: Store,
    out: BufWriter,
    path: Path,
    hash: Sha256,
    size: u64,
}

impl Upload {
    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        if self.size > MAX_ARTIFACT_BYTES {
            return Err(ApiError::too_large(format!(
                "an artifact may have {} GiB at most: split it",
                MAX_ARTIFACT_BYTES >> 30
            )));
        }
        self.hash.update(&bytes);
        self.out.put(bytes).await?;
        Ok(())
    }

    /// How many bytes have come.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Puts the content in its place.
    pub(crate) async fn finish(mut self) -> Result<Stored> {
        self.out
            .shutdown()
            .await
            .map_err(|e| ApiError::internal(&e))?;
        let content = hex(&self.hash.finalize());
        self.store.0.rename(&self.path, &place(&content)).await?;
        Ok(Stored {
            content,
            size: self.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_contents_by_their_hash_and_leaves_nothing_of_broken_uploads() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path()).unwrap();
        let mut broken = store.upload();
        broken.write(Bytes::from_static(b"half")).await.unwrap();
        drop(broken);
        let mut upload = store.upload();
        upload.write(Bytes::from_static(b"a")).await.unwrap();
        upload.write(Bytes::from_static(b"bc")).await.unwrap();
        let stored = upload.finish().await.unwrap();
        assert_eq!(stored.size, 3);
        assert!(stored.content.starts_with("ba7816bf8f01cfea"));
        assert_eq!(
            &store.range(&stored.content, 0..3).await.unwrap()[..],
            b"abc"
        );
        store.remove(&stored.content).await;
        assert!(store.size(&stored.content).await.is_err());
        assert!(store.list().try_next().await.unwrap().is_none());
        let left = walk(folder.path());
        assert_eq!(left, 0, "files are left");
    }

    fn walk(folder: &FilePath) -> usize {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path) } else { 1 }
            })
            .sum()
    }
}
