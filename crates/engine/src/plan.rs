//! What a run configuration asks for, checked, and in the engine's own terms.

use candle_core::Device;
use finetuner_protocol::{
    Callback, Device as AskedDevice, Level, LocalModels, Loss, Optimizer as OptimizerName, Options,
    RunConfig, Sampler,
};
use serde_json::Value;

use crate::{
    Error, Precision, Result,
    callbacks::{self, TrainingCallback},
    data::{Layout, Modalities, SearchKinds},
    loss::{Criterion, LossKind, LossSpec},
    models::{MlpConfig, ModelKind},
    ops::Pooler,
    optim::{OptimizerSpec, ScheduleSpec},
    options::OptionReader,
    source::ModelSource,
};

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
    /// The name of the evaluation data.
    pub eval_data: Option<String>,
    /// The part of the training data to validate with.
    pub val_split: f64,
    /// Times that the data is gone through.
    pub epochs: usize,
    /// Examples in a step; chosen from memory where there is none.
    pub batch_size: Option<usize>,
    /// The learning rate.
    pub learning_rate: f64,
    /// Decides the order of the data and new weights; `model_options.seed`, 0
    /// by default.
    pub seed: u64,
    /// Whether pictures are changed at random; `model_options.augmentation`
    /// is `light`.
    pub augment: bool,
    /// How exact the products of training shall be; `model_options.precision`,
    /// `float32` by default. See [`choose_precision`].
    pub precision: Precision,
    /// Whether training changes a new head alone.
    pub freeze: bool,
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
    callbacks: Vec<Callback>,
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
}

