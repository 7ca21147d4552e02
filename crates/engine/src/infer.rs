//! Inference: embeds items of all kinds, and scores pairs of texts.

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

/// Default batch size.
const BATCH: usize = 32;

/// Embeds items with a fine-tuned model or a backbone.
///
/// A model of sentence-transformers is applied completely, with its pooling, all
/// further modules and its default prompt.
#[derive(Clone)]
pub struct Encoder {
    loaded: Arc<LoadedModel>,
    /// Prepares the inputs, with a prompt that may differ from the model's default.
    preparer: Preparer,
    batch: usize,
    /// Number of dimensions to keep, if not all.
    truncate: Option<usize>,
    int8: bool,
}

/// Several embeddings in one buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// Dimension of an embedding.
    pub dim: usize,
    /// The embeddings one after the other, `dim` values each.
    pub values: Vec<f32>,
}

impl Embeddings {
    /// Returns the number of embeddings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Returns the embedding at an index; empty if the index is out of range.
    #[must_use]
    pub fn get(&self, place: usize) -> &[f32] {
        self.iter().nth(place).unwrap_or_default()
    }

    /// Returns whether there are no embeddings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Iterates over the embeddings.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim.max(1))
    }

    /// Returns the `limit` nearest of these embeddings for each query, nearest first.
    ///
    /// # Errors
    /// [`Error::Data`] if the dimensions of queries and embeddings differ.
    pub fn search(&self, queries: &Self, limit: usize, distance: Distance) -> Result<Vec<Ranking>> {
        if self.dim != queries.dim {
            return Err(Error::data(format!(
                "queries of {} dimensions can't be compared with embeddings of {}",
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
    /// Loads a model from a folder in Hugging Face layout, such as a saved run's.
    ///
    /// # Errors
    /// Returns an error if the folder holds no such model.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        Self::from_source(&ModelSource::Folder(folder.as_ref().to_owned()))
    }

    /// Loads a backbone by its name.
    ///
    /// # Errors
    /// Returns an error if the backbone is unknown or can't be downloaded.
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

    /// Builds an encoder from the files of a model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the files do not match each other.
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

    /// Returns an encoder that prepends another prompt, such as `query`, to texts.
    ///
    /// Both encoders share the weights.
    ///
    /// # Errors
    /// [`Error::Config`] if the model has no prompt of that name.
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

    /// Returns an encoder that prepends no prompt. Both share the weights.
    #[must_use]
    pub fn without_prompt(&self) -> Self {
        let mut other = self.clone();
        other.preparer.prompt = None;
        other
    }

    /// Returns the prompts of the model.
    #[must_use]
    pub fn prompts(&self) -> &Prompts {
        &self.loaded.description.prompts
    }

    /// Sets the batch size; 32 by default.
    #[must_use]
    pub fn batch_size(mut self, size: usize) -> Self {
        self.batch = size.max(1);
        self
    }

    /// Computes with 8-bit integers: faster and slightly less accurate.
    ///
    /// Weights are quantised per output, and activations per row at run time. Sums are
    /// exact.
    #[must_use]
    pub fn quantized(mut self) -> Self {
        self.int8 = true;
        self
    }

    /// Returns what the model embeds.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.loaded.model.kind()
    }

    /// Truncates embeddings to the first `dim` dimensions, scaled to length 1.
    ///
    /// See [`Embeddings::truncated`].
    ///
    /// # Errors
    /// [`Error::Data`] if `dim` is 0 or exceeds the dimension of the model.
    pub fn truncate_dim(mut self, dim: usize) -> Result<Self> {
        check_truncation(dim, self.loaded.model.dim())?;
        self.truncate = Some(dim);
        Ok(self)
    }

    /// Returns the dimension of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.truncate.unwrap_or(self.loaded.model.dim())
    }

    /// Counts the tokens that the model reads of each text.
    ///
    /// The prompt is included, and long texts are truncated.
    ///
    /// # Errors
    /// [`Error::Data`] if a text can't be tokenized or the model does not embed texts.
    pub fn count_tokens(&self, texts: &[&str]) -> Result<Vec<usize>> {
        let items: Vec<ItemRef<'_>> = texts.iter().map(|text| ItemRef::Text(text)).collect();
        let device = self.loaded.model.params().device();
        match self.preparer.prepare(&items, |_| None, device)? {
            Input::Texts(batch) => Ok(batch.lengths),
            _ => Ok(Vec::new()),
        }
    }

    /// Embeds texts. The embeddings have the order of the texts.
    ///
    /// # Errors
    /// [`Error::Data`] if a text can't be tokenized or the model does not embed texts.
    pub fn encode_texts(&self, texts: &[&str]) -> Result<Embeddings> {
        self.encode(
            &texts
                .iter()
                .map(|text| ItemRef::Text(text))
                .collect::<Vec<_>>(),
        )
    }

    /// Embeds encoded images (PNG, JPEG, GIF, WebP or BMP), in their order.
    ///
    /// # Errors
    /// [`Error::Item`] if an image can't be decoded, [`Error::Data`] if the model does
    /// not embed images.
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
    /// [`Error::Item`] if features do not have the model's input length,
    /// [`Error::Data`] if the model does not embed features.
    pub fn encode_features(&self, features: &[&[f32]]) -> Result<Embeddings> {
        let items = features
            .iter()
            .map(|values| ItemRef::Features((*values).into()));
        self.encode(&items.collect::<Vec<_>>())
    }

    /// Embeds point clouds, in their order.
    ///
    /// If a cloud has more points than the model takes, a fixed random selection is
    /// used. Clouds are scaled to the unit sphere.
    ///
    /// # Errors
    /// [`Error::Item`] if a cloud has no points or no extent, [`Error::Data`] if the
    /// model does not embed point clouds.
    pub fn encode_point_clouds(&self, clouds: &[&[[f32; 3]]]) -> Result<Embeddings> {
        let items = clouds.iter().map(|points| ItemRef::PointCloud(points));
        self.encode(&items.collect::<Vec<_>>())
    }

    /// Writes the model as ONNX into a folder, with its tokenizer and image processor.
    ///
    /// | model of | file | inputs |
    /// | --- | --- | --- |
    /// | texts | `model.onnx` | `input_ids` and `attention_mask`, int64, `[batch, length]` |
    /// | images | `model.onnx` | `pixel_values`, float, `[batch, 3, side, side]` |
    /// | both | `text_model.onnx`, `vision_model.onnx` | as above |
    /// | features | `model.onnx` | `features`, float, `[batch, length]` |
    ///
    /// The output `embedding` equals that of this encoder: the graph contains pooling,
    /// projection head and normalisation. Batches may have any size and texts any
    /// length; `attention_mask` is 0 for padding. The weights of a model above 2 GiB
    /// are in a second file, `model.onnx.data`.
    ///
    /// # Errors
    /// [`Error::Data`] if the architecture has no ONNX export, [`Error::Io`] if a file
    /// can't be written.
    pub fn save_onnx(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.loaded.save_onnx(folder.as_ref(), OnnxFormat::Float32)
    }

    /// Writes the model as ONNX in another number format, such as int8.
    ///
    /// See [`Encoder::save_onnx`] and [`OnnxFormat`].
    ///
    /// # Errors
    /// See [`Encoder::save_onnx`].
    pub fn save_onnx_as(&self, folder: impl AsRef<Path>, format: OnnxFormat) -> Result<()> {
        self.loaded.save_onnx(folder.as_ref(), format)
    }

    /// Embeds items of the model's kind, in their order.
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

/// Embeds items of one kind in batches.
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

/// Returns the output of the network's frozen part, with `dim` values per item.
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

/// Computes `dim` outputs for each item in batches, in the order of the items.
///
/// Prepares the next batch while the model computes.
fn in_batches(
    lengths: &[usize],
    batch: usize,
    dim: usize,
    prepare: impl Fn(&[usize]) -> Result<Input> + Sync,
    encode: impl Fn(&Input) -> Result<Tensor> + Sync,
) -> Result<Vec<f32>> {
    let batch = batch.max(1);
    // Batches of texts with similar lengths balance the load of the threads. The
    // longest come first, so that later batches fit into their buffers.
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
    // Run inside the thread pool: otherwise each operation would wake a thread of the
    // pool and wait for it.
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

/// Rejects a truncation to 0 or more than `of` dimensions.
pub(crate) fn check_truncation(dim: usize, of: usize) -> Result<()> {
    if dim == 0 || dim > of {
        return Err(Error::data(format!(
            "embeddings of {of} dimensions can't be truncated to {dim}: give 1 to {of}"
        )));
    }
    Ok(())
}
