//! Loading of a model for use: the artifact of a run, or a backbone without
//! fine-tuning.

use std::path::Path;

use finetuner_engine::{
    Error as EngineError,
    infer::Encoder,
    source::{HubRules, ModelFiles, ModelSource, open_artifact},
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{batch::Model, cache::Room};
use crate::{
    error::{ApiError, Result},
    store::{Hold, Store},
};

/// Bytes that are fetched at once.
const PIECE: u64 = 8 << 20;
/// Memory of a model in addition to its weights, in bytes: tokenizer, tables,
/// buffers.
const BESIDE_WEIGHTS: u64 = 16 << 20;

/// Loads the model in an artifact.
pub(super) async fn artifact(
    store: &Store,
    content: &str,
    // Held until the model is loaded.
    hold: Hold,
    room: Room<Model>,
) -> Result<Model> {
    let folder = tempfile::Builder::new()
        .prefix("finetuner-model-")
        .tempdir()?;
    let zip = folder.path().join("artifact.zip");
    fetch(store, content, &zip).await?;
    let load = move || {
        let _hold = hold;
        let opened = folder.path().join("model");
        // Checked before unpacking, so that nothing is unpacked in vain.
        room.take(2 * unpacked_bytes(&zip)? + BESIDE_WEIGHTS)?;
        let open = || {
            open_artifact(&zip, &opened)?;
            // Only the unpacked files are needed from now on.
            let _ = std::fs::remove_file(&zip);
            ModelSource::Folder(opened.clone()).read_with(&HubRules::default())
        };
        let files = open().map_err(|error| load_error(&error, folder.path()))?;
        load_encoder(files, &room, folder.path())
    };
    tokio::task::spawn_blocking(load)
        .await
        .map_err(|e| ApiError::internal(&e))?
}

/// Returns the size of all files in a zip, from its directory.
fn unpacked_bytes(zip: &Path) -> Result<u64> {
    let bad = |error: zip::result::ZipError| {
        ApiError::unprocessable(format!(
            "the model can't be opened: it is not a zip file: {error}"
        ))
    };
    let mut archive = zip::ZipArchive::new(std::fs::File::open(zip)?).map_err(bad)?;
    let mut all = 0_u64;
    for i in 0..archive.len() {
        all = all.saturating_add(archive.by_index_raw(i).map_err(bad)?.size());
    }
    Ok(all.min(u64::MAX / 4))
}

/// Loads a backbone.
pub(super) async fn backbone(
    source: ModelSource,
    rules: HubRules,
    room: Room<Model>,
) -> Result<Model> {
    let load = move || {
        let files = source.read_with(&rules).map_err(|e| ApiError::engine(&e))?;
        load_encoder(files, &room, Path::new(""))
    };
    tokio::task::spawn_blocking(load)
        .await
        .map_err(|e| ApiError::internal(&e))?
}

fn load_encoder(files: ModelFiles, room: &Room<Model>, folder: &Path) -> Result<Model> {
    // Inference keeps a second, packed copy of the weights of matrix products.
    room.take(2 * files.weight_bytes() + BESIDE_WEIGHTS)?;
    let encoder = Encoder::load(files).map_err(|error| load_error(&error, folder))?;
    Ok(Model::new(encoder))
}

/// Converts an error, without the path of the temporary folder.
fn load_error(error: &EngineError, folder: &Path) -> ApiError {
    match error {
        EngineError::Checkpoint(reason) | EngineError::Model { reason, .. } => {
            let folder = folder.display().to_string();
            let reason = match folder.is_empty() {
                true => reason.clone(),
                false => reason.replace(&folder, ""),
            };
            ApiError::unprocessable(format!("the model can't be opened: {reason}"))
        }
        error => ApiError::engine(error),
    }
}

/// Copies a content to a new file and verifies its SHA-256.
async fn fetch(store: &Store, content: &str, to: &Path) -> Result<()> {
    let size = store.size(content).await?;
    let mut file = tokio::fs::File::create(to).await?;
    let (mut sum, mut start) = (Sha256::new(), 0);
    while start < size {
        let end = (start + PIECE).min(size);
        let piece = store.range(content, start..end).await?;
        let hashed = tokio::task::spawn_blocking(move || {
            sum.update(&piece);
            (sum, piece)
        });
        let (next, piece) = hashed.await.map_err(|e| ApiError::internal(&e))?;
        file.write_all(&piece).await?;
        (sum, start) = (next, end);
    }
    file.flush().await?;
    match hex::encode(sum.finalize()) == content {
        true => Ok(()),
        false => Err(ApiError::internal(&format!(
            "content {content} is damaged; `finetuner-server check` lists damaged contents"
        ))),
    }
}
