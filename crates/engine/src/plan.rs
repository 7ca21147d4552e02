//! What a run configuration asks for, checked, and in the engine's own terms.

mod checks;
mod inputs;
mod processor;
mod prompts;

use checks::{
    check_batch_size, check_layers, check_monitors, guide, loss_of, mining, scores_or_embeds,
};
use finetuner_protocol::{
    Callback, EFFICIENTNET_SMALL, HardNegatives, Loss, MINILM_SMALL, Modality, MoreData,
    MultiDatasetBatchSampler, Optimizer as OptimizerName, RunConfig, Sampler,
    callback::EvaluationCallback, find_backbone, worker::LocalModels,
};
pub use inputs::Cutting;
use inputs::{adapters, input_options, pooler};
pub(crate) use processor::check_checkpointing;
pub use processor::{choose_device, choose_precision};
pub use prompts::RunPrompts;
use serde_json::Value;

use crate::{
    Error, Precision, Result,
    callbacks::{self, TrainingCallback},
    data::{Layout, Mixing, Modalities, SearchKinds},
    lora::LoraSpec,
    loss::{Criterion, LossKind, LossSpec},
    models::{MlpConfig, ModelConfig, ModelKind},
    ops::Pooler,
    optim::{OptimizerSpec, ScheduleSpec},
    options::OptionReader,
    source::{HubRules, ModelSource, TowerSources},
};

/// Length of the embeddings of two towers where none is given.
const TOWERS_DIM: u64 = 512;

/// A run that can be carried out.
pub struct Plan {
    /// Where the model comes from.
    pub source: ModelSource,
    /// What the model embeds.
    pub kind: ModelKind,
    /// Which chunk is what.
    pub modalities: Modalities,
    /// How the training data is laid out.
    pub layout: Layout,
    /// The name of the training data.
    pub train_data: String,
    /// How often an epoch goes through it, where there is more.
    pub train_data_weight: f64,
    /// Further data to train on.
    pub more_train_data: Vec<MoreData>,
    /// How batches of several data sets follow each other.
    pub mixing: Mixing,
    /// The name of the evaluation data.
    pub eval_data: Option<String>,
    /// The part of the training data to validate with.
    pub val_split: f64,
    /// Times that the data is gone through.
    pub epochs: usize,
    /// Examples in a step; chosen from memory where there is none.
    pub batch_size: Option<usize>,
    /// Batches of one step of the optimizer; `gradient_accumulation_steps`, 1 by
    /// default.
    pub accumulation_steps: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// Decides the order of the data and new weights; `model_options.seed`, 0
    /// by default.
    pub seed: u64,
    /// Whether pictures are changed at random; `model_options.augmentation`
    /// is `light`.
    pub augment: bool,
    /// Whether training drops what the model's files say; `model_options.dropout`.
    pub dropout: Option<bool>,
    /// How exact the products of training shall be; `model_options.precision`,
    /// `float32` by default. See [`choose_precision`].
    pub precision: Precision,
    /// Whether training on a GPU keeps the inputs of a transformer's blocks alone
    /// and runs each again on the way back; `model_options.gradient_checkpointing`.
    pub gradient_checkpointing: bool,
    /// Whether training changes a new head alone.
    pub freeze: bool,
    /// Adapters to train in place of the network's weights;
    /// `model_options.lora`.
    pub lora: Option<LoraSpec>,
    /// The length of the embeddings, where it shall be another.
    pub output_dim: Option<usize>,
    /// How places become one vector, where that was said.
    pub pooler: Option<Pooler>,
    /// How many checkpoints at the ends of epochs are wanted when the run has
    /// ended: `last_k_epochs` of `TrainingCheckpoint`, 0 without it.
    pub keep_checkpoints: usize,
    pub(crate) loss: LossSpec,
    pub(crate) optimizer: OptimizerSpec,
    pub(crate) loss_optimizer: OptimizerSpec,
    pub(crate) schedule: ScheduleSpec,
    pub(crate) sampler: Sampler,
    pub(crate) items_per_class: usize,
    /// How the pairs get hard negatives before the training.
    pub(crate) mining: Option<HardNegatives>,
    /// The model that the loss asks beside the one that is trained.
    pub(crate) guide: Option<ModelSource>,
    callbacks: Vec<Callback>,
    /// Texts that go before texts, where the run gives them.
    pub(crate) prompts: Option<RunPrompts>,
    /// How texts are cut: `model_options.collate_options`.
    pub(crate) cutting: Cutting,
    /// What the configuration left open and how it was decided, for the log.
    pub notes: Vec<String>,
}

/// What a run may start from, beside the list of backbones.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// From which folders models may be loaded.
    pub local_models: LocalModels,
    /// What the model of the run embeds whose artifact `model_artifact` names.
    pub earlier: Option<ModelKind>,
    /// Rules for asking the model hub about the kind of a model.
    pub hub: HubRules,
}

