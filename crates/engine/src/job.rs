//! A run from its configuration to its artifact.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use finetuner_protocol::{Device, DocumentArray, Event, Level, RunConfig};

use crate::{
    Error, Result,
    artifact::{self, RunRecord},
    callbacks::{Context, TrainingCallback},
    data,
    evaluation::Metrics,
    plan::{Plan, choose_device},
    resume,
    train::{Checkpoint, Pair, Position, Trainer, TrainerOptions},
};

/// A long epoch says how far it is this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Whoever follows a run: it is told what happens, and may end it.
pub trait Observer {
    /// Something happened. It must not take long: training waits.
    fn event(&mut self, event: Event);

    /// Whether the run shall stop at the next step, and how.
    fn interrupted(&self) -> Option<Interruption> {
        None
    }

    /// Whether a checkpoint is wanted at the next step, or at the end of the
    /// epoch.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// A checkpoint was written to this file, which is overwritten by the next
    /// one: keep what is in it.
    ///
    /// # Errors
    /// Why it can't be kept. The run goes on, with a warning.
    fn checkpoint(&mut self, file: &Path, at: Position) -> Result<(), String> {
        let _ = (file, at);
        Ok(())
    }
}

/// How a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// For good.
    Stop,
    /// To go on later, from a checkpoint that is made first.
    Pause,
}

/// What a run is carried out with, beside its configuration.
pub struct Setting<'a> {
    /// The processor asked for.
    pub device: &'a Device,
    /// Whether models may be loaded from folders.
    pub local_models: bool,
    /// Gives the documents of a name.
    pub read_data: &'a dyn Fn(&str) -> Result<DocumentArray>,
    /// For the run alone: takes temporary files, checkpoints and the artifact.
    pub folder: &'a Path,
    /// A checkpoint that the run goes on from; see [`Observer::checkpoint`].
    pub checkpoint: Option<&'a Path>,
}

/// What a run has made.
#[derive(Debug)]
pub struct Finished {
    /// The artifact, a zip.
    pub artifact: PathBuf,
    /// Metrics of the backbone as it was.
    pub before: Metrics,
    /// Metrics of the fine-tuned model.
    pub after: Metrics,
}

/// Carries out a run. One that goes on from a checkpoint gives the same losses
/// as one undisturbed, on the same machine.
///
/// # Errors
/// Whatever is wrong with configuration, model or data, and
/// [`Error::Interrupted`].
pub fn run(
    config: &RunConfig,
    setting: &Setting<'_>,
    observer: &mut dyn Observer,
) -> Result<Finished> {
    let Setting {
        device,
        local_models,
        read_data,
        folder,
        checkpoint,
    } = *setting;
    let plan = Plan::new(config, local_models)?;
    log(observer, Level::Info, "Starting finetuning run ...");
    for note in &plan.notes {
        log(observer, Level::Info, note.clone());
    }
    let (device, warning) = choose_device(device);
    if let Some(warning) = warning {
        log(observer, Level::Warning, warning);
    }
    let (train, validation) = read_pairs(&plan, read_data)?;
    log(
        observer,
        Level::Info,
        match validation.len() {
            0 => format!("{} pairs to train on", train.len()),
            n => format!("{} pairs to train on, {n} to validate with", train.len()),
        },
    );
    let loaded = plan.source.read()?.load(&device)?;
    let (learning_rate, description) = (plan.learning_rate, loaded.description);
    let mut trainer = Trainer::new(
        loaded.model,
        loaded.tokenizer,
        loaded.processor,
        plan.optimizer()?,
        TrainerOptions {
            batch_size: plan.batch_size,
            learning_rate: Box::new(move |_| learning_rate),
            seed: plan.seed,
            augment: plan.augment,
        },
    );
    log(
        observer,
        Level::Debug,
        format!(
            "{} parameters, {} threads",
            trainer.model.params().count(),
            rayon::current_num_threads()
        ),
    );
    let mut callbacks = plan.callbacks()?;
    let mut context = Context {
        trainer: &mut trainer,
        metrics: BTreeMap::new(),
        before: Metrics::new(),
        after: Metrics::new(),
        data: read_data,
        modalities: &plan.modalities,
        folder,
        observer,
    };
    let mut progress = Progress::start();
    match checkpoint {
        Some(file) => progress.load(file, &mut callbacks, &mut context)?,
        None => {
            for callback in &mut *callbacks {
                callback.on_fit_begin(&mut context)?;
            }
        }
    }
    train_epochs(
        &plan,
        &train,
        &validation,
        &mut callbacks,
        &mut context,
        &progress,
    )?;
    let duration = progress.duration();
    let (before, after) = (context.before, context.after);
    log(
        observer,
        Level::Debug,
        format!("Finetuning took {}", in_words(duration)),
    );
    for (name, after) in &after {
        let message = match before.get(name) {
            Some(before) => format!(
                "Metric: '{name}' before fine-tuning:  {before:.5} after fine-tuning: {after:.5}"
            ),
            None => format!("Metric: '{name}' Value: {after:.5}"),
        };
        log(observer, Level::Info, message);
    }
    log(observer, Level::Info, "Building the artifact ...");
    let artifact = artifact::write(
        folder,
        &trainer.model,
        &trainer.processor,
        &description,
        &RunRecord {
            config,
            device: if device.is_cpu() { "cpu" } else { "gpu" },
            duration,
            before: &before,
            after: &after,
        },
    )?;
    Ok(Finished {
        artifact,
        before,
        after,
    })
}

