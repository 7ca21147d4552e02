//! From texts, pictures, features and point clouds to the tensors that a model takes.

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

/// Something to embed, borrowed.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemRef<'a> {
    /// A text.
    Text(&'a str),
    /// A picture as it is stored.
    Image(&'a [u8]),
    /// A picture in a file.
    Stored(&'a Stored),
    /// Features that were made elsewhere.
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

/// A text that goes before every text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Tokens that pooling leaves out.
    left_out: usize,
}

impl Prompt {
    /// A prompt whose tokens pooling counts if `included` is set.
    pub(crate) fn new(text: &str, tokenizer: &Tokenizer, included: bool) -> Result<Self> {
        Ok(Self {
            text: text.to_owned(),
            left_out: match included {
                true => 0,
                false => tokenizer.prompt_length(text)?,
            },
        })
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// What a model's inputs are made with.
#[derive(Clone)]
pub struct Preparer {
    /// The tokenizer of a model that reads texts.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The processor of a model that sees pictures.
    pub processor: Option<ImageProcessor>,
    /// Length of the features of a model that takes them.
    pub features: Option<usize>,
    /// The sampler of a model of point clouds.
    pub clouds: Option<CloudSampler>,
    /// A text that goes before every text.
    pub prompt: Option<Prompt>,
    /// Others in its place, for the members of an example at each place. The last
    /// one counts for further places.
    pub member_prompts: Vec<Option<Prompt>>,
    /// Whether two texts make one input: of a cross-encoder.
    pub pairs: bool,
}

impl Preparer {
    /// The same with the prompt of the members of an example at this place.
    pub(crate) fn of_member(&self, place: usize) -> Cow<'_, Self> {
        let Some(last) = self.member_prompts.len().checked_sub(1) else {
            return Cow::Borrowed(self);
        };
        Cow::Owned(Self {
            prompt: self.member_prompts[place.min(last)].clone(),
            member_prompts: Vec::new(),
            ..self.clone()
        })
    }

    /// The input of one batch of a cross-encoder.
    ///
    /// # Errors
    /// [`Error::Data`] where a text can't be tokenized, [`Error::Item`] where a
    /// pair is too long and may not be cut.
    pub fn prepare_pairs(&self, pairs: &[[&str; 2]]) -> Result<Input> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| refused("texts"))?;
        Ok(Input::Texts(tokenizer.encode_pairs(pairs)?))
    }

    /// The input of one batch; all items must be of one kind. In training, `draw`
    /// gives the place in the run of the item at a place of the batch.
    ///
    /// # Errors
    /// [`Error::Item`] names the place of an item that can't be used.
    pub fn prepare(
        &self,
        items: &[ItemRef<'_>],
        draw: impl Fn(usize) -> Option<Draw> + Sync,
        device: &Device,
    ) -> Result<Input> {
        match items.first() {
            Some(ItemRef::Image(_) | ItemRef::Stored(_)) => self.pictures(items, draw, device),
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
                "nothing is left to embed: pooling leaves out the {} tokens of the prompt, and \
                 the text was cut to {}",
                prompt.left_out, batch.lengths[place]
            );
            return Err(at(place, &Error::data(reason)));
        }
        Ok(Input::Texts(batch))
    }

    fn pictures(
        &self,
        items: &[ItemRef<'_>],
        draw: impl Fn(usize) -> Option<Draw> + Sync,
        device: &Device,
    ) -> Result<Input> {
        let processor = self.processor.as_ref().ok_or_else(|| refused("pictures"))?;
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
        // Features in place of other items are the output of a frozen network, with
        // one length for texts and another for pictures.
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
    at(place, &Error::data("it is of another kind than the first"))
}

/// An error about the item at a place.
fn at(place: usize, error: &Error) -> Error {
    Error::Item {
        place,
        reason: match error {
            Error::Data(reason) => reason.clone(),
            other => other.to_string(),
        },
    }
}
