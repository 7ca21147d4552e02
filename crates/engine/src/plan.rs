//! A run's configuration, checked and converted to the engine's types.

mod allowed;
mod checks;
mod defaults;
mod inputs;
mod processor;
mod prompts;
mod source;

pub use allowed::Allowed;
use checks::{
    check_batch_size, check_layers, check_monitors, guide_source, loss_of, mining_settings,
    scores_or_embeds,
};
pub use defaults::default_options;
use finetuner_protocol::{
    Callback, HardNegatives, Loss, Modality, MoreData, MultiDatasetBatchSampler,
    Optimizer as OptimizerName, RunConfig, Sampler, callback::EvaluationCallback, find_backbone,
};
use inputs::{adapters, input_options, pooler};
pub(crate) use processor::check_checkpointing;
pub use processor::{choose_device, choose_precision};
pub use prompts::RunPrompts;
use source::model_source;

use crate::{
    Error, Precision, Result,
    callbacks::{self, TrainingCallback},
    data::{Layout, Mixing, Modalities, SearchKinds},
    lora::LoraSpec,
    loss::{Criterion, LossKind, LossSpec},
    models::ModelKind,
    ops::Pooler,
    optim::{OptimizerSpec, ScheduleSpec},
    options::OptionReader,
    source::ModelSource,
    tokenizer::Truncation,
};

/// A checked run configuration.
pub struct Plan {
    /// The location of the model.
    pub source: ModelSource,
    /// The kind of data that the model embeds.
    pub kind: ModelKind,
    /// The modalities of chunks.
    pub modalities: Modalities,
    /// The layout of the training data.
    pub layout: Layout,
    /// The name of the training data.
    pub train_data: String,
    /// Passes over it per epoch, if there is more training data.
    pub train_data_weight: f64,
    /// Further training data.
    pub more_train_data: Vec<MoreData>,
    /// The order of batches from several data sets.
    pub mixing: Mixing,
    /// The name of the evaluation data.
    pub eval_data: Option<String>,
    /// Fraction of the training data for validation.
    pub val_split: f64,
    /// Number of epochs.
    pub epochs: usize,
    /// Examples per batch; chosen by the available memory if `None`.
    pub batch_size: Option<usize>,
    /// Batches per optimizer step: `gradient_accumulation_steps`, 1 by default.
    pub accumulation_steps: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// Seed of the data order and of new weights: `model_options.seed`, 0 by
    /// default.
    pub seed: u64,
    /// Whether inputs are augmented: `model_options.augmentation` is `light`.
    pub augment: bool,
    /// Whether dropout is applied, with the rates in the model's files:
    /// `model_options.dropout`.
    pub dropout: Option<bool>,
    /// Requested precision of matrix products in training:
    /// `model_options.precision`, `float32` by default. See
    /// [`choose_precision`].
    pub precision: Precision,
    /// Whether training on a GPU saves only the inputs of transformer blocks
    /// and recomputes them in the backward pass:
    /// `model_options.gradient_checkpointing`.
    pub gradient_checkpointing: bool,
    /// Whether the network is frozen, so that only a new head is trained.
    pub freeze: bool,
    /// Adapters to train instead of the network's weights:
    /// `model_options.lora`.
    pub lora: Option<LoraSpec>,
    /// Embedding dimension, if different from the model's.
    pub output_dim: Option<usize>,
    /// Pooling, if the configuration sets it.
    pub pooler: Option<Pooler>,
    /// Number of end-of-epoch checkpoints to keep after the run:
    /// `last_k_epochs` of `TrainingCheckpoint`, 0 without it.
    pub keep_checkpoints: usize,
    pub(crate) loss: LossSpec,
    pub(crate) optimizer: OptimizerSpec,
    pub(crate) loss_optimizer: OptimizerSpec,
    pub(crate) schedule: ScheduleSpec,
    pub(crate) sampler: Sampler,
    pub(crate) items_per_class: usize,
    /// Settings for mining hard negatives before training.
    pub(crate) mining: Option<HardNegatives>,
    /// The model whose embeddings the loss also uses.
    pub(crate) guide: Option<ModelSource>,
    callbacks: Vec<Callback>,
    /// Prompts, if the run sets them.
    pub(crate) prompts: Option<RunPrompts>,
    /// Truncation of texts: `model_options.collate_options`.
    pub(crate) truncation: Truncation,
    /// Notes for the log on how open settings were decided.
    pub notes: Vec<String>,
}

