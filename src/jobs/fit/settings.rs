//! Settings of a job, with the names of the Python client's arguments.

use finetuner_protocol::{
    Device, Generation, Lora, Loss, Miner, Optimizer, Options, Sampler, Scheduler,
    SchedulerOptions, SchedulerStep,
};
use serde_json::Value;

use super::Fit;
use crate::{jobs::callbacks::FitCallback, transport::progress_methods};

impl Fit {
    /// Sets the run's name, unique in its experiment; a random one by default.
    pub fn run_name(mut self, name: impl Into<String>) -> Self {
        self.config.run_name = name.into();
        self
    }

    /// Sets the experiment; `default` by default. It is created if necessary.
    pub fn experiment_name(mut self, name: impl Into<String>) -> Self {
        self.config.experiment_name = name.into();
        self
    }

    /// Sets a description of the run.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Adds tags. Lists of runs can be filtered by tags.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Sets the note of the run.
    ///
    /// [`Run::set_note`](crate::Run::set_note) changes it later.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.note = text.into();
        self
    }

    /// Starts from the artifact of an earlier run instead of a backbone.
    ///
    /// [`BaseModel::artifact`](crate::BaseModel::artifact) does the same.
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

    /// Trains low-rank adapters instead of the model's weights.
    ///
    /// This needs less memory, and saves an adapter of a few megabytes beside the
    /// model. It is an option of the model, so a later [`Fit::model_options`] would
    /// replace it.
    pub fn lora(mut self, lora: Lora) -> Self {
        let options = self.config.model.options.take().unwrap_or_default();
        self.config.model.options = Some(options.lora(lora));
        self
    }

    /// Sets an option of the model.
    ///
    /// `finetuner-server` knows `seed` (a whole number that determines the order of
    /// the data, 0 by default), `augmentation` (`none` or `light`), `dropout` (a
    /// boolean), `precision` (`float32`, `bfloat16` or `tf32`) and
    /// `gradient_checkpointing` (a boolean).
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

    /// Sets the embedding dimension, if different from the base model's.
    pub fn output_dim(mut self, dim: u64) -> Self {
        self.config.model.output_dim = Some(dim);
        self
    }

    /// Sets whether the artifact also contains the model as ONNX; off by default.
    ///
    /// The files are `models/<name>/model.onnx`, one for each tower of a
    /// text-to-image model. They double the size of the artifact.
    pub fn to_onnx(mut self, onnx: bool) -> Self {
        self.config.model.to_onnx = onnx;
        self
    }

    /// Sets the loss. Models for text-to-image search use [`Loss::Clip`].
    pub fn loss(mut self, loss: impl Into<Loss>) -> Self {
        self.hyper().loss = loss.into();
        self
    }

    /// Sets the options of the loss.
    pub fn loss_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().loss_options = Some(options.into());
        self
    }

    /// Sets the optimizer for the weights of the loss.
    pub fn loss_optimizer(mut self, name: impl Into<Optimizer>) -> Self {
        self.hyper().loss_optimizer = Some(name.into());
        self
    }

    /// Sets the options of the optimizer for the weights of the loss.
    pub fn loss_optimizer_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().loss_optimizer_options = Some(options.into());
        self
    }

    /// Sets the miner, which selects pairs or triplets from each batch.
    pub fn miner(mut self, name: impl Into<Miner>) -> Self {
        self.hyper().miner = Some(name.into());
        self
    }

    /// Sets the options of the miner.
    pub fn miner_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().miner_options = Some(options.into());
        self
    }

    /// Sets the optimizer; [`Optimizer::Adam`] by default.
    pub fn optimizer(mut self, optimizer: impl Into<Optimizer>) -> Self {
        self.hyper().optimizer = optimizer.into();
        self
    }

    /// Sets the options of the optimizer, such as `weight_decay`.
    ///
    /// They have the names of `torch.optim`.
    pub fn optimizer_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().optimizer_options = Some(options.into());
        self
    }

    /// Sets the learning rate; the optimizer's default by default.
    ///
    /// It is at least 1e-12 and less than 1.
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.hyper().learning_rate = Some(rate);
        self
    }

    /// Sets the number of epochs, 1 to [`MAX_EPOCHS`](crate::MAX_EPOCHS); 5 by
    /// default.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = Some(epochs);
        self
    }

    /// Sets the number of examples per batch; the backend chooses by default.
    pub fn batch_size(mut self, size: u64) -> Self {
        self.hyper().batch_size = Some(size);
        self
    }

    /// Sets the number of batches per optimizer step, 1 to 65,536; 1 by default.
    ///
    /// Their gradients are averaged, so a step counts as one of a larger batch. But
    /// losses compare only examples of one batch: for more negatives, use a larger
    /// batch and set
    /// [`mini_batch_size`](finetuner_protocol::Options::mini_batch_size) of the loss.
    pub fn gradient_accumulation_steps(mut self, steps: u64) -> Self {
        self.hyper().gradient_accumulation_steps = Some(steps);
        self
    }

    /// Sets the learning rate schedule; constant by default.
    pub fn scheduler(mut self, name: impl Into<Scheduler>) -> Self {
        self.hyper().scheduler = Some(name.into());
        self
    }

    /// Sets the options of the schedule.
    pub fn scheduler_options(mut self, options: SchedulerOptions) -> Self {
        self.hyper().scheduler_options = Some(options);
        self
    }

    /// Sets whether the learning rate changes per `batch` or per `epoch`.
    ///
    /// Python clients up to 0.7.1 have this setting; later ones use the options of
    /// the schedule.
    pub fn scheduler_step(mut self, step: impl Into<SchedulerStep>) -> Self {
        self.hyper().scheduler_step = Some(step.into());
        self
    }

    /// Adds a callback, such as [`EvaluationCallback`](crate::EvaluationCallback).
    ///
    /// Callbacks run in this order: one that measures a metric comes before those
    /// that watch it.
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

    /// Sets how batches are formed; [`Sampler::Auto`] by default.
    pub fn sampler(mut self, sampler: impl Into<Sampler>) -> Self {
        self.config.data.sampler = sampler.into();
        self
    }

    /// Sets the number of examples of each class in a batch, at least 2; 4 by
    /// default.
    pub fn num_items_per_class(mut self, count: u64) -> Self {
        self.config.data.num_items_per_class = count;
        self
    }

    /// Sets the number of threads that load data; 4 by default.
    ///
    /// `finetuner-server` asks a cluster for this many cores, and ignores it otherwise.
    pub fn num_workers(mut self, count: u64) -> Self {
        self.config.data.num_workers = count;
        self
    }

    /// Sets the device; [`Device::Gpu`] by default, as in Python (`cuda`).
    ///
    /// A backend without a GPU trains on the CPU and logs a warning in the run.
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.device = Some(device.into().canonical());
        self
    }

    /// Sets whether others may read the artifact; off by default.
    pub fn public(mut self, public: bool) -> Self {
        self.config.public = public;
        self
    }

    /// Sets the generation of the Python client that the request imitates.
    ///
    /// The generation of 2022 has other defaults: 20 epochs, batches of 8, a learning
    /// rate of 0.001, the CPU.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.config.generation = generation;
        self
    }
}
