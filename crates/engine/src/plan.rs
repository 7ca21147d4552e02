//! What a run configuration asks for, checked, and in the engine's own terms.

use candle_core::Device;
use finetuner_protocol::{
    Callback, Device as AskedDevice, HyperParameters, Loss, Optimizer as OptimizerName, Options,
    RunConfig,
};
use serde_json::Value;

use crate::{
    Error, Result,
    callbacks::{BestModel, Evaluation, TrainingCallback},
    data::Modalities,
    optim::{Adam, Optimizer},
    source::ModelSource,
};

/// Examples in a step where the configuration leaves it open.
const DEFAULT_BATCH_SIZE: usize = 32;

/// The learning rate of `torch.optim.Adam` and `AdamW`.
const DEFAULT_LEARNING_RATE: f64 = 1e-3;

/// A run that can be carried out.
pub struct Plan {
    /// Where the model comes from.
    pub source: ModelSource,
    /// Which chunk is what.
    pub modalities: Modalities,
    /// The name of the training data.
    pub train_data: String,
    /// The name of the evaluation data.
    pub eval_data: Option<String>,
    /// The part of the training data to validate with.
    pub val_split: f64,
    /// Times that the data is gone through.
    pub epochs: usize,
    /// Pairs in a step.
    pub batch_size: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// Decides the order of the data; `model_options.seed`, 0 by default.
    pub seed: u64,
    /// Whether pictures are changed at random; `model_options.augmentation`
    /// is `light`.
    pub augment: bool,
    /// How many checkpoints at the ends of epochs are wanted when the run has
    /// ended: `last_k_epochs` of `TrainingCheckpoint`, 0 without it.
    pub keep_checkpoints: usize,
    optimizer: (OptimizerName, Options),
    callbacks: Vec<Callback>,
    /// What the configuration left open and how it was decided, for the log.
    pub notes: Vec<String>,
}

impl Plan {
    /// Checks a configuration. `local` allows models from folders.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and what is possible;
    /// [`Error::Model`] is about the model's name.
    pub fn new(config: &RunConfig, local: bool) -> Result<Self> {
        config
            .check()
            .map_err(|e| Error::config(e.field, format!("{}: {}", e.value, e.limit)))?;
        let hyper = &config.hyper_parameters;
        let (name, options) = (&config.model.name, &config.model.options);
        let name = name.as_deref().ok_or_else(|| {
            Error::config(
                "model_artifact",
                "going on from an earlier run's artifact is not possible yet: name a backbone",
            )
        })?;
        let source = ModelSource::resolve(name, local)?;
        if config.model.freeze {
            return Err(Error::config("freeze", "a CLIP model can't be frozen"));
        }
        if let Some(dim) = config.model.output_dim {
            let reason = format!("{dim}: a CLIP model keeps the length of its embeddings");
            return Err(Error::config("output_dim", reason));
        }
        if config.model.to_onnx {
            let reason = "an artifact holds safetensors; ONNX can't be written yet";
            return Err(Error::config("to_onnx", reason));
        }
        check_loss(hyper)?;
        if let Some(scheduler) = &hyper.scheduler {
            let reason = format!(
                "`{scheduler}`: the learning rate stays constant in this version; leave it out"
            );
            return Err(Error::config("scheduler", reason));
        }
        let mut notes = Vec::new();
        let batch_size = match hyper.batch_size {
            Some(size) => size as usize,
            None => {
                notes.push(format!(
                    "`batch_size` not given: {DEFAULT_BATCH_SIZE} pairs"
                ));
                DEFAULT_BATCH_SIZE
            }
        };
        let learning_rate = hyper.learning_rate.unwrap_or_else(|| {
            notes.push(format!(
                "`learning_rate` not given: {DEFAULT_LEARNING_RATE}, the optimizer's default"
            ));
            DEFAULT_LEARNING_RATE
        });
        let (seed, augment) = model_options(options.as_ref())?;
        let optimizer_options = hyper.optimizer_options.clone().unwrap_or_default();
        let plan = Self {
            source,
            modalities: Modalities {
                text: given(&config.data.text_modality, "text"),
                image: given(&config.data.image_modality, "image"),
            },
            train_data: config.data.train_data.clone(),
            eval_data: config.data.eval_data.clone(),
            val_split: config.data.val_split,
            epochs: hyper.epochs as usize,
            batch_size,
            learning_rate,
            seed,
            augment,
            keep_checkpoints: keep_checkpoints(&config.callbacks),
            optimizer: (hyper.optimizer.clone(), optimizer_options),
            callbacks: config.callbacks.clone(),
            notes,
        };
        // Both are checked by being made.
        plan.optimizer()?;
        plan.callbacks()?;
        Ok(plan)
    }

