//! The settings of a job, under the names of the Python client's arguments.

use finetuner_protocol::{
    Device, Generation, Lora, Loss, Miner, Optimizer, Options, Sampler, Scheduler,
    SchedulerOptions, SchedulerStep,
};
use serde_json::Value;

use super::Fit;
use crate::{jobs::callbacks::FitCallback, transport::progress_methods};

impl Fit {
    /// The run's name, unique in its experiment; a random one by default.
    pub fn run_name(mut self, name: impl Into<String>) -> Self {
        self.config.run_name = name.into();
        self
    }

    /// The run's experiment, which is created if it does not exist; `default` by
    /// default.
    pub fn experiment_name(mut self, name: impl Into<String>) -> Self {
        self.config.experiment_name = name.into();
        self
    }

    /// A text about the run.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Adds tags, by which lists of runs can be filtered.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// A note about the run, which can be changed later; see
    /// [`Run::set_note`](crate::Run::set_note).
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.note = text.into();
        self
    }

    /// Starts from the artifact of an earlier run in place of a backbone, as
    /// [`BaseModel::artifact`](crate::BaseModel::artifact) does.
    pub fn model_artifact(mut self, id: impl Into<String>) -> Self {
        self.config.model.artifact = Some(id.into());
        self.config.model.name = None;
        self
    }

    /// Replaces all options of the model.
    pub fn model_options(mut self, options: impl Into<Options>) -> Self {
        self.config.model.options = Some(options.into());
        self
    }

    /// Trains low-rank adapters in place of the model's weights: less memory, and
    /// an adapter of a few megabytes beside the model. An option of the model,
    /// which [`Fit::model_options`] would replace when it is called later.
    pub fn lora(mut self, lora: Lora) -> Self {
        let options = self.config.model.options.take().unwrap_or_default();
        self.config.model.options = Some(options.lora(lora));
        self
    }

    /// Sets an option of the model. Our backend knows `seed`, a whole number that
    /// decides the order of the data (0 by default), `augmentation`, `none` or
    /// `light`, `dropout`, `true` or `false`, `precision`, `float32`, `bfloat16`
    /// or `tf32`, and `gradient_checkpointing`, `true` or `false`.
    pub fn model_option(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let options = self.config.model.options.get_or_insert_default();
        options.insert(name.into(), value.into());
        self
    }

    /// Trains only a new last layer.
    pub fn freeze(mut self, freeze: bool) -> Self {
        self.config.model.freeze = freeze;
        self
    }

    /// Embedding dimension, if different from the base model's.
    pub fn output_dim(mut self, dim: u64) -> Self {
        self.config.model.output_dim = Some(dim);
        self
    }

    /// Whether the artifact also holds the model as ONNX:
    /// `models/<name>/model.onnx`, one file for each tower of a text-to-image
    /// model. Off by default, because it doubles the size of the artifact.
    pub fn to_onnx(mut self, onnx: bool) -> Self {
        self.config.model.to_onnx = onnx;
        self
    }

    /// The loss. A model for text-to-image search is trained with
    /// [`Loss::Clip`].
    pub fn loss(mut self, loss: impl Into<Loss>) -> Self {
        self.hyper().loss = loss.into();
        self
    }

    /// The loss's options.
    pub fn loss_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().loss_options = Some(options.into());
        self
    }

    /// The optimizer of the loss's own weights.
    pub fn loss_optimizer(mut self, name: impl Into<Optimizer>) -> Self {
        self.hyper().loss_optimizer = Some(name.into());
        self
    }

    /// Options of the optimizer of the loss's own weights.
    pub fn loss_optimizer_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().loss_optimizer_options = Some(options.into());
        self
    }

    /// Chooses pairs or triplets from each batch.
    pub fn miner(mut self, name: impl Into<Miner>) -> Self {
        self.hyper().miner = Some(name.into());
        self
    }

    /// The miner's options.
    pub fn miner_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().miner_options = Some(options.into());
        self
    }

    /// The optimizer; [`Optimizer::Adam`] by default.
    pub fn optimizer(mut self, optimizer: impl Into<Optimizer>) -> Self {
        self.hyper().optimizer = optimizer.into();
        self
    }

    /// The optimizer's options, named as in `torch.optim`, such as
    /// `weight_decay`.
    pub fn optimizer_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().optimizer_options = Some(options.into());
        self
    }

    /// Learning rate, at least 1e-12 and less than 1; the optimizer's default by
    /// default.
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.hyper().learning_rate = Some(rate);
        self
    }

    /// Number of epochs, 1 to [`MAX_EPOCHS`](crate::MAX_EPOCHS); 5 by default.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = Some(epochs);
        self
    }

    /// Pairs in a step; the backend chooses by default.
    pub fn batch_size(mut self, size: u64) -> Self {
        self.hyper().batch_size = Some(size);
        self
    }

    /// Batches of one step of the optimizer, 1 to 65,536; 1 by default. Their
    /// gradients are averaged, so that a step counts as one of a larger batch.
    /// Losses compare examples of one batch only: for more negatives, give the
    /// loss a [`mini_batch_size`](finetuner_protocol::Options::mini_batch_size)
    /// and a larger batch.
    pub fn gradient_accumulation_steps(mut self, steps: u64) -> Self {
        self.hyper().gradient_accumulation_steps = Some(steps);
        self
    }

    /// How the learning rate changes; it stays the same by default.
    pub fn scheduler(mut self, name: impl Into<Scheduler>) -> Self {
        self.hyper().scheduler = Some(name.into());
        self
    }

    /// The scheduler's options.
    pub fn scheduler_options(mut self, options: SchedulerOptions) -> Self {
        self.hyper().scheduler_options = Some(options);
        self
    }

    /// Whether the learning rate changes by `batch` or by `epoch`, where clients
    /// up to 0.7.1 said so; later ones do in the scheduler's options.
    pub fn scheduler_step(mut self, step: impl Into<SchedulerStep>) -> Self {
        self.hyper().scheduler_step = Some(step.into());
        self
    }

    /// Adds a callback, such as [`EvaluationCallback`](crate::EvaluationCallback).
    /// Callbacks act in their order: one that measures comes before those that
    /// watch its metrics.
    pub fn callback(mut self, callback: impl Into<FitCallback>) -> Self {
        self.callbacks.push(callback.into());
        self
    }

    /// Replaces all callbacks.
    pub fn callbacks(mut self, callbacks: impl IntoIterator<Item = FitCallback>) -> Self {
        self.callbacks = callbacks.into_iter().collect();
        self
    }

    progress_methods!("upload, in documents", |_fit| "Pushing data".to_owned());

    /// How batches are formed; [`Sampler::Auto`] by default.
    pub fn sampler(mut self, sampler: impl Into<Sampler>) -> Self {
        self.config.data.sampler = sampler.into();
        self
    }

    /// Documents of one class in a batch, at least 2; 4 by default.
    pub fn num_items_per_class(mut self, count: u64) -> Self {
        self.config.data.num_items_per_class = count;
        self
    }

    /// Threads that load data; 4 by default. Our backend chooses itself.
    pub fn num_workers(mut self, count: u64) -> Self {
        self.config.data.num_workers = count;
        self
    }

    /// The processor to train on: [`Device::Gpu`] by default, as in Python
    /// (`cuda`). A backend without one trains on its main processor, and warns
    /// in the run's log.
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.device = Some(device.into().from_python());
        self
    }

    /// Whether others may read the artifact.
    pub fn public(mut self, public: bool) -> Self {
        self.config.public = public;
        self
    }

    /// The generation of the Python client that the request looks like. That of
    /// 2022 has other defaults: 20 epochs, batches of 8, a learning rate of 0.001,
    /// the main processor.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.config.generation = generation;
        self
    }
}
