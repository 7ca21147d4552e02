//! Uploads of artifacts: in one request, which every backend supports, or in parts
//! if the artifact is large and the backend offers it. Each part can be repeated
//! after a broken connection.

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

/// Minimum size in bytes for an upload in parts.
const PARTS_FROM: usize = 16 << 20;
/// Maximum size of a part in bytes, whatever the backend offers.
const MAX_PART: usize = 64 << 20;

/// Summary of the packed data, known after the last byte.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    pub(crate) documents: u64,
    /// SHA-256 of all bytes, as hex digits.
    pub(crate) sha256: String,
}

/// Bytes as they are packed, and the seal that is set after the last one.
pub(crate) struct Packed {
    pub(crate) bytes: ByteStream,
    pub(crate) seal: Arc<OnceLock<Seal>>,
}

/// Packs the bytes again for every attempt.
pub(crate) type Pack = Arc<dyn Fn() -> Packed + Send + Sync>;

/// Uploads an artifact.
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
            // Everything is in memory, so it need not be packed again.
            None => return send_whole(transport, in_memory(start.freeze(), seal), fields).await,
        }
    }
    let Some(upload) = begin(transport, &fields).await? else {
        drop(bytes);
        return send_whole(transport, pack, fields).await;
    };
    let packed = Packed { bytes, seal };
    match send_parts(transport, upload, start, packed).await {
        // A restarted backend no longer knows the parts.
        Err(error) if error.is_not_found() => {
            let upload = begin(transport, &fields).await?.ok_or(error)?;
            send_parts(transport, upload, BytesMut::new(), pack()).await
        }
        sent => sent,
    }
}

/// Sends everything in one form. Fields after the file have its expected number of
/// documents and SHA-256: `finetuner-server` verifies them, other backends ignore
/// them.
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
    // The upload overwrites the name, so repeating it has no further effect.
    let call = Call::rpc("artifact.upload")
        .body(Body::Multipart { file, fields })
        .repeatable();
    transport.rpc::<Value>(call).await?;
    // A server may answer before it has read everything.
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    last.get().map(drop).ok_or_else(|| failed(unsealed()))
}

fn unsealed() -> io::Error {
    io::Error::other("the server answered before all data was sent: it may have stored only a part")
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

/// Upload in parts that the backend has begun.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upload {
    upload_id: String,
    part_size: usize,
}

/// Begins an upload in parts; `None` if the backend does not support them.
async fn begin(transport: &Transport, fields: &[(&'static str, String)]) -> Result<Option<Upload>> {
    let fields: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    // The backend drops an upload without parts, so a repeated call does no harm.
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

/// Sends all parts. After a failure, asks the backend to drop them.
async fn send_parts(
    transport: &Transport,
    upload: Upload,
    start: BytesMut,
    packed: Packed,
) -> Result<()> {
    let id = upload.upload_id.clone();
    let sent = send_each_part(transport, upload, start, packed).await;
    // A backend that no longer knows them or can't be reached drops them itself.
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
            // Minimum speed of an upload: 64 KiB/s.
            .timeout(Duration::from_secs(60 + length / (64 << 10)))
            .repeatable();
        // Packs the next part while this one is sent.
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

/// The data that is still to be sent.
struct Parts {
    stream: ByteStream,
    buffer: BytesMut,
    ended: bool,
}

impl Parts {
    /// Returns the next `size` bytes, or fewer at the end.
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
