//! Sending an artifact: in one request, as every backend takes it, or, where
//! there is much and the backend offers it, in parts, each of which can be sent
//! again after the connection broke.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::download::hex;
use crate::{
    Error, Result,
    transport::{Body, ByteStream, Call, MakeBytes, Transport},
};

/// From how many bytes on parts are used.
const PARTS_FROM: usize = 16 << 20;
/// The most bytes of a part, whatever a backend may offer.
const MAX_PART: usize = 64 << 20;

/// Sends an artifact.
pub(super) async fn send(
    transport: &Transport,
    make: MakeBytes,
    fields: Vec<(&'static str, String)>,
) -> Result<()> {
    let mut stream = make();
    let mut start = BytesMut::new();
    while start.len() < PARTS_FROM {
        match stream.next().await {
            Some(bytes) => start.extend_from_slice(&bytes.map_err(failed)?),
            // All of it is here, so that it need not be made again.
            None => return send_whole(transport, in_memory(start.freeze()), fields).await,
        }
    }
    let Some(upload) = begin(transport, &fields).await? else {
        drop(stream);
        return send_whole(transport, make, fields).await;
    };
    match send_parts(transport, upload, start, stream).await {
        // A backend that was started anew has forgotten what had come.
        Err(error) if error.is_not_found() => {
            let upload = begin(transport, &fields).await?.ok_or(error)?;
            send_parts(transport, upload, BytesMut::new(), make()).await
        }
        sent => sent,
    }
}

async fn send_whole(
    transport: &Transport,
    file: MakeBytes,
    fields: Vec<(&'static str, String)>,
) -> Result<()> {
    // The name is overwritten, so a second upload does no harm.
    let call = Call::rpc("artifact.upload")
        .body(Body::Multipart { file, fields })
        .repeatable();
    transport.rpc::<Value>(call).await.map(drop)
}

fn in_memory(bytes: Bytes) -> MakeBytes {
    std::sync::Arc::new(move || {
        let bytes = bytes.clone();
        futures_util::stream::once(async { Ok(bytes) }).boxed()
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

async fn send_parts(
    transport: &Transport,
    upload: Upload,
    start: BytesMut,
    stream: ByteStream,
) -> Result<()> {
    let size = upload.part_size.clamp(1, MAX_PART);
    let mut parts = Parts {
        stream,
        buffer: start,
        hasher: Sha256::new(),
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
            .timeout(std::time::Duration::from_secs(60 + length / (64 << 10)))
            .repeatable();
        // The next part is gathered while this one is on its way.
        let (sent, next) = tokio::join!(transport.done(call), parts.next(size));
        sent?;
        part = next?;
        offset += length;
    }
    let done = serde_json::json!({
        "uploadId": upload.upload_id,
        "sha256": hex(&parts.hasher.finalize()),
    });
    let call = Call::rpc("artifact.finishUpload")
        .json(done)
        .timeout(std::time::Duration::from_secs(120))
        .repeatable();
    transport.rpc::<Value>(call).await.map(drop)
}

/// What is still to be sent.
struct Parts {
    stream: ByteStream,
    buffer: BytesMut,
    hasher: Sha256,
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
        let part = self.buffer.split_to(size.min(self.buffer.len())).freeze();
        self.hasher.update(&part);
        Ok(part)
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::setup(error)
}
