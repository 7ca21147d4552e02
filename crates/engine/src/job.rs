//! Carries out a run, from its configuration to its artifact.

mod epochs;
mod examples;
mod labels;
mod log;
mod negatives;
mod prepared;
mod progress;
mod setup;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use finetuner_protocol::{Device, Level, RunConfig, worker::LocalModels};

pub use crate::observer::{Interruption, Observer};
use epochs::train_epochs;
pub use examples::check_data;
use examples::read_data;
use log::log;
use negatives::Mining;
use progress::{Progress, file_names};
use setup::{build_trainer, remember_frozen};

use crate::{
    Error, Result,
    artifact::{self, RunRecord},
    callbacks::Context,
    data::{Documents, Images},
    evaluation::Metrics,
    models::{Model, ModelKind},
    plan::{Allowed, Plan, check_checkpointing, choose_device, choose_precision},
    record::{self, History},
    resume,
    source::{HubRules, LoadOptions, ModelDescription, ModelSource, OutputKind},
    train::Trainer,
};

/// Inputs of a run other than its configuration.
pub struct Setting<'a> {
    /// The device that the run asked for.
    pub device: &'a Device,
    /// Folders from which models may be loaded.
    pub local_models: &'a LocalModels,
    /// Download limit and token for the model hub.
    pub hub: HubRules,
    /// Unpacked model that `model_artifact` continues from.
    ///
    /// See [`crate::source::open_artifact`].
    pub earlier: Option<&'a Path>,
    /// Opens a data set by name, as a stream of documents.
    pub read_data: &'a dyn Fn(&str) -> Result<Documents>,
    /// Folder of this run alone, for temporary files, checkpoints and the artifact.
    pub folder: &'a Path,
    /// Checkpoint to resume from; see [`Observer::checkpoint`].
    pub checkpoint: Option<&'a Path>,
}

/// Result of a run.
#[derive(Debug)]
pub struct Finished {
    /// Path of the artifact, a zip file.
    pub artifact: PathBuf,
    /// Metrics before fine-tuning.
    pub before: Metrics,
    /// Metrics after fine-tuning.
    pub after: Metrics,
}

