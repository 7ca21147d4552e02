//! Packs documents into a stream of bytes. A thread packs a few at a time while
//! they are sent, so memory use does not grow with their number.
//!
//! The stream ends without an error only if it contains every document: a panic or
//! an error in the thread breaks it.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use finetuner_data::DocumentSource;
use finetuner_protocol::{stream_frame, stream_head};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

use super::thread::thread_error;
use crate::{
    error::{Error, NotMade, Result},
    transport::{Packed, ProgressSink, Seal},
};

/// Size of a chunk in bytes.
const CHUNK: usize = 256 << 10;
/// Maximum number of packed chunks that wait for the network.
const AHEAD: usize = 8;

/// Packs a source again for every attempt to send it.
#[derive(Clone)]
pub(super) struct Packing(Arc<Inner>);

struct Inner {
    source: DocumentSource,
    /// Number of documents when the source was checked.
    count: u64,
    progress: ProgressSink,
    failure: Mutex<Option<Error>>,
}

impl Packing {
    pub(super) fn new(source: DocumentSource, count: u64, progress: ProgressSink) -> Self {
        Self(Arc::new(Inner {
            source,
            count,
            progress,
            failure: Mutex::default(),
        }))
    }

    /// Takes the reason why the source could not be packed.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut failure = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    pub(super) fn pack(&self) -> Packed {
        let (send, receive) = mpsc::channel(AHEAD);
        let inner = Arc::clone(&self.0);
        let state = State {
            packing: self.clone(),
            receive,
            thread: Some(tokio::task::spawn_blocking(move || inner.run(&send))),
            seal: Arc::default(),
        };
        let seal = Arc::clone(&state.seal);
        let bytes = stream::unfold(state, |mut state| async {
            let item = state.next().await?;
            Some((item, state))
        });
        Packed {
            bytes: bytes.boxed(),
            seal,
        }
    }
}

/// A stream in progress.
struct State {
    packing: Packing,
    receive: mpsc::Receiver<Bytes>,
    thread: Option<JoinHandle<Result<Option<Seal>>>>,
    seal: Arc<OnceLock<Seal>>,
}

impl State {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(bytes) = self.receive.recv().await {
            return Some(Ok(bytes));
        }
        // The thread has ended; its result says whether it succeeded.
        let error = match self.thread.take()?.await.map_err(thread_error).flatten() {
            Ok(seal) => {
                let _ = self.seal.set(seal?);
                return None;
            }
            Err(error) => error,
        };
        let reason = NotMade(error.to_string());
        *self
            .packing
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error);
        Some(Err(io::Error::other(reason)))
    }
}

impl Inner {
    /// Sends all bytes. Returns `None` if the receiver has gone.
    fn run(&self, send: &mpsc::Sender<Bytes>) -> Result<Option<Seal>> {
        let mut buffer = stream_head(self.count).to_vec();
        let (mut number, mut bytes) = (0, 0);
        let mut hasher = Sha256::new();
        for document in self.source.loaded() {
            let document = document?;
            number += 1;
            buffer.extend_from_slice(&stream_frame(&document, number)?);
            if buffer.len() < CHUNK {
                continue;
            }
            bytes += buffer.len() as u64;
            hasher.update(&buffer);
            let full = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK + CHUNK / 4));
            if send.blocking_send(full.into()).is_err() {
                return Ok(None);
            }
            self.progress.report(number, self.count, bytes);
        }
        if number != self.count {
            return Err(Error::setup(format!(
                "the data changed while it was sent: there are {number} documents, but {} were announced",
                self.count
            )));
        }
        hasher.update(&buffer);
        bytes += buffer.len() as u64;
        self.progress.report(number, self.count, bytes);
        if send.blocking_send(buffer.into()).is_err() {
            return Ok(None);
        }
        Ok(Some(Seal {
            documents: number,
            sha256: hex::encode(hasher.finalize()),
        }))
    }
}
