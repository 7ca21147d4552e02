//! The settings of a job, under the names of the Python client's arguments.

use finetuner_protocol::{
    Device, Generation, Lora, Loss, Miner, Optimizer, Options, Sampler, Scheduler, SchedulerOptions,
};
use serde_json::Value;

use super::Fit;
use crate::{FitCallback, progress::progress_methods};

impl Fit {
    /// The run's name, unique in its experiment; one is made up by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.run_name("clip-fashion-1");
    /// # }
    /// ```
    pub fn run_name(mut self, name: impl Into<String>) -> Self {
        self.config.run_name = name.into();
        self
    }

    /// The run's experiment, which is created where it is not there;
    /// `default` by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.experiment_name("fashion");
    /// # }
    /// ```
    pub fn experiment_name(mut self, name: impl Into<String>) -> Self {
        self.config.experiment_name = name.into();
        self
    }

    /// A text about the run.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.description("with the pictures of spring");
    /// # }
    /// ```
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// Goes on from an earlier run's artifact in place of a backbone.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.model_artifact("62972acb5de25a53fdbfcecc");
    /// # }
    /// ```
    pub fn model_artifact(mut self, id: impl Into<String>) -> Self {
        self.config.model.artifact = Some(id.into());
        self.config.model.name = None;
        self
    }

    /// All options of the model at once.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Options;
    ///
    /// let fit = fit.model_options(Options::from([("pooler", "mean")]));
    /// # }
    /// ```
    pub fn model_options(mut self, options: impl Into<Options>) -> Self {
        self.config.model.options = Some(options.into());
        self
    }

    /// Trains low-rank adapters in place of the model's weights: less memory, and
    /// an adapter of a few megabytes beside the model. An option of the model,
    /// which [`Fit::model_options`] would replace when it is called later.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Lora;
    ///
    /// let fit = fit.lora(Lora::new().r(16).lora_alpha(32.0).all_linear());
    /// # }
    /// ```
    pub fn lora(mut self, lora: Lora) -> Self {
        let options = self.config.model.options.take().unwrap_or_default();
        self.config.model.options = Some(options.lora(lora));
        self
    }

    /// An option of the model. Our backend knows `seed`, a whole number that
    /// decides the order of the data (0 by default), `augmentation`, `none` or
    /// `light`, `dropout`, `true` or `false`, `precision`, `float32`, `bfloat16`
    /// or `tf32`, and `gradient_checkpointing`, `true` or `false`.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.model_option("seed", 7).model_option("augmentation", "light");
    /// # }
    /// ```
    pub fn model_option(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let options = self.config.model.options.get_or_insert_default();
        options.insert(name.into(), value.into());
        self
    }

    /// Trains only a new last layer.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.freeze(true).output_dim(128);
    /// # }
    /// ```
    pub fn freeze(mut self, freeze: bool) -> Self {
        self.config.model.freeze = freeze;
        self
    }

    /// The length of the embeddings, where it shall be another.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.output_dim(128);
    /// # }
    /// ```
    pub fn output_dim(mut self, dim: u64) -> Self {
        self.config.model.output_dim = Some(dim);
        self
    }

    /// Whether the artifact also holds the model as ONNX:
    /// `models/<name>/model.onnx`, one file for each tower of a text-to-image
    /// model. Off by default, because it doubles the size of the artifact.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.to_onnx(true);
    /// # }
    /// ```
    pub fn to_onnx(mut self, onnx: bool) -> Self {
        self.config.model.to_onnx = onnx;
        self
    }

    /// The loss. A model for text-to-image search is trained with
    /// [`Loss::Clip`].
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Loss;
    ///
    /// let fit = fit.loss(Loss::Clip);
    /// // By its name, such as one that this version has no word for:
    /// let fit = fit.loss("CircleLoss");
    /// # }
    /// ```
    pub fn loss(mut self, loss: impl Into<Loss>) -> Self {
        self.hyper().loss = loss.into();
        self
    }