fn read_pairs(
    plan: &Plan,
    read_data: &dyn Fn(&str) -> Result<DocumentArray>,
) -> Result<(Vec<Pair>, Vec<Pair>)> {
    let read = |name: &str| data::pairs(&read_data(name)?, &plan.modalities, name);
    let train = read(&plan.train_data)?;
    let (train, validation) = match &plan.eval_data {
        Some(name) => (train, read(name)?),
        None => data::split(train, plan.val_split, plan.seed),
    };
    if train.len() < 2 {
        return Err(Error::data(format!(
            "`{}` holds {} pair to train on; a contrastive loss needs at least 2",
            plan.train_data,
            train.len()
        )));
    }
    Ok((train, validation))
}

fn train_epochs(
    plan: &Plan,
    pairs: &[Pair],
    validation: &[Pair],
    callbacks: &mut [Box<dyn TrainingCallback>],
    context: &mut Context<'_>,
    run: &Progress,
) -> Result<()> {
    context.log(Level::Info, "Finetuning ...");
    while context.trainer.position().epoch < plan.epochs {
        let epoch = context.trainer.position().epoch + 1;
        let started = Instant::now();
        let steps = context.trainer.steps_per_epoch(pairs);
        let observer = &mut *context.observer;
        let mut last_line = started;
        let progress = |step: usize| {
            let (epochs, seconds) = (plan.epochs, started.elapsed().as_secs_f64());
            format!("Training [{epoch}/{epochs}] {step}/{steps} {seconds:.1} s")
        };
        let trained = context.trainer.epoch(pairs, |step| {
            observer.event(Event::Step {
                epoch,
                epochs: plan.epochs,
                step: step.step,
                steps,
                loss: f64::from(step.loss),
                mean_loss: step.mean_loss,
                learning_rate: step.learning_rate,
            });
            if last_line.elapsed() >= PROGRESS_INTERVAL && step.step < steps {
                last_line = Instant::now();
                let done = progress(step.step);
                let line = format!("{done} • loss: {:.3}", step.mean_loss);
                log(observer, Level::Info, line);
            }
            // The trainer is free for a checkpoint only between its steps.
            if observer.interrupted().is_some() || observer.wants_checkpoint() {
                return Err(Error::Interrupted);
            }
            Ok(())
        });
        let train_loss = match trained {
            Ok(loss) => loss,
            Err(Error::Interrupted) => {
                run.pause(callbacks, context)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let val_loss = if validation.is_empty() {
            None
        } else {
            Some(context.trainer.validation_loss(validation)?)
        };
        context.observer.event(Event::Epoch {
            epoch,
            epochs: plan.epochs,
            train_loss,
            val_loss,
        });
        let validated = val_loss.map_or(String::new(), |loss| format!(" • val_loss: {loss:.3}"));
        context.log(
            Level::Info,
            format!("{} • loss: {train_loss:.3}{validated}", progress(steps)),
        );
        context.metrics = BTreeMap::from([("train_loss".to_owned(), train_loss)]);
        if let Some(loss) = val_loss {
            context.metrics.insert("val_loss".to_owned(), loss);
        }
        for callback in &mut *callbacks {
            callback.on_epoch_end(context)?;
        }
        if plan.keep_checkpoints > 0
            || context.observer.interrupted().is_some()
            || context.observer.wants_checkpoint()
        {
            run.pause(callbacks, context)?;
        }
    }
    for callback in &mut *callbacks {
        callback.on_fit_end(context)?;
    }
    for callback in &mut *callbacks {
        callback.after_fit(context)?;
    }
    context.log(Level::Info, "Done ✨");
    Ok(())
}

/// How long a run has been trained, and how it is saved.
struct Progress {
    since: Instant,
    before: Duration,
}

impl Progress {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            before: Duration::ZERO,
        }
    }

    fn duration(&self) -> Duration {
        self.before + self.since.elapsed()
    }

    /// Between two steps: makes the checkpoint that is wanted, and ends the
    /// run where that is asked for.
    fn pause(
        &self,
        callbacks: &[Box<dyn TrainingCallback>],
        context: &mut Context<'_>,
    ) -> Result<()> {
        let interrupted = context.observer.interrupted();
        if interrupted != Some(Interruption::Stop) {
            self.save(callbacks, context)?;
        }
        match interrupted {
            Some(_) => Err(Error::Interrupted),
            None => Ok(()),
        }
    }

    fn save(
        &self,
        callbacks: &[Box<dyn TrainingCallback>],
        context: &mut Context<'_>,
    ) -> Result<()> {
        let state = context.folder.join(TRAINER_FILE);
        Checkpoint::of(context.trainer)?.write(&state)?;
        let record = resume::Progress::new(
            context.before.clone(),
            callbacks.iter().map(|callback| callback.state()).collect(),
            self.duration().as_secs_f64(),
        );
        let file = context.folder.join("checkpoint.zip");
        resume::pack(&file, &record, context.folder, &file_names(callbacks))?;
        std::fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
        let at = context.trainer.position();
        if let Err(reason) = context.observer.checkpoint(&file, at) {
            let message = format!("The checkpoint could not be kept: {reason}");
            context.log(Level::Warning, message);
        }
        std::fs::remove_file(&file).map_err(|e| Error::io(&file, e))
    }

    fn load(
        &mut self,
        file: &Path,
        callbacks: &mut [Box<dyn TrainingCallback>],
        context: &mut Context<'_>,
    ) -> Result<()> {
        let record = resume::unpack(file, context.folder, &file_names(callbacks))?;
        let state = context.folder.join(TRAINER_FILE);
        Checkpoint::read(&state)?.apply(context.trainer)?;
        std::fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
        if record.callbacks.len() != callbacks.len() {
            return Err(Error::checkpoint("it is of a run with other callbacks"));
        }
        for (callback, state) in callbacks.iter_mut().zip(&record.callbacks) {
            callback.restore(state)?;
        }
        context.before = record.before;
        self.before = Duration::try_from_secs_f64(record.seconds).unwrap_or_default();
        let Position { epoch, step, .. } = context.trainer.position();
        context.log(
            Level::Info,
            format!("Going on from a checkpoint: {epoch} epochs and {step} steps are done"),
        );
        Ok(())
    }
}

/// The trainer's part of a checkpoint.
const TRAINER_FILE: &str = "trainer.safetensors";

/// All files of a checkpoint.
fn file_names(callbacks: &[Box<dyn TrainingCallback>]) -> Vec<&'static str> {
    let own = callbacks.iter().filter_map(|callback| callback.file());
    std::iter::once(TRAINER_FILE).chain(own).collect()
}

fn log(observer: &mut dyn Observer, level: Level, message: impl Into<String>) {
    observer.event(Event::Log {
        level,
        message: message.into(),
    });
}

/// A duration as the Python Finetuner says it.
fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!(
        "{} days, {} hours {} minutes and {} seconds",
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}