impl Plan {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and what is possible;
    /// [`Error::Model`] is about the model's name.
    pub fn new(config: &RunConfig, allowed: Allowed) -> Result<Self> {
        config
            .check()
            .map_err(|e| Error::config(e.field, format!("{}: {}", e.value, e.limit)))?;
        let (hyper, model, data) = (&config.hyper_parameters, &config.model, &config.data);
        let mut notes = Vec::new();
        let read = OptionReader::new("model_options", model.options.as_ref());
        let guides = allowed.clone();
        let (source, kind) = source(config, allowed, &read, &mut notes)?;
        let kind = scores_or_embeds(config, kind, &mut notes)?;
        if kind == ModelKind::TextImage
            && !matches!(source, ModelSource::Towers(_))
            && !model.freeze
            && let Some(dim) = model.output_dim
        {
            let reason = format!(
                "{dim}: a CLIP model keeps the length of its embeddings while its towers are \
                 trained; leave it out, or set `freeze` to train projection heads of that length"
            );
            return Err(Error::config("output_dim", reason));
        }
        if kind == ModelKind::TextPairs
            && let Some(dim) = model.output_dim
        {
            let reason = format!(
                "{dim}: a cross-encoder gives one score of a pair, and no embeddings; leave it out"
            );
            return Err(Error::config("output_dim", reason));
        }
        if model.to_onnx && kind == ModelKind::PointCloud {
            let reason = "true: networks of point clouds have no ONNX form; leave it out";
            return Err(Error::config("to_onnx", reason));
        }
        if model
            .output_dim
            .is_some_and(|dim| dim == 0 || dim > 1 << 20)
        {
            let reason = "from 1 to 1048576 is possible";
            return Err(Error::config("output_dim", reason));
        }
        let seed = read.value("seed").map_or(Ok(0), |value| {
            value
                .as_u64()
                .ok_or_else(|| read.bad("seed", "a whole number is wanted"))
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
        let cutting = input_options(&read, kind)?;
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
        let prompts = prompts::of_run(hyper.prompts.as_ref(), kind, &layout)?;
        check_batch_size(config, kind, &loss)?;
        let mining = mining(config, &source, &loss)?;
        check_layers(config, kind, &loss)?;
        let guide = guide(&loss, kind, &guides)?;
        // Made with any number of classes, so that every option is looked at.
        let criterion = Criterion::new(&loss, 2, 0, 0)?;
        let listed = model.name.as_deref().and_then(find_backbone);
        let is_cnn = listed.is_some_and(|backbone| backbone.architecture == "CNN");
        // Whether other networks have batch normalisation is known when the run
        // begins.
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
            cutting,
            notes,
        };
        // All are checked by being made.
        plan.optimizer.build(Default::default())?;
        plan.optimizer.check_decay(plan.learning_rate)?;
        let own = plan.loss_optimizer.learning_rate(plan.learning_rate);
        plan.loss_optimizer.build(Default::default())?;
        plan.loss_optimizer.check_decay(own)?;
        // How many steps there are is not known yet; with very many, only what
        // is wrong for any number is.
        plan.schedule
            .build(plan.epochs, usize::MAX / 64, plan.learning_rate)?;
        plan.callbacks()?;
        check_monitors(config, kind, &mut plan.notes)?;
        Ok(plan)
    }

    /// The names of all data sets that the run reads, each once.
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

    /// The names of the data sets that must be laid out as [`Plan::layout`]
    /// says.
    #[must_use]
    pub fn train_data_names(&self) -> Vec<String> {
        let mut names = vec![self.train_data.clone()];
        names.extend(self.more_train_data.iter().map(|data| data.name.clone()));
        names.extend(self.eval_data.clone());
        names.dedup();
        names
    }

    /// The name of the data that hard negatives are mined from, beside the
    /// training data.
    #[must_use]
    pub fn corpus(&self) -> Option<&str> {
        self.mining.as_ref()?.corpus.as_deref()
    }

    /// The evaluations of the run.
    pub(crate) fn evaluations(&self) -> impl Iterator<Item = &EvaluationCallback> {
        self.callbacks.iter().filter_map(|callback| match callback {
            Callback::EvaluationCallback(evaluation) => Some(evaluation),
            _ => None,
        })
    }

    /// The metrics other than losses that callbacks watch, each with the name of
    /// its callback.
    pub(crate) fn watched_metrics(&self) -> impl Iterator<Item = (&str, &str)> {
        callbacks::watched_metrics(&self.callbacks)
    }

    /// What an evaluation of the run searches with and in.
    ///
    /// # Errors
    /// [`Error::Config`] where it names parts that the model doesn't have.
    pub fn search_kinds(&self, evaluation: &EvaluationCallback) -> Result<SearchKinds> {
        callbacks::search_kinds(evaluation, self.kind)
    }

    pub(crate) fn callbacks(&self) -> Result<Vec<Box<dyn TrainingCallback>>> {
        callbacks::build(&self.callbacks, self.kind)
    }
}

fn source(
    config: &RunConfig,
    allowed: Allowed,
    read: &OptionReader<'_>,
    notes: &mut Vec<String>,
) -> Result<(ModelSource, ModelKind)> {
    let model = &config.model;
    if let Some(name) = &model.name {
        let source = ModelSource::resolve(name, &allowed.local_models)?;
        if source == ModelSource::Mlp(None) {
            for option in ["input_size", "hidden_sizes", "bias", "activation", "l2"] {
                read.value(option);
            }
            let mut options: Value = match &model.options {
                Some(options) => serde_json::json!(**options),
                None => serde_json::json!({}),
            };
            // The Python client's default.
            let empty = match &options["hidden_sizes"] {
                Value::Null => true,
                Value::Array(sizes) => sizes.is_empty(),
                _ => false,
            };
            if empty && let Some(size) = options["input_size"].as_u64() {
                notes.push(format!(
                    "`hidden_sizes` is empty: the perceptron has one layer, of `input_size` ({size})"
                ));
                options["hidden_sizes"] = vec![size].into();
            }
            let config = MlpConfig::parse(&options)?;
            return Ok((ModelSource::Mlp(Some(config)), ModelKind::Features));
        }
        if let ModelSource::PointNet(defaults) = source {
            let source = ModelSource::PointNet(pointnet(read, defaults)?);
            return Ok((source, ModelKind::PointCloud));
        }
        if source == ModelSource::Towers(None) {
            let towers = towers(config, &allowed, read)?;
            return Ok((ModelSource::Towers(Some(towers)), ModelKind::TextImage));
        }
        let kind = source.kind(&allowed.hub)?;
        return Ok((source, kind));
    }
    let artifact = model.artifact.clone().unwrap_or_default();
    let kind = allowed.earlier.ok_or_else(|| {
        Error::config(
            "model_artifact",
            format!("`{artifact}`: there is no run here whose artifact it is"),
        )
    })?;
    Ok((ModelSource::Artifact(artifact), kind))
}

/// The `config.json` of a new PointNet++ by the options of the run.
fn pointnet(read: &OptionReader<'_>, mut config: Value) -> Result<Value> {
    for name in ["hidden_dim", "embed_dim"] {
        let default = config[name].as_u64().unwrap_or(0) as usize;
        config[name] = read.count(name, default, 1)?.into();
    }
    config["dropout_rate"] = read.number("dropout_rate", 0.1, 0.0, 0.99)?.into();
    let shape = read.choice("input_shape", "bnc", &["bnc", "bcn"])?;
    if shape != "bnc" {
        let wanted = "clouds are given as [points, 3], which is `bnc`; turn them before pushing";
        return Err(read.bad("input_shape", wanted));
    }
    ModelConfig::parse(&config).map_err(|e| Error::config("model_options", e.to_string()))?;
    Ok(config)
}

/// The models that become the towers of a new text-to-image model.
fn towers(config: &RunConfig, allowed: &Allowed, read: &OptionReader<'_>) -> Result<TowerSources> {
    let tower = |option: &str, wanted: ModelKind, example: &str| {
        let name = read.value(option).and_then(Value::as_str).ok_or_else(|| {
            let what = wanted.inputs();
            read.bad(
                option,
                &format!("the name of a model of {what} is wanted, such as `{example}`"),
            )
        })?;
        let source = ModelSource::resolve(name, &allowed.local_models)?;
        let kind = source.kind(&allowed.hub)?.of_network();
        if kind != wanted {
            let reason = format!(
                "that model embeds {}, and one of {} is wanted",
                kind.inputs(),
                wanted.inputs()
            );
            return Err(read.bad(option, &reason));
        }
        Ok(Box::new(source))
    };
    Ok(TowerSources {
        text: tower("text_model", ModelKind::Text, MINILM_SMALL)?,
        image: tower("image_model", ModelKind::Image, EFFICIENTNET_SMALL)?,
        dim: config.model.output_dim.unwrap_or(TOWERS_DIM) as usize,
        // Checked with the other options.
        seed: read.value("seed").and_then(Value::as_u64).unwrap_or(0),
    })
}

/// What data the loss wants of a model.
fn layout(kind: ModelKind, loss: &LossSpec, modalities: &Modalities) -> Result<Layout> {
    let name = &loss.base();
    Ok(match (kind, loss.kind()) {
        (ModelKind::TextImage, LossKind::Clip) => Layout::TextImage(modalities.clone()),
        (ModelKind::TextImage, _) => {
            let reason = format!(
                "`{name}`: a text-to-image model is trained with `CLIPLoss` or `SigLIPLoss`; give \
                 one of them, without `loss_options` and `miner`"
            );
            return Err(Error::config("loss", reason));
        }
        (ModelKind::TextPairs, _) => Layout::Scored(ModelKind::Text),
        (_, LossKind::Clip) => {
            let reason = format!(
                "`{name}` is for models that embed texts and pictures; `{}` is the usual loss of \
                 others",
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
                "`loss_optimizer` not given: `{}` for the weights of `{}`",
                hyper.optimizer, hyper.loss
            ));
        }
        // Without weights any will do: it is never asked for a step.
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