impl Plan {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and what is allowed;
    /// [`Error::Model`] is about the model's name.
    pub fn new(config: &RunConfig, allowed: Allowed) -> Result<Self> {
        config
            .check()
            .map_err(|e| Error::config(e.field, format!("{}: {}", e.value, e.limit)))?;
        let (hyper, model, data) = (&config.hyper_parameters, &config.model, &config.data);
        let mut notes = Vec::new();
        let read = OptionReader::new("model_options", model.options.as_ref());
        let guides = allowed.clone();
        let (source, kind) = model_source(config, allowed, &read, &mut notes)?;
        let kind = scores_or_embeds(config, kind, &mut notes)?;
        if kind == ModelKind::TextImage
            && !matches!(source, ModelSource::Towers(_))
            && !model.freeze
            && let Some(dim) = model.output_dim
        {
            let reason = format!(
                "{dim}: a CLIP model keeps its embedding dimension while its towers are \
                 trained; omit the field, or set `freeze` to train projection heads of that dimension"
            );
            return Err(Error::config("output_dim", reason));
        }
        if kind == ModelKind::TextPairs
            && let Some(dim) = model.output_dim
        {
            let reason = format!(
                "{dim}: a cross-encoder returns one score per pair and no embeddings; omit the field"
            );
            return Err(Error::config("output_dim", reason));
        }
        if model.to_onnx && kind == ModelKind::PointCloud {
            let reason = "true: networks for point clouds have no ONNX form; omit the field";
            return Err(Error::config("to_onnx", reason));
        }
        if model
            .output_dim
            .is_some_and(|dim| dim == 0 || dim > 1 << 20)
        {
            let reason = "give a number from 1 to 1048576";
            return Err(Error::config("output_dim", reason));
        }
        let seed = read.value("seed").map_or(Ok(0), |value| {
            value
                .as_u64()
                .ok_or_else(|| read.bad("seed", "give a whole number"))
        })?;
        let augment = match kind {
            ModelKind::TextImage | ModelKind::Image | ModelKind::PointCloud => {
                read.choice("augmentation", "none", &["none", "light"])? == "light"
            }
            _ => false,
        };
        read.flag("torch", false)?;
        let dropout = match read.value("dropout") {
            None => None,
            Some(_) => Some(read.flag("dropout", false)?),
        };
        let precision = read.choice("precision", "float32", &Precision::NAMES)?;
        let precision = Precision::parse(&precision).unwrap_or_default();
        let gradient_checkpointing = read.flag("gradient_checkpointing", false)?;
        let pooler = pooler(&read, kind)?;
        let truncation = input_options(&read, kind)?;
        let lora = adapters(&read, kind, &source, model.freeze)?;
        read.finish()?;
        let loss = LossSpec {
            loss: loss_of(config, kind, &mut notes),
            options: hyper.loss_options.clone(),
            miner: hyper.miner.clone(),
            miner_options: hyper.miner_options.clone(),
        };
        let modalities = Modalities {
            text: given(&data.text_modality, "text"),
            image: given(&data.image_modality, "image"),
        };
        let layout = layout(kind, &loss, &modalities)?;
        let prompts = prompts::read_run_prompts(hyper.prompts.as_ref(), kind, &layout)?;
        check_batch_size(config, kind, &loss)?;
        let mining = mining_settings(config, &source, &loss)?;
        check_layers(config, kind, &loss)?;
        let guide = guide_source(&loss, kind, &guides)?;
        // Built with any number of classes, so that every option is checked.
        let criterion = Criterion::new(&loss, 2, 0, 0)?;
        let listed = model.name.as_deref().and_then(find_backbone);
        let is_cnn = listed.is_some_and(|backbone| backbone.architecture == "CNN");
        // For other networks, batch normalisation is detected when the run
        // starts.
        if !model.freeze && (is_cnn || kind == ModelKind::PointCloud) {
            criterion.refuse_mini_batches()?;
        }
        let optimizer = OptimizerSpec {
            name: hyper.optimizer.clone(),
            options: hyper.optimizer_options.clone(),
            fields: ["optimizer", "optimizer_options"],
        };
        let loss_optimizer = loss_optimizer(config, &criterion, &mut notes)?;
        let learning_rate = hyper.learning_rate.unwrap_or_else(|| {
            let rate = optimizer.default_learning_rate();
            notes.push(format!(
                "`learning_rate` not given: {rate}, the optimizer's default"
            ));
            rate
        });
        let mut plan = Self {
            source,
            kind,
            modalities,
            layout,
            train_data: data.train_data.clone(),
            train_data_weight: data.train_data_weight.unwrap_or(1.0),
            more_train_data: data.more_train_data.clone(),
            mixing: match data.multi_dataset_batch_sampler {
                Some(MultiDatasetBatchSampler::RoundRobin) => Mixing::RoundRobin,
                _ => Mixing::Proportional,
            },
            eval_data: data.eval_data.clone(),
            val_split: data.val_split,
            epochs: hyper.epochs as usize,
            batch_size: hyper.batch_size.map(|size| size as usize),
            accumulation_steps: hyper.gradient_accumulation_steps.unwrap_or(1) as usize,
            learning_rate,
            seed,
            augment,
            dropout,
            precision,
            gradient_checkpointing,
            freeze: model.freeze,
            lora,
            output_dim: model.output_dim.map(|dim| dim as usize),
            pooler,
            keep_checkpoints: keep_checkpoints(&config.callbacks),
            loss,
            optimizer,
            loss_optimizer,
            schedule: ScheduleSpec {
                scheduler: hyper.scheduler.clone(),
                options: hyper.scheduler_options.clone(),
                step: hyper.scheduler_step.clone(),
            },
            sampler: data.sampler.clone(),
            items_per_class: data.num_items_per_class.max(1) as usize,
            mining,
            guide,
            callbacks: config.callbacks.clone(),
            prompts,
            truncation,
            notes,
        };
        // Building them checks all their options.
        plan.optimizer.build(Default::default())?;
        plan.optimizer.check_decay(plan.learning_rate)?;
        let own = plan.loss_optimizer.learning_rate(plan.learning_rate);
        plan.loss_optimizer.build(Default::default())?;
        plan.loss_optimizer.check_decay(own)?;
        // The number of steps is still unknown. With a huge number, only errors
        // that do not depend on it are found.
        plan.schedule
            .build(plan.epochs, usize::MAX / 64, plan.learning_rate)?;
        plan.callbacks()?;
        check_monitors(config, kind, &mut plan.notes)?;
        Ok(plan)
    }

