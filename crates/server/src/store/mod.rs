//! Storage of artifact contents under their SHA-256, in a folder or in S3.
//!
//! A written content appears complete or not at all. A content that is being
//! read is not removed.

#[cfg(test)]
pub(crate) mod faults;
mod holds;
mod upload;

use std::{
    io::Read,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use object_store::{
    GetResultPayload, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path,
    prefix::PrefixStore, signer::Signer,
};
use sha2::{Digest, Sha256};

pub(crate) use holds::{Hold, Unnamed};
pub(crate) use upload::Upload;

use crate::error::{ApiError, Result};
use holds::Holds;

/// Maximum size of an artifact in bytes, the limit of the Python client.
pub(crate) const MAX_ARTIFACT_BYTES: u64 = 4 << 30;

/// Bytes of a content that are read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Validity of an address that a worker gets. A download that has started may
/// take longer.
const PRESIGNED_FOR: Duration = Duration::from_secs(600);

/// Store of contents. Clones share the holds.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Signer of addresses for objects below a path, if the store supports
    /// presigned addresses.
    signer: Option<(Arc<dyn Signer>, Path)>,
    holds: Holds,
    /// Folder of the objects, if they are files of this machine.
    folder: Option<Arc<PathBuf>>,
}

/// A newly stored content.
pub(crate) struct Stored {
    /// SHA-256 as hex digits.
    pub(crate) content: String,
    pub(crate) size: u64,
}

/// A content in the list of the store.
#[derive(Debug)]
pub(crate) struct Found {
    /// Name of the content, its SHA-256 as hex digits. The bytes are not verified
    /// yet.
    pub(crate) content: String,
    pub(crate) size: u64,
}

impl Store {
    fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            signer: None,
            holds: Holds::default(),
            folder: None,
        }
    }

    /// Opens a store in an existing folder.
    pub(crate) fn in_folder(folder: &FilePath) -> Result<Self, object_store::Error> {
        let objects = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self {
            folder: Some(Arc::new(folder.to_owned())),
            ..Self::new(Arc::new(objects))
        })
    }

    /// Opens the store at an address such as `s3://bucket/folder`. The other
    /// settings come from environment variables such as `AWS_ACCESS_KEY_ID` and
    /// `AWS_ENDPOINT`.
    pub(crate) fn at(address: &url::Url) -> Result<Self, object_store::Error> {
        // The S3 client uses the process's default TLS provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (store, path) = object_store::parse_url_opts(address, std::env::vars())?;
        Ok(Self {
            signer: signer(address, std::env::vars())?.map(|signer| (signer, path.clone())),
            ..Self::new(Arc::new(PrefixStore::new(store, path)))
        })
    }

    /// Returns an address that gives access to a content for [`PRESIGNED_FOR`], or
    /// `None` if the store has none (a folder).
    pub(crate) async fn presigned(
        &self,
        content: &str,
    ) -> Result<Option<String>, object_store::Error> {
        let Some((signer, below)) = &self.signer else {
            return Ok(None);
        };
        let place = place(content);
        let path = below.parts().chain(place.parts()).collect();
        let url = signer.signed_url(axum::http::Method::GET, &path, PRESIGNED_FOR);
        Ok(Some(url.await?.into()))
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Protects a content from removal. Waits for a removal in progress.
    pub(crate) async fn hold(&self, content: &str) -> Hold {
        self.holds.hold(content).await
    }

    /// Waits for contents that may have lost their last name, and returns them.
    pub(crate) async fn suspects(&self) -> Vec<String> {
        self.holds.suspects().await
    }

    /// Lists all contents.
    pub(crate) fn list(&self) -> impl Stream<Item = Result<Found, object_store::Error>> + use<> {
        let found = |meta: object_store::ObjectMeta| {
            let content = meta.location.filename().map(str::to_owned);
            content.map(|content| Found {
                content,
                size: meta.size,
            })
        };
        let objects = self.objects.list(Some(&Path::from("objects")));
        objects.try_filter_map(move |meta| std::future::ready(Ok(found(meta))))
    }

    /// Removes the files of uploads that an earlier server did not finish.
    pub(crate) async fn drop_uploads(&self) -> Result<(), object_store::Error> {
        let left = self.objects.list(Some(&Path::from("uploads")));
        let left: Vec<_> = left.map_ok(|meta| meta.location).try_collect().await?;
        for path in left {
            self.objects.delete(&path).await?;
        }
        // The store does not list files that were written only in part.
        if let Some(folder) = &self.folder {
            for left in std::fs::read_dir(folder.join("uploads"))
                .into_iter()
                .flatten()
            {
                let path = left.map(|left| left.path());
                if let Err(error) = path.and_then(std::fs::remove_file) {
                    tracing::warn!("The file of an unfinished upload can't be removed: {error}");
                }
            }
        }
        Ok(())
    }

    /// Computes the SHA-256 of a content's bytes, as hex digits.
    pub(crate) async fn hash(&self, content: &str) -> Result<String, object_store::Error> {
        Ok(self.digest(&place(content)).await?.1)
    }

    /// Computes size and SHA-256 of the object at a path.
    async fn digest(&self, path: &Path) -> Result<(u64, String), object_store::Error> {
        let mut bytes = match self.objects.get(path).await?.payload {
            GetResultPayload::File(file, _) => {
                let digest = tokio::task::spawn_blocking(move || digest_file(file));
                let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
                    object_store::Error::Generic {
                        store: "file",
                        source,
                    }
                };
                let digest = digest.await.map_err(|e| failed(e.into()))?;
                return digest.map_err(|e| failed(e.into()));
            }
            GetResultPayload::Stream(bytes) => bytes,
        };
        let (mut size, mut hash) = (0, Sha256::new());
        while let Some(bytes) = bytes.try_next().await? {
            size += bytes.len() as u64;
            hash.update(&bytes);
        }
        Ok((size, hex::encode(hash.finalize())))
    }

    /// Whether a content exists with this size and with the bytes of its name.
    async fn holds_whole(&self, content: &str, size: u64) -> bool {
        let there = self.objects.head(&place(content)).await;
        there.is_ok_and(|there| there.size == size)
            && self.hash(content).await.is_ok_and(|hash| hash == content)
    }

    /// Copies a content to another store, unless that has it undamaged. Returns
    /// whether this store has it.
    pub(crate) async fn copy(&self, content: &str, to: &Self) -> Result<bool> {
        let place = place(content);
        let found = match self.objects.get(&place).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if to.holds_whole(content, found.meta.size).await {
            return Ok(true);
        }
        let mut upload = to.upload();
        let mut bytes = found.into_stream();
        while let Some(bytes) = bytes.try_next().await? {
            upload.write(bytes).await?;
        }
        let sealed = upload.seal().await?;
        if sealed.content() != content {
            return Err(ApiError::unprocessable(
                "the content is damaged; `finetuner-server check` lists damaged contents",
            ));
        }
        let hold = to.hold(content).await;
        sealed.place(hold).await?;
        Ok(true)
    }

    /// Starts the upload of a content.
    pub(crate) fn upload(&self) -> Upload {
        Upload::new(self)
    }

    /// Streams the bytes of a content. Also returns its size.
    pub(crate) async fn body(&self, content: &str) -> Result<(u64, Body)> {
        self.body_from(content, 0).await
    }

    /// Streams the bytes of a content from an offset on. Also returns the whole
    /// content's size. The content is not removed while it is read.
    pub(crate) async fn body_from(&self, content: &str, start: u64) -> Result<(u64, Body)> {
        let hold = self.hold(content).await;
        let (store, place) = (self.objects(), place(content));
        let size = store.head(&place).await?.size;
        // Larger pieces than those of the store's own stream, because each one costs a
        // call.
        let pieces = stream::try_unfold((start, hold), move |(start, hold)| {
            let (store, place) = (Arc::clone(&store), place.clone());
            async move {
                let end = (start + PIECE_BYTES).min(size);
                if start >= end {
                    return Ok::<_, object_store::Error>(None);
                }
                let piece = store.get_range(&place, start..end).await?;
                Ok(Some((piece, (end, hold))))
            }
        });
        Ok((size, Body::from_stream(pieces)))
    }

    /// Returns the size of a content in bytes.
    pub(crate) async fn size(&self, content: &str) -> Result<u64, object_store::Error> {
        Ok(self.objects.head(&place(content)).await?.size)
    }

    /// Reads a range of a content.
    pub(crate) async fn range(
        &self,
        content: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, object_store::Error> {
        self.objects.get_range(&place(content), range).await
    }

    /// Removes a content unless `is_wanted` resolves to true. A held content is not
    /// removed; it becomes a suspect when its last hold is dropped.
    pub(crate) async fn remove<E>(
        &self,
        content: &str,
        is_wanted: impl Future<Output = Result<bool, E>>,
    ) -> Result<(), E> {
        let Some(removal) = self.holds.begin_removal(content) else {
            return Ok(());
        };
        if !is_wanted.await? {
            match self.objects.delete(&place(content)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!("The content {content} can't be removed: {error}"),
            }
        }
        drop(removal);
        Ok(())
    }
}

