//! The training loop of a CLIP model: one epoch at a time, so that whoever
//! drives it can evaluate, save or stop in between.

use std::time::Instant;

use super::batches::{Batch, Batches, Pair};
use crate::{
    Error, Result,
    image::ImageProcessor,
    loss::{MAX_LOGIT_SCALE, clip_loss},
    models::Clip,
    optim::Optimizer,
    tokenizer::Tokenizer,
};

/// What a training run depends on beside model, data and optimizer.
pub struct TrainerOptions {
    /// Pairs of one step.
    pub batch_size: usize,
    /// Learning rate of a step; steps are counted from 0 over all epochs.
    pub learning_rate: Box<dyn Fn(usize) -> f64 + Send + Sync>,
    /// Decides the order of the data and the changes to pictures.
    pub seed: u64,
    /// Whether training pictures are changed at random.
    pub augment: bool,
}

/// What is known after one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// The step in its epoch, counted from 1.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Loss of this step's batch.
    pub loss: f32,
    /// Mean loss of the epoch so far.
    pub mean_loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Pairs trained on in a second, over the epoch so far.
    pub pairs_per_second: f64,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Whole epochs behind it.
    pub epoch: usize,
    /// Steps done in the epoch that has begun.
    pub step: usize,
    /// Steps done in all.
    pub total_steps: usize,
    /// Sum over the pairs of the begun epoch of their step's loss.
    pub loss_sum: f64,
    /// Pairs of the begun epoch.
    pub pairs: usize,
}

/// A model in training.
pub struct Trainer {
    /// The model.
    pub model: Clip,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its image processor.
    pub processor: ImageProcessor,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) options: TrainerOptions,
    pub(crate) position: Position,
}

impl Trainer {
    /// A trainer at the start of its run.
    #[must_use]
    pub fn new(
        model: Clip,
        tokenizer: Tokenizer,
        processor: ImageProcessor,
        optimizer: Box<dyn Optimizer>,
        options: TrainerOptions,
    ) -> Self {
        Self {
            model,
            tokenizer,
            processor,
            optimizer,
            options,
            position: Position::default(),
        }
    }

    /// Where the run stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Steps of one epoch over `pairs`.
    #[must_use]
    pub fn steps_per_epoch(&self, pairs: &[Pair]) -> usize {
        self.batches(pairs).count()
    }

    fn batches<'a>(&'a self, pairs: &'a [Pair]) -> Batches<'a> {
        Batches::in_order(
            pairs,
            self.options.batch_size,
            &self.tokenizer,
            &self.processor,
            self.model.params().device(),
        )
    }

    /// Trains to the end of the epoch that has begun, and gives its mean loss.
    /// `after_step` is called after each step, and ends the epoch early with
    /// an error; the position then is that of the last whole step.
    ///
    /// # Errors
    /// [`Error::Diverged`] where the loss is not a number any more,
    /// [`Error::Data`] for pairs that can't be read, or what `after_step` gave.
    pub fn epoch(
        &mut self,
        pairs: &[Pair],
        mut after_step: impl FnMut(Step) -> Result<()>,
    ) -> Result<f64> {
        let Self {
            model,
            tokenizer,
            processor,
            optimizer,
            options,
            position,
        } = self;
        let epoch = position.epoch;
        let mut batches = Batches::in_order(
            pairs,
            options.batch_size,
            tokenizer,
            processor,
            model.params().device(),
        )
        .shuffled(options.seed, epoch);
        if options.augment {
            batches = batches.augmented(options.seed, epoch);
        }
        let steps = batches.count();
        let (started, before) = (Instant::now(), position.pairs);
        batches.for_each(position.step, |number, batch| {
            let learning_rate = (options.learning_rate)(position.total_steps);
            let loss = train_step(model, optimizer.as_mut(), &batch, learning_rate)?;
            if !loss.is_finite() {
                return Err(Error::Diverged {
                    loss,
                    epoch: epoch + 1,
                    step: number + 1,
                });
            }
            position.step = number + 1;
            position.total_steps += 1;
            position.loss_sum += f64::from(loss) * batch.len as f64;
            position.pairs += batch.len;
            after_step(Step {
                epoch: epoch + 1,
                step: number + 1,
                steps,
                loss,
                mean_loss: position.loss_sum / position.pairs as f64,
                learning_rate,
                pairs_per_second: (position.pairs - before) as f64
                    / started.elapsed().as_secs_f64().max(1e-9),
            })
        })?;
        let mean = position.loss_sum / position.pairs.max(1) as f64;
        *position = Position {
            epoch: epoch + 1,
            total_steps: position.total_steps,
            ..Position::default()
        };
        Ok(mean)
    }

    /// Mean loss over `pairs`, without training on them.
    ///
    /// # Errors
    /// [`Error::Data`] for pairs that can't be read.
    pub fn validation_loss(&self, pairs: &[Pair]) -> Result<f64> {
        let (mut sum, mut seen) = (0.0, 0);
        self.batches(pairs).for_each(0, |_, batch| {
            let pass = self.model.inference();
            let images = self.model.encode_images(&pass, &batch.pixels)?;
            let texts = self.model.encode_texts(&pass, &batch.texts)?;
            let loss: f32 = clip_loss(&self.model, &pass, &texts, &images)?.to_scalar()?;
            sum += f64::from(loss) * batch.len as f64;
            seen += batch.len;
            Ok(())
        })?;
        Ok(sum / f64::from(seen.max(1) as u32))
    }
}

/// Forward, backward, optimizer; the loss before the step.
fn train_step(
    model: &Clip,
    optimizer: &mut dyn Optimizer,
    batch: &Batch,
    learning_rate: f64,
) -> Result<f32> {
    let pass = model.training();
    model.params().zero_grad();
    let images = model.encode_images(&pass, &batch.pixels)?;
    let texts = model.encode_texts(&pass, &batch.texts)?;
    let loss = clip_loss(model, &pass, &texts, &images)?;
    let value: f32 = loss.to_scalar()?;
    if value.is_finite() {
        model.params().backward(&loss)?;
        optimizer.step(model.params(), learning_rate)?;
        let limit = MAX_LOGIT_SCALE.ln();
        model
            .logit_scale()
            .update(|scale| scale.iter_mut().for_each(|s| *s = s.min(limit)))?;
    }
    Ok(value)
}