/// Carries out a run.
///
/// A run that resumes from a checkpoint gives the same losses as an uninterrupted one
/// on the same machine.
///
/// # Errors
/// Returns an error for a problem in the configuration, the model or the data, and
/// [`Error::Interrupted`] when the observer ends the run.
pub fn run(
    config: &RunConfig,
    setting: &Setting<'_>,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let earlier = setting
        .earlier
        .map(|folder| ModelSource::Folder(folder.to_owned()));
    let allowed = Allowed {
        local_models: setting.local_models.clone(),
        earlier: match &earlier {
            Some(folder) => Some(folder.kind(&setting.hub)?),
            None => None,
        },
        hub: setting.hub.clone(),
    };
    let plan = Plan::new(config, allowed)?;
    let memory_limit = observer.memory_limit();
    let mut log = |level, message: String| log(observer, level, message);
    log(Level::Info, "Starting finetuning run ...".to_owned());
    for note in &plan.notes {
        log(Level::Info, note.clone());
    }
    let images = Images::kept_in(setting.folder)?;
    let mut data = read_data(&plan, setting.read_data, &images)?;
    log(Level::Info, data.describe(&plan.layout));
    for warning in std::mem::take(&mut data.warnings) {
        log(Level::Warning, warning);
    }
    let resumed = match setting.checkpoint {
        Some(file) => Some(resume::unpack(
            file,
            setting.folder,
            &file_names(&plan.callbacks()?),
        )?),
        None => None,
    };
    let source = match (&plan.source, earlier) {
        (ModelSource::Artifact(_), Some(folder)) => folder,
        (source, _) => source.clone(),
    };
    let options = LoadOptions {
        pooler: plan.pooler,
        output_dim: plan.output_dim,
        freeze: plan.freeze,
        lora: plan.lora.clone(),
        seed: plan.seed,
        truncation: plan.truncation,
        output: match plan.kind {
            ModelKind::TextPairs => OutputKind::NewScores,
            _ => OutputKind::Embedding,
        },
    };
    let files = source.read_with(&setting.hub)?;
    let (device, warning) = choose_device(setting.device);
    if let Some(warning) = warning {
        log(Level::Warning, warning);
    }
    let mut loaded = files.load(&options, &device)?;
    for origin in &loaded.description.origins {
        log(Level::Info, format!("Model {origin}"));
    }
    for note in std::mem::take(&mut loaded.notes) {
        log(Level::Warning, note);
    }
    let pooler = loaded.model.setup().pooler;
    if plan.kind == ModelKind::Text && pooler.is_some_and(|pooler| pooler.names().is_none()) {
        log(
            Level::Info,
            "sentence-transformers has no `GeM` pooling. The saved folder therefore has no \
             modules.json, and only this project loads the complete model"
                .to_owned(),
        );
    }
    if let Some(prompts) = &plan.prompts {
        prompts.apply_to(&mut loaded)?;
        log(Level::Info, prompts.describe());
    } else if let Some((name, text)) = loaded.description.prompts.default_prompt() {
        log(
            Level::Info,
            format!(
                "The model's default prompt `{name}` is prepended to every text, in training and \
                 evaluation: `{text}`"
            ),
        );
    }
    if loaded.model.kind() != plan.kind {
        return Err(Error::config(
            "model",
            format!(
                "its config.json describes a model of {}; the run was submitted for one of {}",
                loaded.model.kind().inputs(),
                plan.kind.inputs()
            ),
        ));
    }
    for note in artifact::check_forms(&loaded, config)? {
        log(Level::Warning, note);
    }
    log(
        Level::Debug,
        format!(
            "{} parameters, {} threads",
            loaded.model.params().count(),
            rayon::current_num_threads()
        ),
    );
    if let Some(note) = describe_adapters(&loaded.model) {
        log(Level::Info, note);
    }
    let (precision, note) = choose_precision(plan.precision, &device);
    if let Some((level, note)) = note {
        log(level, note);
    }
    loaded.model.set_precision(precision);
    if let Some((level, note)) = check_checkpointing(plan.gradient_checkpointing, &device) {
        log(level, note);
    }
    loaded
        .model
        .set_gradient_checkpointing(plan.gradient_checkpointing);
    if let Some(options) = &plan.mining {
        let mining = Mining {
            plan: &plan,
            options,
            documents: setting.read_data,
            images: &images,
            folder: setting.folder,
        };
        mining.run(&loaded, &mut data, resumed.is_some(), observer)?;
    }
    let mut log = |level, message: String| self::log(observer, level, message);
    let guide = match &plan.guide {
        None => None,
        Some(source) => {
            let guide = setup::load_guide(source, &setting.hub, setting.device, &plan)?;
            log(Level::Info, guide.1);
            Some(guide.0)
        }
    };
    // A guide reads the original inputs, which `remember_frozen` replaces.
    if plan.freeze && !plan.augment && guide.is_none() {
        remember_frozen(&mut loaded, &mut data)?;
    }
    let given = plan
        .batch_size
        .or(resumed.as_ref().map(|progress| progress.batch_size));
    let (mut trainer, description, notes) =
        build_trainer(&plan, loaded, guide, &data, given, memory_limit)?;
    for (level, note) in notes {
        log(level, note);
    }
    let mut callbacks = plan.callbacks()?;
    let mut context = Context {
        trainer: &mut trainer,
        metrics: BTreeMap::new(),
        before: Metrics::new(),
        after: Metrics::new(),
        data: setting.read_data,
        images: &images,
        modalities: &plan.modalities,
        folder: setting.folder,
        observer,
        history: History::default(),
        stop: false,
    };
    let mut progress = Progress::start();
    match resumed {
        Some(record) => progress.load(record, &mut callbacks, &mut context)?,
        None => {
            for callback in &mut *callbacks {
                callback.on_fit_begin(&mut context)?;
            }
        }
    }
    train_epochs(&plan, &data, &mut callbacks, &mut context, &progress)?;
    let duration = progress.duration();
    let (before, after, history) = (context.before, context.after, context.history);
    finish(
        &trainer,
        &description,
        &history,
        setting.folder,
        &RunRecord {
            config,
            device: if device.is_cpu() { "cpu" } else { "gpu" },
            duration,
            before: &before,
            after: &after,
        },
        observer,
    )
    .map(|artifact| Finished {
        artifact,
        before,
        after,
    })
}

/// Describes how many weights of a model with adapters are trained.
fn describe_adapters(model: &Model) -> Option<String> {
    let lora = model.setup().lora.as_ref()?;
    let (trained, all) = (model.params().trained_count(), model.params().count());
    let whole = match lora.modules_to_save.is_empty() {
        true => String::new(),
        false => format!(", and {} whole", lora.modules_to_save.join(", ")),
    };
    Some(format!(
        "LoRA: adapters of rank {} in {} layers{whole}; {trained} of {all} weights are trained \
         ({:.2} %)",
        lora.r,
        model.adapted_layers(),
        100.0 * trained as f64 / all.max(1) as f64
    ))
}

/// Logs the results and writes the artifact.
fn finish(
    trainer: &Trainer,
    description: &ModelDescription,
    history: &History,
    folder: &Path,
    run: &RunRecord<'_>,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    let took = format!("Finetuning took {}", format_duration(run.duration));
    log(observer, Level::Debug, took);
    for (name, after) in run.after {
        let message = match run.before.get(name) {
            Some(before) => format!(
                "Metric: '{name}' before fine-tuning:  {before:.5} after fine-tuning: {after:.5}"
            ),
            None => format!("Metric: '{name}' Value: {after:.5}"),
        };
        log(observer, Level::Info, message);
    }
    log(observer, Level::Info, "Building the artifact ...");
    let logs = folder.join("logs");
    record::write(&logs, history, run.config)?;
    for line in record::locations(run.config) {
        log(observer, Level::Info, line);
    }
    artifact::write(
        folder,
        &trainer.model,
        &trainer.preparer,
        description,
        &logs,
        run,
    )
}

/// Formats a duration in the words of the Python Finetuner.
fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!(
        "{} days, {} hours {} minutes and {} seconds",
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}
