//! Using a model on this machine, without a backend: a saved run's, or a
//! backbone as it was before fine-tuning.
//!
//! ```no_run
//! use finetuner::local::{cos_sim, get_model};
//!
//! # fn main() -> finetuner::local::Result<()> {
//! let model = get_model("clip-model")?;
//! let texts = model.encode_texts(&["a long red dress", "white sneakers"])?;
//! let picture = std::fs::read("dress.jpg").unwrap_or_default();
//! let pictures = model.encode_images(&[&picture])?;
//! println!("{:.3}", cos_sim(texts.get(0), pictures.get(0)));
//! # Ok(())
//! # }
//! ```
//!
//! The names are the Python client's: `get_model` opens what `save_model` or
//! `save_artifact` wrote, `build_model` a backbone. Training and tokenizing
//! happen in the engine; the calls here block, so that async programs make them
//! on a thread for that (`tokio::task::spawn_blocking`).

use std::{io::Write, path::Path};

pub use finetuner_engine::{
    Error, Result,
    evaluation::{Distance, Match, Ranking, cos_sim},
    infer::{Embeddings, Encoder},
    models::ModelKind,
};

use crate::{
    Finetuner,
    data::{Expected, blocking, download},
};

/// Opens a saved model: a folder that [`Run::save_model`](crate::Run::save_model)
/// wrote, or a zip of [`Run::save_artifact`](crate::Run::save_artifact).
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let model = finetuner::local::get_model("clip-model")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where there is no model in Hugging Face layout.
pub fn get_model(artifact: impl AsRef<Path>) -> Result<Encoder> {
    let path = artifact.as_ref();
    if !path.is_file() {
        return Encoder::from_folder(path);
    }
    let failed = |reason: &dyn std::fmt::Display| {
        Error::model(path.display().to_string(), reason.to_string())
    };
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    open_zip(file).map_err(|e| failed(&e))
}

/// Opens the model in a zip.
fn open_zip(file: std::fs::File) -> crate::Result<Encoder> {
    let folder = tempfile::tempdir().map_err(|e| crate::Error::file(Path::new("."), e))?;
    crate::artifact::unpack_zip(file, folder.path(), crate::artifact::MAX_UNPACKED)?;
    Encoder::from_folder(folder.path()).map_err(crate::Error::artifact)
}

impl Finetuner {
    /// Fetches the artifact with this id, which
    /// [`Run::artifact_id`](crate::Run::artifact_id) gives, and opens the model
    /// in it.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let run = finetuner.get_run("clip-fashion-1").await?;
    /// let model = finetuner.get_model(run.artifact_id().await?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) where there is no
    /// such artifact, [`Error::is_artifact`](crate::Error::is_artifact) where it
    /// holds no model.
    pub async fn get_model(&self, artifact_id: &str) -> crate::Result<Encoder> {
        let failed = |e| crate::Error::file(Path::new("a temporary file"), e);
        let id = Expected::Id(artifact_id.to_owned());
        let started = download(&self.transport, id, None, Default::default()).await?;
        let mut download =
            started.ok_or_else(|| crate::Error::artifact("the server sent nothing"))?;
        let mut file = tempfile::tempfile().map_err(failed)?;
        while let Some(bytes) = download.next().await? {
            file.write_all(&bytes).map_err(failed)?;
        }
        blocking(move || open_zip(file)).await
    }
}

/// Opens a backbone as it was before fine-tuning, by its name.
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let model = finetuner::local::build_model("clip-small")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where there is no such backbone, or it can't be had.
pub fn build_model(name: &str) -> Result<Encoder> {
    Encoder::from_backbone(name)
}
