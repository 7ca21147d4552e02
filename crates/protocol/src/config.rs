//! The configuration of a run.
//!
//! The two generations of the Python client write it differently. [`RunConfig`] reads
//! either form and writes the form of its [`Generation`].

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};

use crate::{
    Callback, HardNegatives, Loss, Miner, Modality, MoreData, MultiDatasetBatchSampler, Optimizer,
    Options, Prompts, Sampler, Scheduler, SchedulerStep, hard_negatives,
    members::with_extra_members,
};

pub use crate::generation::Generation;

/// All settings of a training run.
///
/// ```
/// let config: finetuner_protocol::RunConfig = serde_json::from_str(
///     r#"{"model": {"name": "clip-small"}, "data": {"train_data": "train"}}"#,
/// )?;
/// assert_eq!(config.data.train_data, "train");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RunConfig {
    /// Format of the configuration.
    pub generation: Generation,
    /// Whether others may read the artifact.
    pub public: bool,
    /// Name of the run.
    pub run_name: String,
    /// Name of the experiment.
    pub experiment_name: String,
    /// Model to train.
    pub model: Model,
    /// Training and validation data.
    pub data: Data,
    /// Callbacks, in the order in which they are called.
    pub callbacks: Vec<Callback>,
    /// Training settings.
    pub hyper_parameters: HyperParameters,
    /// Other members, kept as received.
    pub extra: Map<String, Value>,
}

/// Model to train.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Model {
    /// Name of the backbone.
    pub name: Option<String>,
    /// Artifact of an earlier run to continue from, instead of a name.
    pub artifact: Option<String>,
    /// Whether only a new last layer is trained.
    pub freeze: bool,
    /// Embedding dimension, if different from the backbone's.
    pub output_dim: Option<u64>,
    /// Options of the model.
    pub options: Option<Options>,
    /// Whether the artifact also contains the model as ONNX.
    pub to_onnx: bool,
    /// Whether the model has two towers. Sent by clients up to 0.2.2.
    pub multi_modal: Option<bool>,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Training and validation data of a run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Data {
    /// Name of the training data.
    pub train_data: String,
    /// Number of times that an epoch goes through `train_data`, in a run with
    /// `more_train_data`; 1 by default.
    pub train_data_weight: Option<f64>,
    /// Further data to train on. Each batch comes from one data set.
    pub more_train_data: Vec<MoreData>,
    /// The order of batches of several data sets; `proportional` by default.
    pub multi_dataset_batch_sampler: Option<MultiDatasetBatchSampler>,
    /// Name of the data for the validation loss.
    pub eval_data: Option<String>,
    /// Fraction of the training data to validate with if there is no `eval_data`.
    pub val_split: f64,
    /// Written by client 0.8.1; without effect.
    pub evaluate: bool,
    /// Threads that load data.
    pub num_workers: u64,
    /// Strategy that forms batches.
    pub sampler: Sampler,
    /// Number of documents of each class in a batch.
    pub num_items_per_class: u64,
    /// Modality of images; `image` by default.
    pub image_modality: Option<Modality>,
    /// Modality of texts; `text` by default.
    pub text_modality: Option<Modality>,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train_data: String::new(),
            train_data_weight: None,
            more_train_data: Vec::new(),
            multi_dataset_batch_sampler: None,
            eval_data: None,
            val_split: 0.0,
            evaluate: false,
            num_workers: 4,
            sampler: Sampler::Auto,
            num_items_per_class: 4,
            image_modality: None,
            text_modality: None,
            extra: Map::new(),
        }
    }
}

/// Training settings of a run.
///
/// ```
/// let defaults = finetuner_protocol::HyperParameters::default();
/// assert_eq!(defaults.epochs, 5);
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HyperParameters {
    /// Optimizer.
    pub optimizer: Optimizer,
    /// Options of the optimizer.
    pub optimizer_options: Option<Options>,
    /// Loss.
    pub loss: Loss,
    /// Options of the loss.
    pub loss_options: Option<Options>,
    /// Optimizer for the weights of the loss.
    pub loss_optimizer: Option<Optimizer>,
    /// Options of the optimizer for the weights of the loss.
    pub loss_optimizer_options: Option<Options>,
    /// Miner, which selects pairs or triplets from a batch.
    pub miner: Option<Miner>,
    /// Options of the miner.
    pub miner_options: Option<Options>,
    /// Learning rate schedule.
    pub scheduler: Option<Scheduler>,
    /// Options of the schedule.
    pub scheduler_options: Option<SchedulerOptions>,
    /// `batch` or `epoch`, where clients up to 0.7.1 put it.
    pub scheduler_step: Option<SchedulerStep>,
    /// Options for mining hard negatives before training.
    pub mine_hard_negatives: Option<HardNegatives>,
    /// Number of examples per batch; the backend chooses by default.
    pub batch_size: Option<u64>,
    /// Number of batches per optimizer step, whose gradients are averaged; 1 by
    /// default.
    pub gradient_accumulation_steps: Option<u64>,
    /// Learning rate; the optimizer's default by default.
    pub learning_rate: Option<f64>,
    /// Prompts before the texts of each column.
    pub prompts: Option<Prompts>,
    /// Number of epochs.
    pub epochs: u64,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for HyperParameters {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Adam,
            optimizer_options: None,
            loss: Loss::TripletMargin,
            loss_options: None,
            loss_optimizer: None,
            loss_optimizer_options: None,
            miner: None,
            miner_options: None,
            scheduler: None,
            scheduler_options: None,
            scheduler_step: None,
            mine_hard_negatives: None,
            batch_size: None,
            gradient_accumulation_steps: None,
            learning_rate: None,
            prompts: None,
            epochs: 5,
            extra: Map::new(),
        }
    }
}

