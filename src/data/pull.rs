//! Download of documents, unpacked while they arrive.

use std::{
    fs::File,
    future::{Future, IntoFuture},
    io::{self, BufReader, Read, Write},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use finetuner_protocol::{Document, DocumentArray, DocumentReader};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::{
    cache::{CACHE_SIZE, Slot, default_folder},
    thread::blocking,
};
use crate::{
    client::Finetuner,
    error::{Error, Result},
    transport::{Download, Expected, ProgressSink, Transport, download, progress_methods},
};

/// Maximum number of chunks waiting to be unpacked, and of documents waiting to be
/// read.
const AHEAD: usize = 32;

impl Finetuner {
    /// Downloads documents, by name.
    ///
    /// The name is that of your own data, or `owner/name` for public data of another
    /// user. Awaiting the returned value gives all documents; see [`Pull`] for a
    /// stream.
    pub fn pull(&self, name: impl Into<String>) -> Pull {
        let user = self.user().map(|user| user.id.clone());
        Pull::new(self.transport.clone(), user, name.into())
    }
}

/// Download of documents, from [`Finetuner::pull`](crate::Finetuner::pull).
///
/// Awaiting it gives all documents. [`Pull::stream`] gives them one at a time and
/// keeps only a few in memory.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let documents = finetuner.pull("clip-fashion-train-data").local_cache(true).await?;
///
/// let mut stream = finetuner.pull("a-lot").stream().await?;
/// while let Some(document) = stream.next().await {
///     println!("{}", document?.id);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives [`Error::is_not_found`] if the data does not exist, and
/// [`Error::is_artifact`] if the download differs from what the server announced.
#[derive(Clone, Debug)]
#[must_use = "data is fetched when it is awaited"]
pub struct Pull {
    transport: Transport,
    /// The user's id, if the client knows it.
    user: Option<String>,
    name: String,
    local_cache: bool,
    cache_folder: Option<PathBuf>,
    cache_size: u64,
    progress: ProgressSink,
}

impl Pull {
    pub(crate) fn new(transport: Transport, user: Option<String>, name: String) -> Self {
        Self {
            transport,
            user,
            name,
            local_cache: false,
            cache_folder: None,
            cache_size: CACHE_SIZE,
            progress: ProgressSink::default(),
        }
    }

    /// Keeps a local copy, so that unchanged data is not downloaded again.
    ///
    /// Off by default. Copies are in `finetuner` in the user's cache folder, or in
    /// the folder that `FINETUNER_CACHE` names.
    pub fn local_cache(mut self, cache: bool) -> Self {
        self.local_cache = cache;
        self
    }

    /// Keeps a local copy in this folder; see [`Pull::local_cache`].
    pub fn cache_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.local_cache = true;
        self.cache_folder = Some(folder.into());
        self
    }

    /// Sets the limit for all copies together, in bytes; 16 GiB by default.
    ///
    /// The least recently used copies are removed first.
    pub fn cache_size(mut self, bytes: u64) -> Self {
        self.cache_size = bytes;
        self
    }

    progress_methods!("download, in bytes", |pull| format!(
        "Pulling {}",
        pull.name
    ));

    /// Starts the download and returns a stream of the documents.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let mut documents = finetuner.pull("train").stream().await?;
    /// while let Some(document) = documents.next().await {
    ///     println!("{}", document?.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The same as for awaiting it, if the download can't begin. Later errors are
    /// the last item of the stream.
    pub async fn stream(self) -> Result<DocumentStream> {
        let slot = self.local_cache.then(|| self.slot()).flatten();
        let searched = slot.clone();
        let cached = blocking(move || Ok(searched.as_ref().and_then(Slot::find_whole))).await?;
        let known = cached.as_ref().map(|(hash, _)| hash.as_str());
        let expected = Expected::Name(self.name);
        let started = download(&self.transport, expected, known, self.progress).await?;
        match (started, cached) {
            (Some(download), _) => Ok(DocumentStream::of_download(download, slot)),
            (None, Some((_, path))) => {
                let file = File::open(&path).map_err(|e| Error::file(&path, e))?;
                Ok(DocumentStream::of_reader(BufReader::new(file)))
            }
            (None, None) => Err(Error::artifact(
                "the server answered 304 without a cached copy",
            )),
        }
    }

    fn slot(&self) -> Option<Slot> {
        let backend = self.transport.addresses().hubble.origin();
        // Two users may have data of the same name. The server verifies whether a
        // copy is up to date, so another user's copy is never used.
        let user = self.user.as_deref().unwrap_or_default();
        let folder = self.cache_folder.clone().or_else(default_folder)?;
        let backend = backend.ascii_serialization();
        let key = [&backend, user, &self.name];
        Some(Slot::within(&folder, key, self.cache_size))
    }

    async fn run(self) -> Result<DocumentArray> {
        let documents: Vec<Document> = self.stream().await?.try_collect().await?;
        Ok(documents.into())
    }
}