    /// Returns the names of all data sets that the run reads, without repeats.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        let mut names = self.train_data_names();
        names.extend(self.corpus().map(str::to_owned));
        for evaluation in self.evaluations() {
            names.push(evaluation.query_data.clone());
            names.extend(evaluation.index_data.clone());
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// Returns the names of the data sets that must have the layout
    /// [`Plan::layout`].
    #[must_use]
    pub fn train_data_names(&self) -> Vec<String> {
        let mut names = vec![self.train_data.clone()];
        names.extend(self.more_train_data.iter().map(|data| data.name.clone()));
        names.extend(self.eval_data.clone());
        names.dedup();
        names
    }

    /// Returns the name of the further data set from which hard negatives are
    /// mined.
    #[must_use]
    pub fn corpus(&self) -> Option<&str> {
        self.mining.as_ref()?.corpus.as_deref()
    }

    /// Returns the run's evaluations.
    pub(crate) fn evaluations(&self) -> impl Iterator<Item = &EvaluationCallback> {
        self.callbacks.iter().filter_map(|callback| match callback {
            Callback::EvaluationCallback(evaluation) => Some(evaluation),
            _ => None,
        })
    }

    /// Returns the metrics other than losses that callbacks monitor, each with
    /// its callback's name.
    pub(crate) fn watched_metrics(&self) -> impl Iterator<Item = (&str, &str)> {
        callbacks::watched_metrics(&self.callbacks)
    }

    /// Returns the kinds of queries and indexed items of an evaluation.
    ///
    /// # Errors
    /// [`Error::Config`] if it names parts that the model doesn't have.
    pub fn search_kinds(&self, evaluation: &EvaluationCallback) -> Result<SearchKinds> {
        callbacks::search_kinds(evaluation, self.kind)
    }

    pub(crate) fn callbacks(&self) -> Result<Vec<Box<dyn TrainingCallback>>> {
        callbacks::build(&self.callbacks, self.kind)
    }
}

/// Returns the data layout that the loss needs for a kind of model.
fn layout(kind: ModelKind, loss: &LossSpec, modalities: &Modalities) -> Result<Layout> {
    let name = &loss.base();
    Ok(match (kind, loss.kind()) {
        (ModelKind::TextImage, LossKind::Clip) => Layout::TextImage(modalities.clone()),
        (ModelKind::TextImage, _) => {
            let reason = format!(
                "`{name}`: a text-to-image model is trained with `CLIPLoss` or `SigLIPLoss`; use \
                 one of them, without `loss_options` and `miner`"
            );
            return Err(Error::config("loss", reason));
        }
        (ModelKind::TextPairs, _) => Layout::Scored(ModelKind::Text),
        (_, LossKind::Clip) => {
            let reason = format!(
                "`{name}` is for models that embed texts and images; the usual loss of others \
                 is `{}`",
                Loss::TripletMargin
            );
            return Err(Error::config("loss", reason));
        }
        (kind, LossKind::Labels) => Layout::Labelled(kind),
        (kind, LossKind::Items) => Layout::Items(kind),
        (kind, LossKind::Pairs) => Layout::Pairs(kind),
        (kind, LossKind::Ranking) => Layout::Ranking(kind),
        (kind, LossKind::Scores | LossKind::PairScores) => Layout::Scored(kind),
        (kind, LossKind::Negatives) => Layout::Negatives(kind),
        (kind, LossKind::Margins) => Layout::Margins(kind),
    })
}

fn loss_optimizer(
    config: &RunConfig,
    criterion: &Criterion,
    notes: &mut Vec<String>,
) -> Result<OptimizerSpec> {
    let hyper = &config.hyper_parameters;
    let has_weights = criterion.params().count() > 0;
    if !has_weights && let Some(optimizer) = &hyper.loss_optimizer {
        let reason = format!("`{optimizer}`: `{}` has no weights of its own", hyper.loss);
        return Err(Error::config("loss_optimizer", reason));
    }
    let name = hyper.loss_optimizer.clone().unwrap_or_else(|| {
        if has_weights {
            notes.push(format!(
                "`loss_optimizer` not given: using `{}` for the weights of `{}`",
                hyper.optimizer, hyper.loss
            ));
        }
        // Without weights any optimizer will do, since it never takes a step.
        if has_weights {
            hyper.optimizer.clone()
        } else {
            OptimizerName::Adam
        }
    });
    Ok(OptimizerSpec {
        name,
        options: hyper.loss_optimizer_options.clone(),
        fields: ["loss_optimizer", "loss_optimizer_options"],
    })
}

fn keep_checkpoints(callbacks: &[Callback]) -> usize {
    let wanted = callbacks.iter().filter_map(|callback| match callback {
        Callback::TrainingCheckpoint(options) => Some(options.last_k_epochs as usize),
        _ => None,
    });
    wanted.max().unwrap_or(0)
}

fn given(modality: &Option<Modality>, default: &str) -> String {
    let given = modality.as_ref().map(Modality::as_str);
    given
        .filter(|name| !name.is_empty())
        .unwrap_or(default)
        .to_owned()
}