/// Options of a learning rate schedule.
///
/// ```
/// use finetuner_protocol::SchedulerOptions;
///
/// let options = SchedulerOptions::default().num_warmup_steps(100).scheduler_step("epoch");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SchedulerOptions {
    /// Number of steps over which the learning rate rises from zero.
    pub num_warmup_steps: u64,
    /// Total number of steps, or `"auto"`.
    pub num_training_steps: Value,
    /// Whether the learning rate changes by `batch` or by `epoch`.
    pub scheduler_step: SchedulerStep,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            num_warmup_steps: 0,
            num_training_steps: "auto".into(),
            scheduler_step: SchedulerStep::Batch,
            extra: Map::new(),
        }
    }
}

impl SchedulerOptions {
    /// Sets [`SchedulerOptions::num_warmup_steps`].
    #[must_use]
    pub fn num_warmup_steps(mut self, steps: u64) -> Self {
        self.num_warmup_steps = steps;
        self
    }

    /// Sets [`SchedulerOptions::num_training_steps`] to a number.
    #[must_use]
    pub fn num_training_steps(mut self, steps: u64) -> Self {
        self.num_training_steps = steps.into();
        self
    }

    /// Sets [`SchedulerOptions::scheduler_step`], `batch` or `epoch`.
    #[must_use]
    pub fn scheduler_step(mut self, step: impl Into<SchedulerStep>) -> Self {
        self.scheduler_step = step.into();
        self
    }
}

impl RunConfig {
    /// Returns the paths of unknown members that are not null.
    ///
    /// A backend refuses them, because ignoring a setting would change the result.
    ///
    /// ```
    /// let config = serde_json::json!({"hyper_parameters": {"learning_rat": 1e-4}});
    /// let config: finetuner_protocol::RunConfig = serde_json::from_value(config)?;
    /// assert_eq!(config.unknown_members(), ["hyper_parameters.learning_rat"]);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn unknown_members(&self) -> Vec<String> {
        unknown_members(&[
            ("", &self.extra),
            ("model.", &self.model.extra),
            ("data.", &self.data.extra),
            ("hyper_parameters.", &self.hyper_parameters.extra),
        ])
    }

    fn to_json(&self) -> Value {
        let callbacks: Vec<Value> = self
            .callbacks
            .iter()
            .map(|callback| callback.to_json(self.generation))
            .collect();
        let parts = json!({
            "model": self.model.to_json(self.generation),
            "data": self.data.to_json(self.generation),
            "callbacks": callbacks,
            "hyper_parameters": self.hyper_parameters.to_json(self.generation),
            "run_name": self.run_name,
            "experiment_name": self.experiment_name,
        });
        let mut map = with_extra_members(parts, &self.extra);
        if self.generation == Generation::V0_8 {
            map.insert("public".to_owned(), self.public.into());
        }
        map.into()
    }
}

impl Model {
    fn to_json(&self, generation: Generation) -> Map<String, Value> {
        let options = &self.options;
        let mut model = match generation {
            Generation::V0_2 => json!({
                "name": self.name, "freeze": self.freeze, "output_dim": self.output_dim,
                "multi_modal": self.multi_modal.unwrap_or(false), "options": options,
            }),
            Generation::V0_8 => json!({
                "name": self.name, "artifact": self.artifact, "freeze": self.freeze,
                "output_dim": self.output_dim, "options": options, "to_onnx": self.to_onnx,
            }),
        };
        if let Some(multi_modal) = self.multi_modal {
            model["multi_modal"] = multi_modal.into();
        }
        with_extra_members(model, &self.extra)
    }
}

