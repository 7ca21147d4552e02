//! Writes documents into the store, a few at a time.

use finetuner_data::{Checked, DocumentSource, Error as DataError};
use finetuner_protocol::{Content, Document, stream_frame, stream_head};
use tokio::runtime::Handle;

use super::refusal::Refusal;
use crate::{
    error::ApiError,
    store::Upload,
    submission::{MAX_DOCUMENTS, MAX_UNPACKED},
};

/// Number of bytes passed to the store at a time.
const CHUNK: usize = 256 << 10;

/// Packs validated documents from a file of `size` bytes. Blocks.
pub(super) fn pack(
    source: &DocumentSource,
    checked: &Checked,
    mut upload: Upload,
    size: u64,
    runtime: &Handle,
    fault: impl Fn(DataError) -> Refusal,
) -> Result<Upload, Refusal> {
    let count = checked.summary.length;
    if count > MAX_DOCUMENTS {
        let reason = format!("it has {count} documents, {MAX_DOCUMENTS} are allowed: split it");
        return Err(Refusal::Field("file", reason));
    }
    // Runs have the same limit on unpacked data.
    let most = MAX_UNPACKED.0 + MAX_UNPACKED.1 * size;
    let mut unpacked = 0_u64;
    let mut buffer = stream_head(count).to_vec();
    for (number, document) in (1..).zip(source.loaded()) {
        let document = document.map_err(&fault)?;
        unpacked += size_of(&document);
        if unpacked > most {
            return Err(Refusal::Field(
                "file",
                format!(
                    "its documents have more than {} MiB, far more than the uploaded file: \
                     upload smaller images",
                    most >> 20
                ),
            ));
        }
        let frame = stream_frame(&document, number);
        buffer.extend_from_slice(&frame.map_err(|e| ApiError::unprocessable(e.to_string()))?);
        if buffer.len() >= CHUNK {
            let full = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK + CHUNK / 4));
            runtime.block_on(upload.write(full.into()))?;
        }
    }
    runtime.block_on(upload.write(buffer.into()))?;
    Ok(upload)
}

/// Returns the size of a document's contents in bytes.
fn size_of(document: &Document) -> u64 {
    let own = match &document.content {
        Some(Content::Blob(bytes)) => bytes.len(),
        Some(Content::Text(text)) => text.len(),
        _ => 0,
    };
    own as u64 + document.chunks.iter().map(size_of).sum::<u64>()
}