    /// The names of all data sets that the run reads, each once.
    #[must_use]
    pub fn data_names(&self) -> Vec<String> {
        let mut names = vec![self.train_data.clone()];
        names.extend(self.eval_data.clone());
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

    /// The names of the data sets that must hold text-image pairs. An index
    /// may hold pictures alone.
    #[must_use]
    pub fn pair_data_names(&self) -> Vec<String> {
        let mut names = vec![self.train_data.clone()];
        names.extend(self.eval_data.clone());
        names.dedup();
        names
    }

    pub(crate) fn optimizer(&self) -> Result<Box<dyn Optimizer>> {
        let (name, options) = &self.optimizer;
        let mut adam = match name {
            OptimizerName::Adam => Adam::new(),
            OptimizerName::AdamW => Adam::adamw(),
            other => {
                let reason = format!("`{other}`: `Adam` and `AdamW` can be used in this version");
                return Err(Error::config("optimizer", reason));
            }
        };
        for (key, value) in options.iter() {
            let bad = |wanted: &str| {
                let reason = format!("`{key}` is {value}: {wanted}");
                Error::config("optimizer_options", reason)
            };
            let number = |limit: f64, wanted: &str| {
                let n = value.as_f64().filter(|n| (0.0..limit).contains(n));
                n.ok_or_else(|| bad(wanted))
            };
            adam = match key.as_str() {
                "weight_decay" => {
                    adam.weight_decay(number(f64::INFINITY, "a number not below 0 is wanted")?)
                }
                "eps" => adam.eps(number(1.0, "a number from 0 up to 1 is wanted")?),
                "betas" => {
                    let betas: Option<Vec<f64>> = value
                        .as_array()
                        .map(|list| list.iter().filter_map(Value::as_f64).collect());
                    match betas.as_deref() {
                        Some(&[a, b]) if (0.0..1.0).contains(&a) && (0.0..1.0).contains(&b) => {
                            adam.betas(a, b)
                        }
                        _ => return Err(bad("two numbers from 0 up to 1 are wanted")),
                    }
                }
                _ => return Err(bad("betas, eps and weight_decay are known")),
            };
        }
        Ok(Box::new(adam))
    }

    pub(crate) fn callbacks(&self) -> Result<Vec<Box<dyn TrainingCallback>>> {
        self.callbacks
            .iter()
            // Whoever carries out the run keeps its checkpoints.
            .filter(|callback| !matches!(callback, Callback::TrainingCheckpoint(_)))
            .map(|callback| -> Result<Box<dyn TrainingCallback>> {
                match callback {
                    Callback::BestModelCheckpoint(options) => Ok(Box::new(BestModel::new(options)?)),
                    Callback::EvaluationCallback(options) => {
                        Ok(Box::new(Evaluation::new(options, &self.callbacks)?))
                    }
                    other => Err(Error::config(
                        "callbacks",
                        format!(
                            "`{}`: `BestModelCheckpoint`, `TrainingCheckpoint` and `EvaluationCallback` can be used in this version",
                            other.name()
                        ),
                    )),
                }
            })
            .collect()
    }
}

fn keep_checkpoints(callbacks: &[Callback]) -> usize {
    let wanted = callbacks.iter().filter_map(|callback| match callback {
        Callback::TrainingCheckpoint(options) => Some(options.last_k_epochs),
        _ => None,
    });
    wanted.max().unwrap_or(0)
}

fn check_loss(hyper: &HyperParameters) -> Result<()> {
    if hyper.loss != Loss::Clip {
        let reason = format!(
            "`{}`: a text-to-image model is trained with `CLIPLoss`",
            hyper.loss
        );
        return Err(Error::config("loss", reason));
    }
    if hyper.loss_options.as_ref().is_some_and(|o| !o.is_empty()) {
        return Err(Error::config("loss_options", "`CLIPLoss` has none"));
    }
    if let Some(optimizer) = &hyper.loss_optimizer {
        let reason = format!("`{optimizer}`: `CLIPLoss` has no weights of its own");
        return Err(Error::config("loss_optimizer", reason));
    }
    if let Some(miner) = &hyper.miner {
        let reason = format!("`{miner}`: `CLIPLoss` takes every pair of a batch, without a miner");
        return Err(Error::config("miner", reason));
    }
    Ok(())
}

fn model_options(options: Option<&Options>) -> Result<(u64, bool)> {
    let (mut seed, mut augment) = (0, false);
    for (key, value) in options.into_iter().flat_map(|options| options.iter()) {
        let bad = |wanted: &str| {
            let reason = format!("`{key}` is {value}: {wanted}");
            Error::config("model_options", reason)
        };
        match key.as_str() {
            "seed" => {
                seed = value
                    .as_u64()
                    .ok_or_else(|| bad("a whole number is wanted"))?
            }
            "augmentation" => {
                augment = match value.as_str() {
                    Some("none") => false,
                    Some("light") => true,
                    _ => return Err(bad("`none` or `light` is wanted")),
                }
            }
            _ => return Err(bad("seed and augmentation are known")),
        }
    }
    Ok((seed, augment))
}

fn given(modality: &Option<String>, default: &str) -> String {
    let given = modality.as_deref().filter(|name| !name.is_empty());
    given.unwrap_or(default).to_owned()
}

/// The device that a run gets, and a warning where it isn't the one asked for.
#[must_use]
pub fn choose_device(asked: &AskedDevice) -> (Device, Option<String>) {
    if *asked == AskedDevice::Cpu {
        return (Device::Cpu, None);
    }
    match accelerator() {
        Some(device) => (device, None),
        None => (
            Device::Cpu,
            Some(format!(
                "the device `{asked}` was asked for, but this machine has none: training on the CPU"
            )),
        ),
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
