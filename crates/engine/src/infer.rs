//! Using a model: texts, pictures, features and point clouds to embeddings, and
//! pairs of texts to scores.

mod cross_encoder;

use std::{path::Path, sync::Arc};

use candle_core::{Device, Tensor};

pub(crate) use cross_encoder::score;
pub use cross_encoder::{CrossEncoder, Ranked, Scores};

pub use crate::prepare::ItemRef;
use crate::{
    Error, Result,
    evaluation::{Distance, Ranking, rank},
    models::{Input, Model, ModelKind, OnnxFormat},
    modules::Prompts,
    ops::Pass,
    prepare::{Preparer, Prompt},
    source::{LoadOptions, LoadedModel, ModelFiles, ModelSource},
};

/// Things embedded at once where nothing else was said.
const BATCH: usize = 32;

/// Embeds texts and pictures with a fine-tuned model or a backbone.
///
/// A model of sentence-transformers is applied whole: its pooling, every module
/// behind it, and the prompt that it has by default.
#[derive(Clone)]
pub struct Encoder {
    loaded: Arc<LoadedModel>,
    /// Puts a prompt before texts, which may be another than the model's own.
    preparer: Preparer,
    batch: usize,
    /// Dimensions that are kept, if not all are.
    truncate: Option<usize>,
    int8: bool,
}

/// Several embeddings, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// The length of one.
    pub dim: usize,
    /// All values, `dim` for each.
    pub values: Vec<f32>,
}

impl Embeddings {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dim).unwrap_or(0)
    }

    /// One of them, by its place; empty where there is no such place.
    #[must_use]
    pub fn get(&self, place: usize) -> &[f32] {
        self.iter().nth(place).unwrap_or_default()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The embeddings one by one.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim.max(1))
    }

    /// The `limit` nearest of these for each of `queries`, the nearest first.
    ///
    /// # Errors
    /// [`Error::Data`] where both have embeddings of another length.
    pub fn search(&self, queries: &Self, limit: usize, distance: Distance) -> Result<Vec<Ranking>> {
        if self.dim != queries.dim {
            return Err(Error::data(format!(
                "queries of {} values can't be searched for among embeddings of {}",
                queries.dim, self.dim
            )));
        }
        Ok(rank(
            &queries.values,
            &self.values,
            self.dim,
            limit,
            distance,
        ))
    }
}