/// What the model of a run embeds, that began with a backbone.
///
/// # Errors
/// Where it began with no backbone, or one that is not known here.
pub fn kind_of(config: &RunConfig) -> Result<ModelKind> {
    let name = config
        .model
        .name
        .as_deref()
        .ok_or_else(|| Error::config("model", "the run did not begin with a backbone"))?;
    ModelSource::resolve(name, &LocalModels::Anywhere)?.kind()
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
        let (source, kind) = source(config, allowed, &read)?;
        if model.to_onnx {
            let reason = "an artifact holds safetensors; ONNX can't be written yet";
            return Err(Error::config("to_onnx", reason));
        }
        if kind == ModelKind::TextImage {
            if model.freeze {
                return Err(Error::config("freeze", "a CLIP model can't be frozen"));
            }
            if let Some(dim) = model.output_dim {
                let reason = format!("{dim}: a CLIP model keeps the length of its embeddings");
                return Err(Error::config("output_dim", reason));
            }
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
            ModelKind::TextImage | ModelKind::Image => {
                read.choice("augmentation", "none", &["none", "light"])? == "light"
            }
            _ => false,
        };
        let precision = read.choice("precision", "float32", &["float32", "bfloat16"])?;
        let precision = match precision.as_str() {
            "bfloat16" => Precision::Bfloat16,
            _ => Precision::Float32,
        };
        let pooler = pooler(&read, kind)?;
        read.finish()?;
        let loss = LossSpec {
            loss: hyper.loss.clone(),
            options: hyper.loss_options.clone(),
            miner: hyper.miner.clone(),
            miner_options: hyper.miner_options.clone(),
        };
        let modalities = Modalities {
            text: given(&data.text_modality, "text"),
            image: given(&data.image_modality, "image"),
        };
        let layout = layout(kind, &loss, &modalities)?;
        // Made with any number of classes, so that every option is looked at.
        let criterion = Criterion::new(&loss, 2, 0, 0)?;
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
        let plan = Self {
            source,
            kind,
            modalities,
            layout,
            train_data: data.train_data.clone(),
            eval_data: data.eval_data.clone(),
            val_split: data.val_split,
            epochs: hyper.epochs as usize,
            batch_size: hyper.batch_size.map(|size| size as usize),
            learning_rate,
            seed,
            augment,
            precision,
            freeze: model.freeze,
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
            callbacks: config.callbacks.clone(),
            notes,
        };
        // All are checked by being made.
        let (_, extras) = plan.optimizer.build(Default::default())?;
        if extras.layer_wise_lr_decay.is_some()
            && !matches!(kind, ModelKind::TextImage | ModelKind::Text)
        {
            let reason = "`layer_wise_lr_decay` is for transformers: leave it out";
            return Err(Error::config("optimizer_options", reason));
        }
        plan.loss_optimizer.build(Default::default())?;
        // How many steps there are is not known yet; with very many, only what
        // is wrong for any number is.
        plan.schedule
            .build(plan.epochs, usize::MAX / 64, plan.learning_rate)?;
        plan.callbacks()?;
        Ok(plan)
    }

    /// The names of all data sets that the run reads, each once.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        let mut names = self.train_data_names();
        for callback in &self.callbacks {
            if let Callback::EvaluationCallback(evaluation) = callback {
                names.push(evaluation.query_data.clone());
                names.extend(evaluation.index_data.clone());
            }
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
        names.extend(self.eval_data.clone());
        names.dedup();
        names
    }

    /// What an evaluation of the run searches with and in.
    ///
    /// # Errors
    /// [`Error::Config`] where it names parts that the model doesn't have.
    pub fn search_kinds(
        &self,
        evaluation: &finetuner_protocol::callback::EvaluationCallback,
    ) -> Result<SearchKinds> {
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
) -> Result<(ModelSource, ModelKind)> {
    let model = &config.model;
    if let Some(name) = &model.name {
        let source = ModelSource::resolve(name, &allowed.local_models)?;
        if source == ModelSource::Mlp(None) {
            for option in ["input_size", "hidden_sizes", "bias", "activation", "l2"] {
                read.value(option);
            }
            let options: Value = match &model.options {
                Some(options) => serde_json::json!(**options),
                None => serde_json::json!({}),
            };
            let config = MlpConfig::parse(&options)?;
            return Ok((ModelSource::Mlp(Some(config)), ModelKind::Features));
        }
        let kind = source.kind()?;
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

/// `pooler` and `pooler_options` of `model_options`.
fn pooler(read: &OptionReader<'_>, kind: ModelKind) -> Result<Option<Pooler>> {
    let choices: &[&str] = match kind {
        ModelKind::Text => &["mean", "max", "cls", "GeM"],
        ModelKind::Image => &["mean", "GeM"],
        _ => return Ok(None),
    };
    let options = read.value("pooler_options").and_then(Value::as_object);
    let options = options.cloned().map(Options::from);
    if read.value("pooler").is_none() {
        return Ok(None);
    }
    let name = read.choice("pooler", "mean", choices)?;
    let read = OptionReader::new("model_options.pooler_options", options.as_ref());
    let pooler = match name.as_str() {
        "max" => Pooler::Max,
        "cls" => Pooler::Cls,
        "GeM" => Pooler::GeM {
            p: read.positive("p", 3.0)? as f32,
            eps: read.positive("eps", 1e-6)? as f32,
        },
        _ => Pooler::Mean,
    };
    read.finish()?;
    Ok(Some(pooler))
}

/// What data the loss wants of a model.
fn layout(kind: ModelKind, loss: &LossSpec, modalities: &Modalities) -> Result<Layout> {
    let name = &loss.loss;
    Ok(match (kind, loss.kind()) {
        (ModelKind::TextImage, LossKind::Clip) => Layout::TextImage(modalities.clone()),
        (ModelKind::TextImage, _) => {
            let reason = format!("`{name}`: a text-to-image model is trained with `CLIPLoss`");
            return Err(Error::config("loss", reason));
        }
        (_, LossKind::Clip) => {
            let reason = format!(
                "`{name}` is for models that embed texts and pictures; `{}` is the usual loss of \
                 others",
                Loss::TripletMargin
            );
            return Err(Error::config("loss", reason));
        }
        (kind, LossKind::Labels) => Layout::Labelled(kind),
        (kind, LossKind::Pairs) => Layout::Pairs(kind),
        (kind, LossKind::Scores) => Layout::Scored(kind),
        (kind, LossKind::Triplets) => Layout::Triplets(kind),
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
        Callback::TrainingCheckpoint(options) => Some(options.last_k_epochs),
        _ => None,
    });
    wanted.max().unwrap_or(0)
}

fn given(modality: &Option<String>, default: &str) -> String {
    let given = modality.as_deref().filter(|name| !name.is_empty());
    given.unwrap_or(default).to_owned()
}

/// The device that a run gets, and a warning where it isn't the one asked for.
/// `needs_cpu` says that a part of the model runs on the CPU alone.
#[must_use]
pub fn choose_device(
    asked: &AskedDevice,
    kind: ModelKind,
    needs_cpu: bool,
) -> (Device, Option<String>) {
    if *asked == AskedDevice::Cpu {
        return (Device::Cpu, None);
    }
    let on_cpu = |why: &str| {
        let warning = format!("the device `{asked}` was asked for, but {why}: training on the CPU");
        (Device::Cpu, Some(warning))
    };
    if kind == ModelKind::Image || needs_cpu {
        return on_cpu(
            "convolutional networks and projection heads are trained on the CPU in this version",
        );
    }
    match accelerator() {
        Some(device) => (device, None),
        None => on_cpu("this machine has none"),
    }
}

/// The precision that a run gets on a device, and what the log says where
/// another one than [`Precision::Float32`] was asked for.
#[must_use]
pub fn choose_precision(asked: Precision, device: &Device) -> (Precision, Option<(Level, String)>) {
    let instead = |why: &str| {
        let note = format!("`precision` is bfloat16, but {why}: training in float32");
        (Precision::Float32, Some((Level::Warning, note)))
    };
    match asked {
        Precision::Float32 => (asked, None),
        Precision::Bfloat16 if !device.is_cpu() => instead("that is for the CPU"),
        Precision::Bfloat16 if !asked.is_available() => {
            instead("this machine's CPU has no instructions for it (AVX-512 BF16)")
        }
        Precision::Bfloat16 => {
            let speed = asked.relative_speed();
            let note = format!("Products in bfloat16 are {speed:.2} times as fast as in float32");
            let note = if speed > 1.0 {
                (Level::Info, note)
            } else {
                let advice = "on this CPU: leave `precision` out, float32 is also more exact";
                (Level::Warning, format!("{note} {advice}"))
            };
            (asked, Some(note))
        }
    }
}

fn accelerator() -> Option<Device> {
    if cfg!(feature = "cuda") {
        Device::new_cuda(0).ok()
    } else if cfg!(feature = "metal") {
        Device::new_metal(0).ok()
    } else {
        None
    }
}
