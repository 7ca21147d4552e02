//! Scores pairs of texts with a cross-encoder.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use finetuner_protocol::worker::LocalModels;

use super::{BATCH, in_batches};
use crate::{
    Error, Result,
    evaluation::largest_first,
    models::{Model, OnnxFormat},
    modules::Activation,
    prepare::Preparer,
    source::{LoadOptions, LoadedModel, ModelFiles, ModelSource, OutputKind},
};

/// Scores pairs of texts with a sequence classifier.
///
/// The model is a cross-encoder of sentence-transformers, or that of a run with
/// `BinaryCrossEntropyLoss` or `MSELoss`. It reads both texts at once: this is more
/// accurate than comparing embeddings, but slower. Its usual task is to rerank the
/// results of a search by embeddings.
#[derive(Clone)]
pub struct CrossEncoder {
    loaded: Arc<LoadedModel>,
    activation: Activation,
    softmax: bool,
    batch: usize,
}

/// The scores of several pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Number of scores per pair.
    pub labels: usize,
    /// The scores of all pairs, `labels` values each.
    pub values: Vec<f32>,
}

impl Scores {
    /// Iterates over the scores, pair by pair.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.labels.max(1))
    }

    /// Returns the scores of one pair; empty if the index is out of range.
    #[must_use]
    pub fn get(&self, pair: usize) -> &[f32] {
        self.iter().nth(pair).unwrap_or_default()
    }
}

/// A document with its score for a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Index of the document in the given list.
    pub corpus_id: usize,
    /// Score of the document.
    pub score: f32,
}

impl CrossEncoder {
    /// Loads a cross-encoder from a folder in Hugging Face layout.
    ///
    /// # Errors
    /// Returns an error if the folder holds no sequence classifier.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        Self::from_source(&ModelSource::Folder(folder.as_ref().to_owned()))
    }

    /// Loads a cross-encoder by its name on the hub or in the list of models.
    ///
    /// # Errors
    /// Returns an error if the model does not exist or is no sequence classifier.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::from_source(&ModelSource::resolve(name, &LocalModels::Anywhere)?)
    }

    fn from_source(source: &ModelSource) -> Result<Self> {
        let model = Self::load(source.read()?)?;
        for note in &model.loaded.notes {
            tracing::warn!("{note}");
        }
        Ok(model)
    }

    /// Builds a cross-encoder from the files of a model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the files are not those of a sequence classifier.
    pub fn load(files: ModelFiles) -> Result<Self> {
        let options = LoadOptions {
            output: OutputKind::Scores,
            ..LoadOptions::default()
        };
        let loaded = files.load(&options, &Device::Cpu)?;
        let activation = loaded.model.setup().activation;
        Ok(Self {
            activation: activation.unwrap_or(Activation::Identity),
            loaded: Arc::new(loaded),
            softmax: false,
            batch: BATCH,
        })
    }

    /// Sets the batch size in pairs; 32 by default.
    #[must_use]
    pub fn batch_size(mut self, size: usize) -> Self {
        self.batch = size.max(1);
        self
    }

    /// Applies a softmax to the scores of a model with several labels; off by default.
    ///
    /// The option is called `apply_softmax` in Python.
    #[must_use]
    pub fn softmax(mut self) -> Self {
        self.softmax = true;
        self
    }

    /// Disables the output activation: [`CrossEncoder::predict`] then returns logits.
    #[must_use]
    pub fn without_activation(mut self) -> Self {
        self.activation = Activation::Identity;
        self
    }

    /// Returns the number of scores per pair.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.loaded.model.dim()
    }

    /// Scores pairs of texts, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] if a text can't be tokenized.
    pub fn predict(&self, pairs: &[[&str; 2]]) -> Result<Scores> {
        let (model, preparer) = (&self.loaded.model, &self.loaded.preparer);
        let labels = model.dim();
        let mut values = score(model, preparer, pairs, self.batch, self.activation)?;
        if self.softmax && labels > 1 {
            values.chunks_exact_mut(labels).for_each(softmax);
        }
        Ok(Scores { labels, values })
    }

    /// Writes the model as ONNX into a folder, with its tokenizer.
    ///
    /// `model.onnx` has the inputs `input_ids` and `attention_mask`, and
    /// `token_type_ids` if the network uses them. The output `logits`, `[batch,
    /// labels]`, are the scores before the activation. `CrossEncoder` of
    /// sentence-transformers loads the folder with `backend="onnx"`.
    ///
    /// # Errors
    /// [`Error::Io`] if a file can't be written.
    pub fn save_onnx(&self, folder: impl AsRef<Path>, format: OnnxFormat) -> Result<()> {
        self.loaded.save_onnx(folder.as_ref(), format)
    }

    /// Ranks documents by their score for a query, best first.
    ///
    /// Returns the `top_k` best, or all by default. A score that is not a number ranks
    /// last.
    ///
    /// # Errors
    /// [`Error::Data`] if the model has several labels or a text can't be tokenized.
    pub fn rank(
        &self,
        query: &str,
        documents: &[&str],
        top_k: Option<usize>,
    ) -> Result<Vec<Ranked>> {
        if self.labels() != 1 {
            return Err(Error::data(format!(
                "the model returns {} scores per pair; ranking needs a model with 1",
                self.labels()
            )));
        }
        let pairs: Vec<[&str; 2]> = documents.iter().map(|text| [query, *text]).collect();
        let scores = self.predict(&pairs)?.values.into_iter().enumerate();
        let mut ranked: Vec<Ranked> = scores
            .map(|(corpus_id, score)| Ranked { corpus_id, score })
            .collect();
        ranked.sort_by(|a, b| largest_first(a.score, b.score));
        ranked.truncate(top_k.unwrap_or(usize::MAX));
        Ok(ranked)
    }
}

/// Returns the scores of pairs after an activation, in evaluation mode.
pub(crate) fn score(
    model: &Model,
    preparer: &Preparer,
    pairs: &[[&str; 2]],
    batch: usize,
    activation: Activation,
) -> Result<Vec<f32>> {
    let pass = model.inference();
    let lengths: Vec<usize> = pairs.iter().map(|[a, b]| a.len() + b.len()).collect();
    let prepare = |chosen: &[usize]| {
        let part: Vec<[&str; 2]> = chosen.iter().map(|i| pairs[*i]).collect();
        preparer.prepare_pairs(&part)
    };
    in_batches(&lengths, batch, model.dim(), prepare, |input| {
        activation.forward(&model.encode(&pass, input)?)
    })
}

fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= sum);
}