    /// The loss's options.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Options;
    ///
    /// let fit = fit.loss("TripletMarginLoss").loss_options(Options::from([("margin", 0.1)]));
    /// # }
    /// ```
    pub fn loss_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().loss_options = Some(options.into());
        self
    }

    /// The optimizer of the loss's own weights.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.loss("ArcFaceLoss").loss_optimizer("Adam");
    /// # }
    /// ```
    pub fn loss_optimizer(mut self, name: impl Into<Optimizer>) -> Self {
        self.hyper().loss_optimizer = Some(name.into());
        self
    }

    /// Options of the optimizer of the loss's own weights.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Options;
    ///
    /// let fit = fit.loss_optimizer_options(Options::from([("lr", 0.01)]));
    /// # }
    /// ```
    pub fn loss_optimizer_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().loss_optimizer_options = Some(options.into());
        self
    }

    /// What chooses pairs or triplets from a batch.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.miner("TripletMarginMiner");
    /// # }
    /// ```
    pub fn miner(mut self, name: impl Into<Miner>) -> Self {
        self.hyper().miner = Some(name.into());
        self
    }

    /// The miner's options.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Options;
    ///
    /// let fit = fit.miner_options(Options::from([("margin", 0.3)]));
    /// # }
    /// ```
    pub fn miner_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().miner_options = Some(options.into());
        self
    }

    /// The optimizer; [`Optimizer::Adam`] by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Optimizer;
    ///
    /// let fit = fit.optimizer(Optimizer::AdamW);
    /// # }
    /// ```
    pub fn optimizer(mut self, optimizer: impl Into<Optimizer>) -> Self {
        self.hyper().optimizer = optimizer.into();
        self
    }

    /// The optimizer's options, named as in `torch.optim`, such as
    /// `weight_decay`.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Options;
    ///
    /// let fit = fit.optimizer_options(Options::from([("weight_decay", 0.01)]));
    /// # }
    /// ```
    pub fn optimizer_options(mut self, options: impl Into<Options>) -> Self {
        self.hyper().optimizer_options = Some(options.into());
        self
    }

    /// How far a step goes, at least 1e-12 and less than 1; the optimizer's
    /// default where none is given.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.learning_rate(1e-5);
    /// # }
    /// ```
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.hyper().learning_rate = Some(rate);
        self
    }

    /// Times that the data is gone through, 1 to
    /// [`MAX_EPOCHS`](crate::MAX_EPOCHS); 5 by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.epochs(5);
    /// # }
    /// ```
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = Some(epochs);
        self
    }

    /// Pairs in a step; the backend chooses by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.batch_size(64);
    /// # }
    /// ```
    pub fn batch_size(mut self, size: u64) -> Self {
        self.hyper().batch_size = Some(size);
        self
    }

    /// Batches of one step of the optimizer, 1 to 65,536; 1 by default. Their
    /// gradients are averaged, so that a step counts as one of a larger batch.
    /// Losses compare examples of one batch only: for more negatives, give the
    /// loss a [`mini_batch_size`](finetuner_protocol::Options::mini_batch_size)
    /// and a larger batch.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.batch_size(16).gradient_accumulation_steps(4);
    /// # }
    /// ```
    pub fn gradient_accumulation_steps(mut self, steps: u64) -> Self {
        self.hyper().gradient_accumulation_steps = Some(steps);
        self
    }

    /// How the learning rate changes; it stays the same by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.scheduler("linear");
    /// # }
    /// ```
    pub fn scheduler(mut self, name: impl Into<Scheduler>) -> Self {
        self.hyper().scheduler = Some(name.into());
        self
    }

    /// The scheduler's options.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::SchedulerOptions;
    ///
    /// let options = SchedulerOptions {
    ///     num_warmup_steps: 100,
    ///     ..SchedulerOptions::default()
    /// };
    /// let fit = fit.scheduler("linear").scheduler_options(options);
    /// # }
    /// ```
    pub fn scheduler_options(mut self, options: SchedulerOptions) -> Self {
        self.hyper().scheduler_options = Some(options);
        self
    }

    /// Whether the learning rate changes by `batch` or by `epoch`, where clients
    /// up to 0.7.1 said so; later ones do in the scheduler's options.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.scheduler_step("epoch");
    /// # }
    /// ```
    pub fn scheduler_step(mut self, step: impl Into<String>) -> Self {
        self.hyper().scheduler_step = Some(step.into());
        self
    }

    /// Something to do beside the training, such as
    /// [`EvaluationCallback`](crate::EvaluationCallback); may be called several
    /// times. Callbacks act in their order: one that measures comes before
    /// those that watch what it measures.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::{BestModelCheckpoint, EvaluationCallback};
    ///
    /// let fit = fit
    ///     .callback(EvaluationCallback::new("clip-fashion-eval-data"))
    ///     .callback(BestModelCheckpoint::new());
    /// # }
    /// ```
    pub fn callback(mut self, callback: impl Into<FitCallback>) -> Self {
        self.callbacks.push(callback.into());
        self
    }

    /// All callbacks at once.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::{BestModelCheckpoint, EarlyStopping, FitCallback};
    ///
    /// let all: Vec<FitCallback> =
    ///     vec![BestModelCheckpoint::new().into(), EarlyStopping::new().into()];
    /// let fit = fit.callbacks(all);
    /// # }
    /// ```
    pub fn callbacks(mut self, callbacks: impl IntoIterator<Item = FitCallback>) -> Self {
        self.callbacks = callbacks.into_iter().collect();
        self
    }

    progress_methods!(
        "upload of data is, in documents",
        "finetuner.fit(\"clip-small\", finetuner::Csv::path(\"train.csv\"))",
        |_fit| "Pushing data".to_owned()
    );

    /// How batches are put together; [`Sampler::Auto`] by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.sampler("class");
    /// # }
    /// ```
    pub fn sampler(mut self, sampler: impl Into<Sampler>) -> Self {
        self.config.data.sampler = sampler.into();
        self
    }

    /// Documents of one class in a batch, at least 2; 4 by default.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.num_items_per_class(8);
    /// # }
    /// ```
    pub fn num_items_per_class(mut self, count: u64) -> Self {
        self.config.data.num_items_per_class = count;
        self
    }

    /// Threads that load data; 4 by default. Our backend chooses itself.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.num_workers(2);
    /// # }
    /// ```
    pub fn num_workers(mut self, count: u64) -> Self {
        self.config.data.num_workers = count;
        self
    }

    /// The processor to train on: [`Device::Gpu`] by default, as in Python
    /// (`cuda`). A backend without one trains on its main processor, and warns
    /// in the run's log.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.device("cpu");
    /// # }
    /// ```
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.device = Some(device.into().from_python());
        self
    }

    /// Whether others may read the artifact.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// let fit = fit.public(true);
    /// # }
    /// ```
    pub fn public(mut self, public: bool) -> Self {
        self.config.public = public;
        self
    }

    /// Which Python client the request looks like. The earlier one's defaults
    /// come with it where nothing was set: 20 epochs, batches of 8, a learning
    /// rate of 0.001, the main processor.
    ///
    /// ```no_run
    /// # fn example(fit: finetuner::Fit) {
    /// use finetuner::Generation;
    ///
    /// // For a server of 2022.
    /// let fit = fit.generation(Generation::V0_2);
    /// # }
    /// ```
    pub fn generation(mut self, generation: Generation) -> Self {
        self.config.generation = generation;
        self
    }
}