impl IntoFuture for Pull {
    type Output = Result<DocumentArray>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Stream of documents, from [`Pull::stream`].
///
/// It implements [`Stream`]; [`DocumentStream::next`] needs no import.
///
/// # Cancel safety
/// [`DocumentStream::next`] may be dropped before it is ready, as in
/// `tokio::select!`: no document is lost, and the download continues.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let documents = finetuner.pull("train").stream().await?;
/// # drop(documents);
/// # Ok(())
/// # }
/// ```
pub struct DocumentStream(Pin<Box<dyn Stream<Item = Result<Document>> + Send>>);

impl DocumentStream {
    /// Returns the next document; `None` after the last.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let mut documents = finetuner.pull("train").stream().await?;
    /// let first = documents.next().await.transpose()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Document>> {
        self.0.next().await
    }

    fn of_download(download: Download, slot: Option<Slot>) -> Self {
        let (send, receive) = mpsc::channel(AHEAD);
        let documents = unpack(Chunks {
            receive,
            current: Bytes::new(),
        });
        let state = (
            Box::pin(documents),
            Some(tokio::spawn(fetch(download, slot, send))),
        );
        let items = stream::unfold(state, |(mut documents, mut fetch)| async {
            let item = documents.next().await;
            if let Some(Ok(document)) = item {
                return Some((Ok(document), (documents, fetch)));
            }
            // An error of the download explains why the documents end early.
            let ended = match fetch.take()?.await {
                Ok(ended) => ended,
                Err(error) => Err(Error::setup(error)),
            };
            let last = match ended {
                Err(error) => Err(error),
                Ok(()) => item?,
            };
            Some((last, (documents, fetch)))
        });
        Self(Box::pin(items.fuse()))
    }

    fn of_reader(reader: impl Read + Send + 'static) -> Self {
        Self(Box::pin(unpack(reader).fuse()))
    }
}

impl Stream for DocumentStream {
    type Item = Result<Document>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for DocumentStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentStream").finish_non_exhaustive()
    }
}

/// Passes on the downloaded bytes and keeps a copy of them.
async fn fetch(
    mut download: Download,
    slot: Option<Slot>,
    send: mpsc::Sender<Bytes>,
) -> Result<()> {
    let hash = download.announced_hash().map(str::to_owned);
    // Without a hash, the copy could not be verified later.
    let mut copy = match (slot, hash) {
        (Some(slot), Some(hash)) => Some((slot.begin()?, slot, hash)),
        _ => None,
    };
    while let Some(bytes) = download.next().await? {
        if let Some((file, ..)) = &mut copy {
            write(file, &bytes)?;
        }
        if send.send(bytes).await.is_err() {
            // The receiver has gone.
            return Ok(());
        }
    }
    if let Some((file, slot, hash)) = copy {
        blocking(move || slot.keep(file, &hash)).await?;
    }
    Ok(())
}

fn write(file: &mut NamedTempFile, bytes: &[u8]) -> Result<()> {
    let written = file.write_all(bytes);
    written.map_err(|e| Error::file(file.path(), e))
}

/// Unpacks documents in a separate thread.
fn unpack(
    reader: impl Read + Send + 'static,
) -> impl Stream<Item = Result<Document>> + Send + 'static {
    let (send, receive) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let reader = match DocumentReader::new(reader) {
            Ok(reader) => reader,
            Err(error) => {
                let _ = send.blocking_send(Err(error.into()));
                return;
            }
        };
        let mut reader = reader;
        for document in &mut reader {
            if send.blocking_send(document.map_err(Error::from)).is_err() {
                return;
            }
        }
        // Reads to the end, so that the whole download is verified.
        let mut rest = reader.into_inner();
        match io::copy(&mut rest, &mut io::sink()) {
            Ok(0) | Err(_) => {}
            Ok(more) => {
                let reason = format!("{more} bytes follow the last document");
                let _ = send.blocking_send(Err(Error::artifact(reason)));
            }
        }
    });
    stream::unfold(receive, |mut receive| async {
        let next = receive.recv().await?;
        Some((next, receive))
    })
}

/// Blocking reader of a channel.
struct Chunks {
    receive: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receive.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let count = out.len().min(self.current.len());
        out[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
