//! Using a model: texts and pictures to embeddings.

use std::path::Path;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::{
    Error, Result,
    image::ImageProcessor,
    models::Clip,
    source::{LoadedModel, ModelSource},
    tokenizer::Tokenizer,
};

/// Things embedded at once where nothing else was said.
const BATCH: usize = 32;

/// Embeds texts and pictures with a fine-tuned model or a backbone.
pub struct Encoder {
    model: LoadedModel,
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
        Self::from_source(&ModelSource::resolve(name, true)?)
    }

    fn from_source(source: &ModelSource) -> Result<Self> {
        Ok(Self {
            model: source.read()?.load(&Device::Cpu)?,
        })
    }

    /// Embeds texts, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] where a text can't be tokenized.
    pub fn encode_texts(&self, texts: &[&str]) -> Result<Embeddings> {
        encode_texts(&self.model.model, &self.model.tokenizer, texts, BATCH)
    }

    /// Embeds pictures as PNG, JPEG, GIF, WebP or BMP, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] where one can't be read.
    pub fn encode_images(&self, images: &[&[u8]]) -> Result<Embeddings> {
        encode_images(&self.model.model, &self.model.processor, images, BATCH)
    }
}

pub(crate) fn encode_texts(
    model: &Clip,
    tokenizer: &Tokenizer,
    texts: &[&str],
    batch: usize,
) -> Result<Embeddings> {
    let pass = model.inference();
    embed(model, texts.chunks(batch.max(1)), |texts| {
        model.encode_texts(&pass, &tokenizer.encode(texts)?)
    })
}

pub(crate) fn encode_images(
    model: &Clip,
    processor: &ImageProcessor,
    images: &[&[u8]],
    batch: usize,
) -> Result<Embeddings> {
    let (pass, side) = (model.inference(), processor.crop as usize);
    let first: Vec<usize> = (0..images.len()).step_by(batch.max(1)).collect();
    embed(model, first.into_iter(), |first| {
        let images = &images[first..(first + batch.max(1)).min(images.len())];
        let mut pixels = vec![0.0; images.len() * processor.values()];
        pixels
            .par_chunks_mut(processor.values())
            .zip(images)
            .enumerate()
            .try_for_each(|(i, (out, image))| {
                processor.process(image, None, out).map_err(|e| match e {
                    Error::Data(reason) => {
                        Error::data(format!("picture {}: {reason}", first + i + 1))
                    }
                    other => other,
                })
            })?;
        let device = model.params().device();
        let pixels = Tensor::from_vec(pixels, (images.len(), 3, side, side), device)?;
        model.encode_images(&pass, &pixels)
    })
}

fn embed<B>(
    model: &Clip,
    batches: impl Iterator<Item = B>,
    encode: impl Fn(B) -> Result<Tensor>,
) -> Result<Embeddings> {
    let mut values = Vec::new();
    for batch in batches {
        values.extend(encode(batch)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(Embeddings {
        dim: model.config().projection_dim,
        values,
    })
}
