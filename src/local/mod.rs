//! Inference on this machine, without a backend.
//!
//! A model is the saved model of a run, or a backbone before fine-tuning.
//!
//! ```no_run
//! use finetuner::local::{cos_sim, get_model};
//!
//! # fn main() -> finetuner::local::Result<()> {
//! let model = get_model("clip-model")?;
//! let texts = model.encode_texts(&["a long red dress", "white sneakers"])?;
//! let image = std::fs::read("dress.jpg").unwrap_or_default();
//! let images = model.encode_images(&[&image])?;
//! println!("{:.3}", cos_sim(texts.get(0), images.get(0)));
//! # Ok(())
//! # }
//! ```
//!
//! [`Encoder::save_onnx`] writes a model for onnxruntime and other programs.
//!
//! A model of sentence-transformers is applied with all its modules, its pooling
//! and its default prompt. Other prompts are selected by name:
//!
//! ```no_run
//! # fn main() -> finetuner::local::Result<()> {
//! let model = finetuner::local::get_model("my-model")?;
//! let queries = model.prompt("query")?.encode_texts(&["red shoes"])?;
//! let passages = model.prompt("passage")?.encode_texts(&["shoes in red"])?;
//! # let _ = (queries, passages);
//! # Ok(())
//! # }
//! ```
//!
//! A point cloud model embeds points of meshes. [`point_cloud`] samples them like the
//! client does for a CSV file that names meshes:
//!
//! ```no_run
//! use finetuner::local::{get_model, point_cloud};
//!
//! # fn main() -> finetuner::local::Result<()> {
//! let chair = point_cloud("chair.off", 2048)?;
//! let embeddings = get_model("shapes-model")?.encode_point_clouds(&[&chair])?;
//! # let _ = embeddings;
//! # Ok(())
//! # }
//! ```
//!
//! A cross-encoder scores pairs of texts, and reranks the documents that a search has
//! found:
//!
//! ```no_run
//! use finetuner::local::CrossEncoder;
//!
//! # fn main() -> finetuner::local::Result<()> {
//! let model = CrossEncoder::from_folder("reranker")?;
//! let scores = model.predict(&[["red shoes", "a pair of red sneakers"]])?;
//! println!("{:.3}", scores.values[0]);
//! let documents = ["a green hat", "a pair of red sneakers"];
//! for found in model.rank("red shoes", &documents, Some(1))? {
//!     println!("{:.3} {}", found.score, documents[found.corpus_id]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Embeddings can be made cheaper to compute and to store:
//!
//! ```no_run
//! use finetuner::local::{Ranges, get_model};
//!
//! # fn main() -> finetuner::local::Result<()> {
//! // 8-bit arithmetic, and only the first 128 dimensions.
//! let model = get_model("text-model")?.quantized().truncate_dim(128)?;
//! let index = model.encode_texts(&["a long red dress", "white sneakers"])?;
//! let queries = model.encode_texts(&["shoes"])?;
//! // One bit per dimension: 32 times less memory.
//! let found = index.to_binary().search(&queries, 1, 4)?;
//! // 8 bits per dimension, with ranges computed from the index.
//! let ranges = Ranges::calibrate(&index)?;
//! let found_too = ranges.to_int8(&index)?.search(&queries, 1, 4)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`mine_hard_negatives`] finds hard negatives for pairs: documents that a model
//! finds similar to their queries.
//!
//! Names are the Python client's: `get_model` opens what `save_model` or
//! `save_artifact` wrote, `build_model` opens a backbone. All calls block, so async
//! programs make them in `tokio::task::spawn_blocking`.

mod negatives;

use std::path::Path;

use tokio::io::AsyncWriteExt;

pub use finetuner_engine::{
    Error, Result,
    evaluation::{Distance, Match, Ranking, cos_sim},
    hard_negatives::{Mined, Report, Spread},
    infer::{CrossEncoder, Embeddings, Encoder, Ranked, Scores},
    models::{ModelKind, OnnxFormat},
    modules::Prompts,
    quantize::{BinaryEmbeddings, Found, Int8Embeddings, Ranges},
};

pub use negatives::{MineHardNegatives, mine_hard_negatives};

use crate::{
    client::Finetuner,
    data::blocking,
    transport::{Expected, download},
};

/// Samples points from the surface of a mesh in an OFF, OBJ or STL file.
///
/// The same file always gives the same points.
///
/// ```no_run
/// # fn example() -> finetuner::local::Result<()> {
/// let points = finetuner::local::point_cloud("chair.off", 2048)?;
/// assert_eq!(points.len(), 2048);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Data`] if the file can't be read or contains no mesh.
pub fn point_cloud(mesh: impl AsRef<Path>, points: u32) -> Result<Vec<[f32; 3]>> {
    finetuner_data::points_of(mesh.as_ref(), points).map_err(Error::Data)
}

/// Opens a saved model.
///
/// `artifact` is a folder of [`Run::save_model`](crate::Run::save_model), or a zip of
/// [`Run::save_artifact`](crate::Run::save_artifact).
///
/// # Errors
/// If there is no model in Hugging Face layout.
pub fn get_model(artifact: impl AsRef<Path>) -> Result<Encoder> {
    let path = artifact.as_ref();
    let failed = |reason: &dyn std::fmt::Display| {
        Error::model(path.display().to_string(), reason.to_string())
    };
    if !path.is_file() {
        // A program that was killed while saving may have left unfinished work.
        let folder = std::path::absolute(path).map_err(|e| failed(&e))?;
        crate::runs::recover(&folder).map_err(|e| failed(&e))?;
        return Encoder::from_folder(path);
    }
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    open_zip(file, path).map_err(|e| failed(&e))
}

/// Opens the model in a zip; errors call it `shown`.
fn open_zip(file: std::fs::File, shown: &Path) -> crate::Result<Encoder> {
    let folder = crate::runs::unpack_temporarily(file, shown)?;
    let temporary = folder.path().display().to_string();
    Encoder::from_folder(folder.path()).map_err(|error| {
        // The temporary folder means nothing to the user.
        let reason = error.to_string();
        crate::Error::artifact(reason.replace(&temporary, &shown.display().to_string()))
    })
}

impl Finetuner {
    /// Downloads an artifact and opens the model in it.
    ///
    /// [`Run::artifact_id`](crate::Run::artifact_id) returns the id.
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
    /// [`Error::is_not_found`](crate::Error::is_not_found) if the artifact does not
    /// exist, [`Error::is_artifact`](crate::Error::is_artifact) if it contains no
    /// model.
    pub async fn get_model(&self, artifact_id: &str) -> crate::Result<Encoder> {
        let failed = |e| crate::Error::file(&std::env::temp_dir(), e);
        let id = Expected::Id(artifact_id.to_owned());
        let started = download(&self.transport, id, None, Default::default()).await?;
        let mut download =
            started.ok_or_else(|| crate::Error::artifact("the server sent nothing"))?;
        let file = blocking(move || tempfile::tempfile().map_err(failed)).await?;
        let mut file = tokio::fs::File::from_std(file);
        while let Some(bytes) = download.next().await? {
            file.write_all(&bytes).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        let file = file.into_std().await;
        let shown = format!("artifact {artifact_id}");
        blocking(move || open_zip(file, Path::new(&shown))).await
    }
}

/// Opens a backbone before fine-tuning, by its name.
///
/// # Errors
/// If there is no such backbone, or it can't be loaded.
pub fn build_model(name: &str) -> Result<Encoder> {
    Encoder::from_backbone(name)
}