/// Computes size and SHA-256 of a file. Blocks.
fn digest_file(mut file: std::fs::File) -> std::io::Result<(u64, String)> {
    let (mut size, mut hash) = (0, Sha256::new());
    let mut piece = vec![0; PIECE_BYTES as usize];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((size, hex::encode(hash.finalize()))),
            count => {
                size += count as u64;
                hash.update(&piece[..count]);
            }
        }
    }
}

/// Returns a signer for addresses in the store, if it is S3. Settings are those
/// of [`object_store::parse_url_opts`].
#[cfg(feature = "s3")]
fn signer(
    address: &url::Url,
    settings: impl Iterator<Item = (String, String)>,
) -> Result<Option<Arc<dyn Signer>>, object_store::Error> {
    use object_store::{ObjectStoreScheme, aws::AmazonS3Builder};

    if !matches!(
        ObjectStoreScheme::parse(address),
        Ok((ObjectStoreScheme::AmazonS3, _))
    ) {
        return Ok(None);
    }
    let builder = AmazonS3Builder::new().with_url(address.as_str());
    let builder = settings.fold(builder, |builder, (name, value)| {
        match name.to_ascii_lowercase().parse() {
            Ok(name) => builder.with_config(name, value),
            Err(_) => builder,
        }
    });
    Ok(Some(Arc::new(builder.build()?)))
}

#[cfg(not(feature = "s3"))]
fn signer(
    _: &url::Url,
    _: impl Iterator<Item = (String, String)>,
) -> Result<Option<Arc<dyn Signer>>, object_store::Error> {
    Ok(None)
}

fn place(content: &str) -> Path {
    Path::from_iter(["objects", &content[..2.min(content.len())], content])
}

#[cfg(test)]
mod tests;
