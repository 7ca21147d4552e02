//! The training loop. It runs one epoch at a time, so that the caller can
//! evaluate, save or stop in between.

use std::{sync::Arc, time::Instant};

use super::{
    batches::{Batches, Guide},
    sampler::Sampling,
    step::{self, BatchSettings},
};
use crate::{
    Error, Result,
    data::TrainingSet,
    loss::{Criterion, MAX_LOGIT_SCALE},
    models::Model,
    optim::{Optimizer, clip_gradients, not_finite},
    prepare::Preparer,
};

/// Maps an epoch and a step number over all epochs, both from 0, to the
/// learning rate.
pub type LearningRate = Box<dyn Fn(usize, usize) -> f64 + Send + Sync>;

/// Training settings other than model, data, loss and optimizer.
pub struct TrainerOptions {
    /// Examples per batch.
    pub batch_size: usize,
    /// Batches per optimizer step, at least 1 (gradient accumulation). The last
    /// step of an epoch may have fewer.
    pub accumulation_steps: usize,
    /// The choice of examples for batches.
    pub sampling: Sampling,
    /// Learning rate of the model.
    pub learning_rate: LearningRate,
    /// Learning rate of the loss's own weights.
    pub loss_learning_rate: f64,
    /// Largest total norm of the gradients; larger ones are scaled down
    /// (gradient clipping).
    pub max_grad_norm: Option<f64>,
    /// Seed of the data order and of augmentation.
    pub seed: u64,
    /// Whether training inputs are augmented.
    pub augment: bool,
    /// Whether dropout is applied, with the rates in the model's files.
    pub dropout: bool,
}

/// The state after one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The step within its epoch, from 1.
    pub step: usize,
    /// Steps per epoch.
    pub steps: usize,
    /// Mean loss of this step's batches.
    pub loss: f32,
    /// Mean loss of the epoch so far.
    pub mean_loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Training speed over the epoch so far, in examples per second.
    pub examples_per_second: f64,
}

/// The position of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Completed epochs.
    pub epoch: usize,
    /// Completed steps of the current epoch.
    pub step: usize,
    /// Completed steps in total.
    pub total_steps: usize,
    /// Sum over the examples of the current epoch of their step's loss.
    pub loss_sum: f64,
    /// Examples so far in the current epoch.
    pub examples: usize,
}

/// A model in training.
pub struct Trainer {
    /// The model.
    pub model: Model,
    /// Prepares the model's inputs.
    pub preparer: Preparer,
    /// The loss.
    pub criterion: Criterion,
    pub(crate) optimizer: Box<dyn Optimizer>,
    /// Optimizer of the loss's own weights.
    pub(crate) loss_optimizer: Option<Box<dyn Optimizer>>,
    /// The model whose embeddings the loss also uses.
    pub(crate) guide: Option<Guide>,
    pub(crate) options: TrainerOptions,
    pub(crate) position: Position,
    /// The epoch's number and batches, once they are known.
    order: Option<(usize, Arc<Vec<Vec<usize>>>)>,
}

impl Trainer {
    /// Creates a trainer at the start of its run. `loss_optimizer` is for the
    /// weights of the loss, if it has any.
    #[must_use]
    pub fn new(
        model: Model,
        preparer: Preparer,
        criterion: Criterion,
        optimizer: Box<dyn Optimizer>,
        loss_optimizer: Option<Box<dyn Optimizer>>,
        options: TrainerOptions,
    ) -> Self {
        Self {
            model,
            preparer,
            criterion,
            optimizer,
            loss_optimizer,
            guide: None,
            options,
            position: Position::default(),
            order: None,
        }
    }

    /// Sets the batches of the first epoch, which the caller already computed.
    pub(crate) fn with_first_epoch(mut self, batches: Vec<Vec<usize>>) -> Self {
        self.order = Some((0, Arc::new(batches)));
        self
    }

    /// Returns the run's position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the batches of the current epoch.
    fn order(&mut self, set: &TrainingSet) -> Arc<Vec<Vec<usize>>> {
        let (epoch, options) = (self.position.epoch, &self.options);
        match &self.order {
            Some((of, order)) if *of == epoch => order.clone(),
            _ => {
                let (size, seed) = (options.batch_size, options.seed);
                let order = Arc::new(options.sampling.batches(set, size, seed, epoch));
                self.order = Some((epoch, order.clone()));
                order
            }
        }
    }

    /// Returns the number of steps of the current epoch over `set`.
    #[must_use]
    pub fn steps_per_epoch(&mut self, set: &TrainingSet) -> usize {
        let batches = self.order(set).len();
        batches.div_ceil(self.options.accumulation_steps.max(1))
    }

