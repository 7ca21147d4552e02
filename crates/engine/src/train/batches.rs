//! From pairs of a picture and a text to batches of tensors, prepared ahead of
//! the training step by a thread of their own.

use std::sync::{Arc, mpsc};

use candle_core::{Device, Tensor};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use rayon::prelude::*;

use crate::{
    Error, Result,
    augment::Augmentation,
    image::ImageProcessor,
    tokenizer::{TokenBatch, Tokenizer},
};

/// Batches that wait, ready, for the training step.
const AHEAD: usize = 2;

/// A picture and the text that belongs to it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The id of the document, for messages.
    pub id: String,
    /// The picture as it is stored: PNG, JPEG, GIF, WebP or BMP.
    pub image: Arc<[u8]>,
    /// The text.
    pub text: String,
    /// What pairs that show the same thing share.
    pub label: String,
}

/// Tensors of several pairs.
pub(crate) struct Batch {
    /// `[batch, 3, height, width]`
    pub(crate) pixels: Tensor,
    pub(crate) texts: TokenBatch,
    pub(crate) len: usize,
}

/// One way through a set of pairs.
pub struct Batches<'a> {
    pairs: &'a [Pair],
    order: Vec<usize>,
    size: usize,
    tokenizer: &'a Tokenizer,
    processor: &'a ImageProcessor,
    device: Device,
    /// Seed and epoch, where pictures are changed at random.
    augmentation: Option<(u64, usize)>,
}

impl<'a> Batches<'a> {
    /// The pairs in their order.
    #[must_use]
    pub fn in_order(
        pairs: &'a [Pair],
        size: usize,
        tokenizer: &'a Tokenizer,
        processor: &'a ImageProcessor,
        device: &Device,
    ) -> Self {
        Self {
            pairs,
            order: (0..pairs.len()).collect(),
            size: size.max(1),
            tokenizer,
            processor,
            device: device.clone(),
            augmentation: None,
        }
    }

    /// Puts the pairs into a random order that depends on `seed` and `epoch`
    /// alone.
    #[must_use]
    pub fn shuffled(mut self, seed: u64, epoch: usize) -> Self {
        self.order = shuffled_order(self.pairs.len(), seed, epoch);
        self
    }

    /// Changes every picture a little, differently in each epoch.
    #[must_use]
    pub fn augmented(mut self, seed: u64, epoch: usize) -> Self {
        self.augmentation = Some((seed, epoch));
        self
    }

    /// The number of batches.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bounds().len()
    }

    /// Start and end of each batch in the order. A last batch of a single pair
    /// would teach a contrastive loss nothing, so that pair joins the batch
    /// before.
    fn bounds(&self) -> Vec<(usize, usize)> {
        let n = self.order.len();
        let mut bounds: Vec<(usize, usize)> = (0..n)
            .step_by(self.size)
            .map(|start| (start, (start + self.size).min(n)))
            .collect();
        if let [.., (_, end), (start, last)] = bounds.as_mut_slice()
            && *last - *start == 1
            && self.size > 1
        {
            *end = *last;
            bounds.pop();
        }
        bounds
    }

    /// Calls `each` with the batches from number `first` on, while the next
    /// ones are being prepared.
    ///
    /// # Errors
    /// [`Error::Data`] for a picture that can't be read, naming its document;
    /// and whatever `each` answers.
    pub(crate) fn for_each(
        &self,
        first: usize,
        mut each: impl FnMut(usize, Batch) -> Result<()>,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::sync_channel(AHEAD);
            scope.spawn(move || {
                for (number, (start, end)) in self.bounds().into_iter().enumerate().skip(first) {
                    let batch = self.prepare(&self.order[start..end]);
                    let failed = batch.is_err();
                    // The receiver is gone once `each` has failed.
                    if send.send((number, batch)).is_err() || failed {
                        return;
                    }
                }
            });
            for (number, batch) in receive {
                each(number, batch?)?;
            }
            Ok(())
        })
    }

    fn prepare(&self, examples: &[usize]) -> Result<Batch> {
        let values = self.processor.values();
        let mut pixels = vec![0.0; examples.len() * values];
        pixels
            .par_chunks_mut(values)
            .zip(examples)
            .try_for_each(|(out, &example)| {
                let pair = &self.pairs[example];
                let change = self
                    .augmentation
                    .map(|(seed, epoch)| Augmentation::light(seed, epoch, example));
                self.processor
                    .process(&pair.image, change.as_ref(), out)
                    .map_err(|e| in_document(&pair.id, &e))
            })?;
        let side = self.processor.crop as usize;
        let pixels = Tensor::from_vec(pixels, (examples.len(), 3, side, side), &self.device)?;
        let texts: Vec<&str> = examples
            .iter()
            .map(|&example| self.pairs[example].text.as_str())
            .collect();
        Ok(Batch {
            pixels,
            texts: self.tokenizer.encode(&texts)?,
            len: examples.len(),
        })
    }
}

/// The numbers below `n` in a random order that depends on `seed` and `epoch`
/// alone.
pub(crate) fn shuffled_order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (epoch as u64).wrapping_mul(0x9E37_79B9));
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // The bias of the remainder is below 2^-40 for any data set.
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        order.swap(i, j);
    }
    order
}

/// Says which document an error is about.
pub(crate) fn in_document(id: &str, error: &Error) -> Error {
    let reason = match error {
        Error::Data(reason) => reason.clone(),
        other => other.to_string(),
    };
    Error::data(format!("document `{id}`: {reason}"))
}
