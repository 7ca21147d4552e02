//! Sending an artifact: in one request, as every backend takes it, or, where
//! there is much and the backend offers it, in parts, each of which can be sent
//! again after the connection broke.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    call::{Body, ByteStream, Call, LateText, MakeFile, Outgoing},
    send::Transport,
};
use crate::error::{Error, Result};

/// From how many bytes on parts are used.
const PARTS_FROM: usize = 16 << 20;
/// The most bytes of a part, whatever a backend may offer.
const MAX_PART: usize = 64 << 20;

/// What was packed, known once all of it was.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    pub(crate) documents: u64,
    /// SHA-256 of all bytes, as hex digits.
    pub(crate) sha256: String,
}

/// Bytes as they are packed, and the seal that is there behind the last of them.
pub(crate) struct Packed {
    pub(crate) bytes: ByteStream,
    pub(crate) seal: Arc<OnceLock<Seal>>,
}

/// Makes packed bytes, anew for every attempt.
pub(crate) type Pack = Arc<dyn Fn() -> Packed + Send + Sync>;

/// Sends an artifact.
pub(crate) async fn send(
    transport: &Transport,
    pack: Pack,
    fields: Vec<(&'static str, String)>,
) -> Result<()> {
    let Packed { mut bytes, seal } = pack();
    let mut start = BytesMut::new();
    while start.len() < PARTS_FROM {
        match bytes.next().await {
            Some(bytes) => start.extend_from_slice(&bytes.map_err(failed)?),
            // All of it is here, so that it need not be made again.
            None => return send_whole(transport, in_memory(start.freeze(), seal), fields).await,
        }
    }
    let Some(upload) = begin(transport, &fields).await? else {
        drop(bytes);
        return send_whole(transport, pack, fields).await;
    };
    let packed = Packed { bytes, seal };
    match send_parts(transport, upload, start, packed).await {
        // A backend that was started anew has forgotten what had come.
        Err(error) if error.is_not_found() => {
            let upload = begin(transport, &fields).await?.ok_or(error)?;
            send_parts(transport, upload, BytesMut::new(), pack()).await
        }
        sent => sent,
    }
}

/// Sends all in one form. Behind the file, it says what the file must be: our
/// backend compares that, others pass over such fields.
async fn send_whole(
    transport: &Transport,
    pack: Pack,
    fields: Vec<(&'static str, String)>,
) -> Result<()> {
    let last: Arc<Mutex<Arc<OnceLock<Seal>>>> = Arc::default();
    let latest = Arc::clone(&last);
    let file: MakeFile = Arc::new(move || {
        let Packed { bytes, seal } = pack();
        latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&seal);
        let late = |told: fn(&Seal) -> String| -> LateText {
            let seal = Arc::clone(&seal);
            async move { seal.get().map(told).ok_or_else(unsealed) }.boxed()
        };
        let trailing = vec![
            ("documents", late(|seal| seal.documents.to_string())),
            ("sha256", late(|seal| seal.sha256.clone())),
        ];
        Outgoing {
            file: bytes,
            trailing,
        }
    });
    // The name is overwritten, so a second upload does no harm.
    let call = Call::rpc("artifact.upload")
        .body(Body::Multipart { file, fields })
        .repeatable();
    transport.rpc::<Value>(call).await?;
    // A server may answer before it has read all.
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    last.get().map(drop).ok_or_else(|| failed(unsealed()))
}

fn unsealed() -> io::Error {
    io::Error::other("the server answered before all data was sent: nobody knows what it has kept")
}

fn in_memory(bytes: Bytes, seal: Arc<OnceLock<Seal>>) -> Pack {
    Arc::new(move || {
        let bytes = bytes.clone();
        Packed {
            bytes: futures_util::stream::once(async { Ok(bytes) }).boxed(),
            seal: Arc::clone(&seal),
        }
    })
}

/// An upload in parts, as the backend offers it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upload {
    upload_id: String,
    part_size: usize,
}

/// Asks for an upload in parts; none where the backend does not know them.
async fn begin(transport: &Transport, fields: &[(&'static str, String)]) -> Result<Option<Upload>> {
    let fields: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    // One that nothing follows is forgotten by the backend.
    let call = Call::rpc("artifact.beginUpload")
        .json(fields.into())
        .keyed()
        .repeatable();
    match transport.rpc(call).await {
        Ok(upload) => Ok(Some(upload)),
        Err(error) if matches!(error.status(), Some(404 | 405 | 501)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends all parts. Where that fails, the backend is told to drop them.
async fn send_parts(
    transport: &Transport,
    upload: Upload,
    start: BytesMut,
    packed: Packed,
) -> Result<()> {
    let id = upload.upload_id.clone();
    let sent = send_each_part(transport, upload, start, packed).await;
    // One that has forgotten them, or can't be reached, drops them by itself.
    if let Err(error) = &sent
        && !(error.is_not_found() || error.is_connect())
    {
        let call = Call::rpc("artifact.abortUpload").json(serde_json::json!({"uploadId": id}));
        let _ = transport.done(call.timeout(Duration::from_secs(10))).await;
    }
    sent
}

async fn send_each_part(
    transport: &Transport,
    upload: Upload,
    start: BytesMut,
    Packed { bytes, seal }: Packed,
) -> Result<()> {
    let size = upload.part_size.clamp(1, MAX_PART);
    let mut parts = Parts {
        stream: bytes,
        buffer: start,
        ended: false,
    };
    let mut offset = 0;
    let mut part = parts.next(size).await?;
    while !part.is_empty() {
        let length = part.len() as u64;
        let call = Call::rpc("artifact.uploadPart")
            .method(Method::PUT)
            .query("uploadId", &upload.upload_id)
            .query("offset", offset)
            .body(Body::Bytes(part))
            // The slowest line that an upload must get through on: 64 KiB/s.
            .timeout(Duration::from_secs(60 + length / (64 << 10)))
            .repeatable();
        // The next part is gathered while this one is on its way.
        let (sent, next) = tokio::join!(transport.done(call), parts.next(size));
        sent?;
        part = next?;
        offset += length;
    }
    let seal = seal.get().ok_or_else(|| failed(unsealed()))?;
    let done = serde_json::json!({
        "uploadId": upload.upload_id,
        "documents": seal.documents,
        "sha256": seal.sha256,
    });
    let call = Call::rpc("artifact.finishUpload")
        .json(done)
        .timeout(Duration::from_secs(120))
        .repeatable();
    transport.rpc::<Value>(call).await.map(drop)
}

/// What is still to be sent.
struct Parts {
    stream: ByteStream,
    buffer: BytesMut,
    ended: bool,
}

impl Parts {
    /// The next bytes, `size` of them where there are as many.
    async fn next(&mut self, size: usize) -> Result<Bytes> {
        while self.buffer.len() < size && !self.ended {
            match self.stream.next().await {
                Some(bytes) => self.buffer.extend_from_slice(&bytes.map_err(failed)?),
                None => self.ended = true,
            }
        }
        Ok(self.buffer.split_to(size.min(self.buffer.len())).freeze())
    }
}

fn failed(error: io::Error) -> Error {
    Error::setup(error)
}
