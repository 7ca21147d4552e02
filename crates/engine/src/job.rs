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
    train::{Pair, Trainer, TrainerOptions},
};

/// A long epoch says how far it is this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Whoever follows a run: it is told what happens, and may end it.
pub trait Observer {
    /// Something happened. It must not take long: training waits.
    fn event(&mut self, event: Event);

    /// Whether the run shall stop at the next step.
    fn interrupted(&self) -> bool {
        false
    }
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

/// Carries out a run. `read_data` gives the documents of a name, `folder` is
/// for the run alone and takes temporary files and the artifact.
///
/// # Errors
/// Whatever is wrong with configuration, model or data, and
/// [`Error::Interrupted`].
pub fn run(
    config: &RunConfig,
    device: &Device,
    local_models: bool,
    read_data: &dyn Fn(&str) -> Result<DocumentArray>,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Finished> {
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
    let started = Instant::now();
    train_epochs(&plan, &train, &validation, &mut callbacks, &mut context)?;
    let (before, after) = (context.before, context.after);
    log(
        observer,
        Level::Debug,
        format!("Finetuning took {}", in_words(started.elapsed())),
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
            duration: started.elapsed(),
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
) -> Result<()> {
    for callback in &mut *callbacks {
        callback.on_fit_begin(context)?;
    }
    context.log(Level::Info, "Finetuning ...");
    for epoch in 1..=plan.epochs {
        let started = Instant::now();
        let steps = context.trainer.steps_per_epoch(pairs);
        let observer = &mut *context.observer;
        let mut last_line = started;
        let progress = |step: usize| {
            let (epochs, seconds) = (plan.epochs, started.elapsed().as_secs_f64());
            format!("Training [{epoch}/{epochs}] {step}/{steps} {seconds:.1} s")
        };
        let train_loss = context.trainer.epoch(pairs, |step| {
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
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            Ok(())
        })?;
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