    /// Trains to the end of the current epoch, and returns its mean loss. Calls
    /// `after_step` after each step. An error from it ends the epoch early,
    /// with the position after the last complete step.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is no longer finite,
    /// [`Error::NotFinite`] if an embedding or gradient isn't, [`Error::Data`]
    /// if an example can't be read, or the error of `after_step`.
    pub fn epoch(
        &mut self,
        set: &TrainingSet,
        mut after_step: impl FnMut(Step) -> Result<()>,
    ) -> Result<f64> {
        let epoch = self.position.epoch;
        let order = self.order(set);
        let (count, together) = (order.len(), self.options.accumulation_steps.max(1));
        let steps = count.div_ceil(together);
        let (started, before) = (Instant::now(), self.position.examples);
        let Self {
            model,
            preparer,
            criterion,
            optimizer,
            loss_optimizer,
            guide,
            options,
            position,
            order: _,
        } = self;
        let batches = Batches {
            set,
            order,
            preparer,
            guide: guide.as_ref(),
            device: model.params().device().clone(),
            draws: Some((options.seed, epoch, options.augment)),
        };
        let mut sum = StepSum::default();
        batches.for_each(position.step * together, |number, batch| {
            let (number, index) = (number / together, number % together);
            // The last step of an epoch may have fewer batches.
            let of_step = together.min(count - number * together);
            if index == 0 {
                sum = StepSum::default();
                model.params().zero_grad();
                criterion.params().zero_grad();
            }
            let settings = BatchSettings {
                number: (position.total_steps * together + index) as u64,
                share: 1.0 / of_step as f64,
                dropout: options.dropout.then_some(options.seed),
                adapters: model.drops_in_adapters().then_some(options.seed),
            };
            let guide = guide.as_ref().map(|guide| &guide.model);
            let loss = step::train(model, guide, criterion, &batch, settings)?;
            loss.check(epoch + 1, number + 1)?;
            sum.add(loss.value, batch.len());
            if index + 1 < of_step {
                return Ok(());
            }
            let learning_rate = (options.learning_rate)(epoch, position.total_steps);
            let own = criterion.params();
            if let Some(name) = not_finite(&[model.params(), own])? {
                let (epoch, step) = (epoch + 1, number + 1);
                let what = format!("the gradient of `{name}` in epoch {epoch}, step {step},");
                return Err(Error::NotFinite { what });
            }
            if let Some(limit) = options.max_grad_norm {
                clip_gradients(&[model.params(), own], limit)?;
            }
            optimizer.step(model.params(), learning_rate)?;
            if let Some(optimizer) = loss_optimizer {
                optimizer.step(own, options.loss_learning_rate)?;
            }
            if criterion.spec().base() == finetuner_protocol::Loss::Clip
                && let Some(scale) = model.logit_scale().filter(|scale| scale.is_trainable())
            {
                scale.limit(MAX_LOGIT_SCALE.ln())?;
            }
            position.step = number + 1;
            position.total_steps += 1;
            position.loss_sum += sum.weighted;
            position.examples += sum.examples;
            after_step(Step {
                epoch: epoch + 1,
                step: number + 1,
                steps,
                loss: (sum.losses / of_step as f64) as f32,
                mean_loss: position.loss_sum / position.examples as f64,
                learning_rate,
                examples_per_second: (position.examples - before) as f64
                    / started.elapsed().as_secs_f64().max(1e-9),
            })
        })?;
        let mean = position.loss_sum / position.examples.max(1) as f64;
        *position = Position {
            epoch: epoch + 1,
            total_steps: position.total_steps,
            ..Position::default()
        };
        Ok(mean)
    }

    /// Returns the mean loss over `set` without training. Batches are sampled
    /// as in training, but are always the same.
    ///
    /// # Errors
    /// [`Error::Data`] if an example can't be read; errors as in
    /// [`Trainer::epoch`] if the loss or an embedding is not finite.
    pub fn validation_loss(&mut self, set: &TrainingSet) -> Result<f64> {
        let options = &self.options;
        let order = options.sampling.fixed_batches(set, options.batch_size);
        let order = Arc::new(order);
        let batches = Batches {
            set,
            order,
            preparer: &self.preparer,
            guide: self.guide.as_ref(),
            device: self.model.params().device().clone(),
            draws: None,
        };
        let (model, criterion) = (&self.model, &mut self.criterion);
        let guide = self.guide.as_ref().map(|guide| &guide.model);
        let (mut sum, mut seen) = (0.0, 0);
        let Position { epoch, step, .. } = self.position;
        batches.for_each(0, |_, batch| {
            let loss = step::evaluate(model, guide, criterion, &batch)?;
            loss.check(epoch.max(1), step)?;
            sum += f64::from(loss.value) * batch.len() as f64;
            seen += batch.len();
            Ok(())
        })?;
        Ok(sum / f64::from(seen.max(1) as u32))
    }
}

/// Losses of the batches of one step.
#[derive(Default)]
struct StepSum {
    losses: f64,
    /// Sum of the losses, weighted by their batches' sizes.
    weighted: f64,
    examples: usize,
}

impl StepSum {
    fn add(&mut self, loss: f32, examples: usize) {
        self.losses += f64::from(loss);
        self.weighted += f64::from(loss) * examples as f64;
        self.examples += examples;
    }
}