impl Encoder {
    /// Loads a model from a folder in Hugging Face layout, such as a saved
    /// run's.
    ///
    /// # Errors
    /// Where the folder holds no such model.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        Self::from_source(&ModelSource::Folder(folder.as_ref().to_owned()))
    }

    /// Loads a backbone by its name.
    ///
    /// # Errors
    /// Where there is no such backbone, or it can't be had.
    pub fn from_backbone(name: &str) -> Result<Self> {
        Self::from_source(&ModelSource::resolve(
            name,
            &finetuner_protocol::worker::LocalModels::Anywhere,
        )?)
    }

    fn from_source(source: &ModelSource) -> Result<Self> {
        let encoder = Self::load(source.read()?)?;
        for note in &encoder.loaded.notes {
            tracing::warn!("{note}");
        }
        Ok(encoder)
    }

    /// Puts a model together from its files.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where they do not fit each other.
    pub fn load(files: ModelFiles) -> Result<Self> {
        let loaded = files.load(&LoadOptions::default(), &Device::Cpu)?;
        Ok(Self {
            preparer: loaded.preparer.clone(),
            loaded: Arc::new(loaded),
            batch: BATCH,
            truncate: None,
            int8: false,
        })
    }

    /// The same model with another of its prompts before every text, such as
    /// `query` or `passage`. Both share the weights.
    ///
    /// # Errors
    /// [`Error::Config`] where the model has no prompt of that name.
    pub fn prompt(&self, name: &str) -> Result<Self> {
        let description = &self.loaded.description;
        let text = description.prompts.get(name)?;
        let prompt = match &self.preparer.tokenizer {
            Some(tokenizer) if !text.is_empty() => {
                Some(Prompt::new(text, tokenizer, description.include_prompt)?)
            }
            _ => None,
        };
        let mut other = self.clone();
        other.preparer.prompt = prompt;
        Ok(other)
    }

    /// The same model without a prompt before texts.
    #[must_use]
    pub fn without_prompt(&self) -> Self {
        let mut other = self.clone();
        other.preparer.prompt = None;
        other
    }

    /// The prompts of the model, by name.
    #[must_use]
    pub fn prompts(&self) -> &Prompts {
        &self.loaded.description.prompts
    }

    /// Sets how many things are embedded at once; 32 where nothing was set.
    #[must_use]
    pub fn batch_size(mut self, size: usize) -> Self {
        self.batch = size.max(1);
        self
    }

    /// Computes with numbers rounded to 8 bits: faster, and a little less
    /// exact. Weights are rounded for each output, activations for each row as
    /// they come; sums are exact.
    #[must_use]
    pub fn quantized(mut self) -> Self {
        self.int8 = true;
        self
    }

    /// What the model embeds.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.loaded.model.kind()
    }

    /// Keeps the first `dim` dimensions of each embedding, scaled to length 1:
    /// see [`Embeddings::truncated`].
    ///
    /// # Errors
    /// [`Error::Data`] if `dim` is 0 or above the dimension of the model.
    pub fn truncate_dim(mut self, dim: usize) -> Result<Self> {
        check_truncation(dim, self.loaded.model.dim())?;
        self.truncate = Some(dim);
        Ok(self)
    }

    /// Length of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.truncate.unwrap_or(self.loaded.model.dim())
    }

    /// Counts the tokens that the model reads of each text: those of the prompt
    /// among them, and no more than texts are cut to.
    ///
    /// # Errors
    /// [`Error::Data`] where a text can't be tokenized, or the model embeds no
    /// texts.
    pub fn count_tokens(&self, texts: &[&str]) -> Result<Vec<usize>> {
        let items: Vec<ItemRef<'_>> = texts.iter().map(|text| ItemRef::Text(text)).collect();
        let device = self.loaded.model.params().device();
        match self.preparer.prepare(&items, |_| None, device)? {
            Input::Texts(batch) => Ok(batch.lengths),
            _ => Ok(Vec::new()),
        }
    }

    /// Embeds texts, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] where a text can't be tokenized, or the model embeds no
    /// texts.
    pub fn encode_texts(&self, texts: &[&str]) -> Result<Embeddings> {
        self.encode(
            &texts
                .iter()
                .map(|text| ItemRef::Text(text))
                .collect::<Vec<_>>(),
        )
    }

    /// Embeds pictures as PNG, JPEG, GIF, WebP or BMP, in their order.
    ///
    /// # Errors
    /// [`Error::Item`] where one can't be read, [`Error::Data`] where the model
    /// embeds no pictures.
    pub fn encode_images(&self, images: &[&[u8]]) -> Result<Embeddings> {
        self.encode(
            &images
                .iter()
                .map(|image| ItemRef::Image(image))
                .collect::<Vec<_>>(),
        )
    }

    /// Embeds features, in their order.
    ///
    /// # Errors
    /// [`Error::Item`] where some have another length than the model takes,
    /// [`Error::Data`] where the model embeds no features.
    pub fn encode_features(&self, features: &[&[f32]]) -> Result<Embeddings> {
        let items = features
            .iter()
            .map(|values| ItemRef::Features((*values).into()));
        self.encode(&items.collect::<Vec<_>>())
    }

    /// Embeds point clouds, in their order. If a cloud has more points than the
    /// model takes, some are drawn, always the same. Clouds are first moved
    /// and scaled into the unit sphere.
    ///
    /// # Errors
    /// [`Error::Item`] where one has no points or no extent, [`Error::Data`]
    /// where the model embeds no point clouds.
    pub fn encode_point_clouds(&self, clouds: &[&[[f32; 3]]]) -> Result<Embeddings> {
        let items = clouds.iter().map(|points| ItemRef::PointCloud(points));
        self.encode(&items.collect::<Vec<_>>())
    }

    /// Writes the model as ONNX into a folder, with the files of its tokenizer
    /// and its picture processor:
    ///
    /// | model of | file | inputs |
    /// | --- | --- | --- |
    /// | texts | `model.onnx` | `input_ids` and `attention_mask`, int64, `[batch, length]` |
    /// | pictures | `model.onnx` | `pixel_values`, float, `[batch, 3, side, side]` |
    /// | both | `text_model.onnx`, `vision_model.onnx` | as above |
    /// | features | `model.onnx` | `features`, float, `[batch, length]` |
    ///
    /// The output is `embedding`, what this encoder gives: pooling, projection
    /// head and normalisation are inside. Batches may have any size and texts
    /// any length; `attention_mask` is 0 for padding. The weights of models of
    /// more than 2 GiB are in a second file, `model.onnx.data`.
    ///
    /// # Errors
    /// [`Error::Data`] where the architecture has no ONNX form, [`Error::Io`]
    /// where a file can't be written.
    pub fn save_onnx(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.loaded.save_onnx(folder.as_ref(), OnnxFormat::Float32)
    }

    /// As [`Encoder::save_onnx`], with other numbers, such as
    /// [`OnnxFormat::Int8`].
    ///
    /// # Errors
    /// As [`Encoder::save_onnx`].
    pub fn save_onnx_as(&self, folder: impl AsRef<Path>, format: OnnxFormat) -> Result<()> {
        self.loaded.save_onnx(folder.as_ref(), format)
    }

    /// Embeds items of the kind that the model embeds, in their order.
    pub(crate) fn encode(&self, items: &[ItemRef<'_>]) -> Result<Embeddings> {
        let model = &self.loaded.model;
        let pass = model.inference().with_int8(self.int8);
        let found = embed_by(&pass, model, &self.preparer, items, self.batch)?;
        match self.truncate {
            Some(dim) => found.truncated(dim),
            None => Ok(found),
        }
    }
}

