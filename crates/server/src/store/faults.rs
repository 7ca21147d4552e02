//! A store with injected faults, for tests. It imitates the failures of a
//! remote store: stalls, connection resets, a full disk, damaged bytes.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use tokio::sync::Semaphore;

use super::Store;

/// The fault of a call.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection breaks before the call has an effect.
    Reset,
    /// The connection breaks after the call has succeeded, so the caller does not
    /// know.
    ResetAfter,
    /// The disk is full.
    Full,
    /// The last byte is stored with another value.
    Damage,
    /// The call waits for a permit and then continues.
    Stall(Arc<Semaphore>),
}

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Put,
    Part,
    Complete,
    Get,
    Delete,
    Copy,
}

/// A wrapper that injects faults into another store.
#[derive(Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Mutex<VecDeque<(Call, Fault)>>>,
    /// One permit for each fault that was injected.
    met: Arc<Semaphore>,
    /// One permit for each aborted multipart upload.
    pub(crate) aborted: Arc<Semaphore>,
}

impl Faulty {
    /// Creates a store in memory and the handle that injects faults into it.
    pub(crate) fn in_memory() -> (Store, Self) {
        let faulty = Self {
            inner: Arc::new(object_store::memory::InMemory::new()),
            faults: Arc::default(),
            met: Arc::new(Semaphore::new(0)),
            aborted: Arc::new(Semaphore::new(0)),
        };
        (Store::new(Arc::new(faulty.clone())), faulty)
    }

    /// Injects a fault into the next call of this kind.
    pub(crate) fn next(&self, call: Call, fault: Fault) {
        self.faults.lock().unwrap().push_back((call, fault));
    }

    /// Waits until a fault was injected.
    pub(crate) async fn met(&self) {
        self.met.acquire().await.unwrap().forget();
    }

    /// Returns the names of all objects.
    pub(crate) async fn names(&self) -> Vec<String> {
        let all = self
            .inner
            .list(None)
            .map(|meta| meta.unwrap().location.to_string());
        let mut all: Vec<String> = all.collect().await;
        all.sort();
        all
    }

    fn take(&self, call: Call) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(of, _)| *of == call)?;
        self.met.add_permits(1);
        faults.remove(at).map(|(_, fault)| fault)
    }

    /// Makes a call with its pending fault, if there is one.
    async fn make<T>(&self, call: Call, done: impl Future<Output = Result<T>>) -> Result<T> {
        match self.take(call) {
            None | Some(Fault::Damage) => done.await,
            Some(Fault::Reset) => Err(failed(std::io::ErrorKind::ConnectionReset)),
            Some(Fault::Full) => Err(failed(std::io::ErrorKind::StorageFull)),
            Some(Fault::ResetAfter) => {
                done.await?;
                Err(failed(std::io::ErrorKind::ConnectionReset))
            }
            Some(Fault::Stall(gate)) => {
                gate.acquire().await.unwrap().forget();
                done.await
            }
        }
    }

    /// Returns the bytes that are really stored.
    fn kept(&self, payload: PutPayload, call: Call) -> PutPayload {
        let mut faults = self.faults.lock().unwrap();
        let damage = |(of, fault): &(Call, Fault)| *of == call && matches!(fault, Fault::Damage);
        let Some(at) = faults.iter().position(damage) else {
            return payload;
        };
        faults.remove(at);
        let mut bytes: Vec<u8> = payload.iter().flat_map(|bytes| bytes.to_vec()).collect();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        bytes.into()
    }
}

fn failed(kind: std::io::ErrorKind) -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: Box::new(std::io::Error::from(kind)),
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, payload: PutPayload, o: PutOptions) -> Result<PutResult> {
        let payload = self.kept(payload, Call::Put);
        self.make(Call::Put, self.inner.put_opts(at, payload, o))
            .await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(at, options).await?;
        let store = self.clone();
        Ok(Box::new(FaultyUpload { inner, store }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.make(Call::Get, self.inner.get_opts(at, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |at| {
            let store = store.clone();
            async move {
                let at = at?;
                let gone = object_store::ObjectStoreExt::delete(&store.inner, &at);
                store.make(Call::Delete, gone).await.map(|()| at)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.inner.copy_opts(from, to, options);
        self.make(Call::Copy, copied).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: Faulty,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let data = self.store.kept(data, Call::Part);
        let part = self.inner.put_part(data);
        let store = self.store.clone();
        Box::pin(async move { store.make(Call::Part, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let store = self.store.clone();
        store.make(Call::Complete, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.aborted.add_permits(1);
        self.inner.abort().await
    }
}