impl Data {
    fn to_json(&self, generation: Generation) -> Map<String, Value> {
        let mut data = match generation {
            Generation::V0_2 => json!({
                "train_data": self.train_data, "eval_data": self.eval_data,
                "image_modality": null, "text_modality": null,
            }),
            Generation::V0_8 => json!({
                "train_data": self.train_data, "eval_data": self.eval_data,
                "val_split": self.val_split, "evaluate": self.evaluate,
                "num_workers": self.num_workers, "sampler": self.sampler,
                "num_items_per_class": self.num_items_per_class,
            }),
        };
        for (key, modality) in [
            ("image_modality", &self.image_modality),
            ("text_modality", &self.text_modality),
        ] {
            if let Some(modality) = modality {
                data[key] = modality.as_str().into();
            }
        }
        if let Some(weight) = self.train_data_weight {
            data["train_data_weight"] = weight.into();
        }
        if !self.more_train_data.is_empty() {
            data["more_train_data"] = json!(self.more_train_data);
        }
        if let Some(sampler) = &self.multi_dataset_batch_sampler {
            data["multi_dataset_batch_sampler"] = sampler.as_str().into();
        }
        with_extra_members(data, &self.extra)
    }
}

impl HyperParameters {
    fn to_json(&self, generation: Generation) -> Map<String, Value> {
        let mut hyper = match generation {
            Generation::V0_2 => json!({
                "loss": self.loss, "optimizer": self.optimizer,
                "optimizer_options": self.optimizer_options.clone().unwrap_or_default(),
                "miner": self.miner, "batch_size": self.batch_size,
                "learning_rate": self.learning_rate, "epochs": self.epochs,
                "scheduler_step": self.scheduler_step.as_ref().unwrap_or(&SchedulerStep::Batch),
            }),
            Generation::V0_8 => json!({
                "optimizer": self.optimizer, "optimizer_options": self.optimizer_options,
                "loss": self.loss, "loss_options": self.loss_options,
                "loss_optimizer": self.loss_optimizer,
                "loss_optimizer_options": self.loss_optimizer_options,
                "miner": self.miner, "miner_options": self.miner_options,
                "scheduler": self.scheduler,
                "scheduler_options": self.scheduler_options.clone().unwrap_or_default(),
                "batch_size": self.batch_size, "learning_rate": self.learning_rate,
                "epochs": self.epochs,
            }),
        };
        if let Some(step) = &self.scheduler_step {
            hyper["scheduler_step"] = step.as_str().into();
        }
        if let Some(prompts) = &self.prompts {
            hyper["prompts"] = json!(prompts);
        }
        if let Some(steps) = self.gradient_accumulation_steps {
            hyper["gradient_accumulation_steps"] = steps.into();
        }
        if let Some(mining) = &self.mine_hard_negatives {
            hyper[hard_negatives::FIELD] = json!(mining);
        }
        with_extra_members(hyper, &self.extra)
    }
}

impl Serialize for RunConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RunConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            public: bool,
            #[serde(default)]
            run_name: String,
            #[serde(default)]
            experiment_name: String,
            #[serde(default)]
            model: Model,
            #[serde(default)]
            data: Data,
            #[serde(default)]
            callbacks: Vec<Value>,
            #[serde(default)]
            hyper_parameters: HyperParameters,
            #[serde(flatten)]
            extra: Map<String, Value>,
        }
        let value = Value::deserialize(deserializer)?;
        // Old servers encode the object as a string.
        let value = match value {
            Value::String(text) => serde_json::from_str(&text).map_err(de::Error::custom)?,
            other => other,
        };
        let generation = if value.get("public").is_some() {
            Generation::V0_8
        } else {
            Generation::V0_2
        };
        let wire: Wire = serde_json::from_value(value).map_err(de::Error::custom)?;
        let callbacks = wire
            .callbacks
            .into_iter()
            .map(Callback::from_json)
            .collect::<Result<_, _>>()
            .map_err(de::Error::custom)?;
        Ok(Self {
            generation,
            public: wire.public,
            run_name: wire.run_name,
            experiment_name: wire.experiment_name,
            model: wire.model,
            data: wire.data,
            callbacks,
            hyper_parameters: wire.hyper_parameters,
            extra: wire.extra,
        })
    }
}

/// Returns the paths of the unknown members of these parts, except nulls.
pub(crate) fn unknown_members(parts: &[(&str, &Map<String, Value>)]) -> Vec<String> {
    let members = parts.iter().flat_map(|(part, extra)| {
        let asks = extra.iter().filter(|(_, value)| !value.is_null());
        asks.map(move |(name, _)| format!("{part}{name}"))
    });
    members.collect()
}

#[cfg(test)]
mod tests;
