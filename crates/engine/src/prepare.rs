//! Converts texts, images, features and point clouds to the tensors that a
//! model takes.

use std::{borrow::Cow, sync::Arc};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::{
    Error, Result,
    augment::Augmentation,
    cloud::{CloudBatch, CloudSampler},
    data::{Item, Stored},
    draw::Draw,
    image::ImageProcessor,
    models::Input,
    tokenizer::Tokenizer,
};

/// An item to embed, borrowed.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemRef<'a> {
    /// A text.
    Text(&'a str),
    /// An image as an encoded file.
    Image(&'a [u8]),
    /// An image in a file.
    Stored(&'a Stored),
    /// Precomputed features.
    Features(Cow<'a, [f32]>),
    /// A point cloud.
    PointCloud(&'a [[f32; 3]]),
}

impl<'a> From<&'a Item> for ItemRef<'a> {
    fn from(item: &'a Item) -> Self {
        match item {
            Item::Text(text) => Self::Text(text),
            Item::Image(bytes) => Self::Image(bytes),
            Item::Stored(stored) => Self::Stored(stored),
            Item::Features(values) => Self::Features(Cow::Borrowed(values)),
            Item::PointCloud(points) => Self::PointCloud(points),
        }
    }
}

/// A text that is put before every text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Number of tokens that pooling skips.
    left_out: usize,
}

impl Prompt {
    /// Creates a prompt; pooling includes its tokens if `included` is set.
    pub(crate) fn new(text: &str, tokenizer: &Tokenizer, included: bool) -> Result<Self> {
        Ok(Self {
            text: text.to_owned(),
            left_out: match included {
                true => 0,
                false => tokenizer.prompt_length(text)?,
            },
        })
    }

    /// Returns the text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Prepares a model's inputs.
#[derive(Clone)]
pub struct Preparer {
    /// The tokenizer, if the model reads texts.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The processor, if the model takes images.
    pub processor: Option<ImageProcessor>,
    /// The number of features, if the model takes feature vectors.
    pub features: Option<usize>,
    /// The sampler, if the model takes point clouds.
    pub clouds: Option<CloudSampler>,
    /// A text that is put before every text.
    pub prompt: Option<Prompt>,
    /// Prompts of the members of an example, instead of `prompt`. The last one
    /// also applies to further members.
    pub member_prompts: Vec<Option<Prompt>>,
    /// Whether two texts form one input, as for a cross-encoder.
    pub pairs: bool,
}

impl Preparer {
    /// Returns a preparer with the prompt of a member of the examples.
    pub(crate) fn of_member(&self, member: usize) -> Cow<'_, Self> {
        let Some(last) = self.member_prompts.len().checked_sub(1) else {
            return Cow::Borrowed(self);
        };
        Cow::Owned(Self {
            prompt: self.member_prompts[member.min(last)].clone(),
            member_prompts: Vec::new(),
            ..self.clone()
        })
    }

    /// Prepares a batch for a cross-encoder.
    ///
    /// # Errors
    /// [`Error::Data`] if a text can't be tokenized, [`Error::Item`] if a pair
    /// is too long and may not be truncated.
    pub fn prepare_pairs(&self, pairs: &[[&str; 2]]) -> Result<Input> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| refused("texts"))?;
        Ok(Input::Texts(tokenizer.encode_pairs(pairs)?))
    }

    /// Prepares a batch of items of one kind. In training, `draw` returns the
    /// random state of the item at a position in the batch.
    ///
    /// # Errors
    /// [`Error::Item`] names the position of an item that can't be used.
    pub fn prepare(
        &self,
        items: &[ItemRef<'_>],
        draw: impl Fn(usize) -> Option<Draw> + Sync,
        device: &Device,
    ) -> Result<Input> {
        match items.first() {
            Some(ItemRef::Image(_) | ItemRef::Stored(_)) => self.images(items, draw, device),
            Some(ItemRef::Features(_)) => self.features(items, device),
            Some(ItemRef::PointCloud(_)) => self.clouds(items, draw),
            _ => self.texts(items),
        }
    }

    fn texts(&self, items: &[ItemRef<'_>]) -> Result<Input> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| refused("texts"))?;
        let texts = items.iter().enumerate().map(|(i, item)| match item {
            ItemRef::Text(text) => Ok(*text),
            _ => Err(mixed(i)),
        });
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let Some(prompt) = &self.prompt else {
            return Ok(Input::Texts(tokenizer.encode(&texts)?));
        };
        let texts = texts.iter().map(|text| format!("{}{text}", prompt.text));
        let texts: Vec<String> = texts.collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut batch = tokenizer.encode(&texts)?;
        batch.left_out = prompt.left_out;
        let short = batch.lengths.iter().position(|n| *n <= prompt.left_out);
        if let Some(place) = short {
            let reason = format!(
                "nothing is left to embed: pooling skips the {} tokens of the prompt, and \
                 the text was truncated to {}",
                prompt.left_out, batch.lengths[place]
            );
            return Err(at(place, &Error::data(reason)));
        }
        Ok(Input::Texts(batch))
    }

    fn images(
        &self,
        items: &[ItemRef<'_>],
        draw: impl Fn(usize) -> Option<Draw> + Sync,
        device: &Device,
    ) -> Result<Input> {
        let processor = self.processor.as_ref().ok_or_else(|| refused("images"))?;
        let values = processor.values();
        let mut pixels = vec![0.0; items.len() * values];
        pixels
            .par_chunks_mut(values)
            .zip(items)
            .enumerate()
            .try_for_each(|(i, (out, item))| {
                let bytes = match item {
                    ItemRef::Image(bytes) => Cow::Borrowed(*bytes),
                    ItemRef::Stored(stored) => Cow::Owned(stored.read()?),
                    _ => return Err(mixed(i)),
                };
                let change = draw(i).filter(|draw| draw.augment);
                let change = change.map(|draw| Augmentation::light(&draw));
                processor
                    .process(&bytes, change.as_ref(), out)
                    .map_err(|e| at(i, &e))
            })?;
        let [height, width] = processor.sides().map(|side| side as usize);
        let pixels = Tensor::from_vec(pixels, (items.len(), 3, height, width), device)?;
        Ok(Input::Images(pixels))
    }

    fn clouds(
        &self,
        items: &[ItemRef<'_>],
        draw: impl Fn(usize) -> Option<Draw> + Sync,
    ) -> Result<Input> {
        let sampler = self.clouds.ok_or_else(|| refused("point clouds"))?;
        let sampled = items.par_iter().enumerate().map(|(i, item)| match item {
            ItemRef::PointCloud(points) => {
                let points = sampler.sample(points, draw(i).as_ref());
                points.map_err(|e| at(i, &e))
            }
            _ => Err(mixed(i)),
        });
        let sampled = sampled.collect::<Result<Vec<_>>>()?;
        Ok(Input::PointClouds(CloudBatch::of(sampled)))
    }

    fn features(&self, items: &[ItemRef<'_>], device: &Device) -> Result<Input> {
        let mut length = self.features.ok_or_else(|| refused("features"))?;
        // Features instead of other items are cached outputs of a frozen
        // network, with different dimensions for texts and images.
        if (self.tokenizer.is_some() || self.processor.is_some() || self.clouds.is_some())
            && let Some(ItemRef::Features(first)) = items.first()
        {
            length = first.len();
        }
        let mut all = Vec::with_capacity(items.len() * length);
        for (i, item) in items.iter().enumerate() {
            match item {
                ItemRef::Features(values) if values.len() == length => {
                    all.extend_from_slice(values)
                }
                ItemRef::Features(values) => {
                    let reason = format!("{} features; the model takes {length}", values.len());
                    return Err(at(i, &Error::data(reason)));
                }
                _ => return Err(mixed(i)),
            }
        }
        Ok(Input::Features(Tensor::from_vec(
            all,
            (items.len(), length),
            device,
        )?))
    }
}

fn refused(kind: &str) -> Error {
    Error::data(format!("this model does not take {kind}"))
}

fn mixed(place: usize) -> Error {
    at(
        place,
        &Error::data("it is of another kind than the first item"),
    )
}

/// Returns an error about the item at a position.
fn at(place: usize, error: &Error) -> Error {
    Error::Item {
        place,
        reason: match error {
            Error::Data(reason) => reason.clone(),
            other => other.to_string(),
        },
    }
}