/// Embeds items of one kind, a batch at a time.
pub(crate) fn embed(
    model: &Model,
    preparer: &Preparer,
    items: &[ItemRef<'_>],
    batch: usize,
) -> Result<Embeddings> {
    embed_by(&model.inference(), model, preparer, items, batch)
}

fn embed_by(
    pass: &Pass,
    model: &Model,
    preparer: &Preparer,
    items: &[ItemRef<'_>],
    batch: usize,
) -> Result<Embeddings> {
    embed_with(model, preparer, items, batch, model.dim(), |input| {
        model.encode(pass, input)
    })
}

/// The output of the frozen part of the network for items, each of length `dim`.
pub(crate) fn embed_frozen(
    model: &Model,
    preparer: &Preparer,
    items: &[ItemRef<'_>],
    dim: usize,
) -> Result<Embeddings> {
    embed_with(model, preparer, items, BATCH, dim, |input| {
        model.encode_frozen(input)
    })
}

fn embed_with(
    model: &Model,
    preparer: &Preparer,
    items: &[ItemRef<'_>],
    batch: usize,
    dim: usize,
    encode: impl Fn(&Input) -> Result<Tensor> + Sync,
) -> Result<Embeddings> {
    let device = model.params().device();
    let lengths = items.iter().map(|item| match item {
        ItemRef::Text(text) => text.len(),
        _ => 0,
    });
    let prepare = |chosen: &[usize]| {
        let part: Vec<ItemRef<'_>> = chosen.iter().map(|i| items[*i].clone()).collect();
        preparer.prepare(&part, |_| None, device)
    };
    let values = in_batches(&lengths.collect::<Vec<_>>(), batch, dim, prepare, encode)?;
    Ok(Embeddings { dim, values })
}

/// Outputs of `dim` values for each of several things, a batch at a time, in
/// their order. The next batch is prepared meanwhile.
fn in_batches(
    lengths: &[usize],
    batch: usize,
    dim: usize,
    prepare: impl Fn(&[usize]) -> Result<Input> + Sync,
    encode: impl Fn(&Input) -> Result<Tensor> + Sync,
) -> Result<Vec<f32>> {
    let batch = batch.max(1);
    // Texts of about one length side by side are attended to more evenly by
    // the threads. The longest go first, so that buffers are large enough for
    // all that follow; the order is put right again at the end.
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    let prepare = |chosen: &[usize]| {
        prepare(chosen).map_err(|e| match e {
            Error::Item { place, reason } => Error::Item {
                place: chosen[place],
                reason,
            },
            other => other,
        })
    };
    let mut values = vec![0.0; lengths.len() * dim];
    // On a thread of the pool: from outside, each operation would wake one and
    // wait for it.
    rayon::scope(|_| {
        let mut batches = order.chunks(batch);
        let mut next = batches.next().map(|chosen| (chosen, prepare(chosen)));
        while let Some((chosen, input)) = next {
            let input = input?;
            let following = batches.next();
            let (found, prepared) = rayon::join(
                || {
                    encode(&input)?
                        .flatten_all()?
                        .to_vec1::<f32>()
                        .map_err(Error::from)
                },
                || following.map(|chosen| (chosen, prepare(chosen))),
            );
            for (row, place) in found?.chunks_exact(dim).zip(chosen) {
                values[place * dim..(place + 1) * dim].copy_from_slice(row);
            }
            next = prepared;
        }
        Ok::<_, Error>(())
    })?;
    Ok(values)
}

/// Refuses a truncation to no dimension, or to more than there are.
pub(crate) fn check_truncation(dim: usize, of: usize) -> Result<()> {
    if dim == 0 || dim > of {
        return Err(Error::data(format!(
            "embeddings of {of} dimensions can't be truncated to {dim}; give 1 to {of}"
        )));
    }
    Ok(())
}
