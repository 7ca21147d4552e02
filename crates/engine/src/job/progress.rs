//! Saves the state of a run in checkpoints and restores it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use finetuner_protocol::Level;

use super::negatives;
use crate::{
    Error, Result,
    callbacks::{Context, TrainingCallback},
    observer::Interruption,
    resume,
    train::{Position, read_checkpoint, write_checkpoint},
};

/// Measures the training time of a run, and saves and restores its state.
pub(super) struct Progress {
    since: Instant,
    before: Duration,
}

impl Progress {
    pub(super) fn start() -> Self {
        Self {
            since: Instant::now(),
            before: Duration::ZERO,
        }
    }

    pub(super) fn duration(&self) -> Duration {
        self.before + self.since.elapsed()
    }

    /// Saves a checkpoint and ends the run if the observer asked for it.
    ///
    /// It is called between steps. A run that is stopped for good saves nothing.
    pub(super) fn pause(
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

    /// Writes a checkpoint and passes it to the observer.
    ///
    /// If it can't be written, for example because the disk is full, the run continues
    /// with a warning: the observer keeps the former one.
    fn save(
        &self,
        callbacks: &[Box<dyn TrainingCallback>],
        context: &mut Context<'_>,
    ) -> Result<()> {
        let state = context.folder.join(TRAINER_FILE);
        let file = context.folder.join("checkpoint.zip");
        let written = self.write(&state, &file, callbacks, context);
        let _ = std::fs::remove_file(&state);
        let stored = match written {
            Ok(()) => {
                let at = context.trainer.position();
                context.observer.checkpoint(&file, at)
            }
            Err(error @ Error::Io { .. }) => {
                context.observer.checkpoint_skipped();
                Err(error.to_string())
            }
            Err(error) => return Err(error),
        };
        let _ = std::fs::remove_file(&file);
        if let Err(reason) = stored {
            let message = format!("The checkpoint could not be stored: {reason}");
            context.log(Level::Warning, message);
        }
        Ok(())
    }

    /// Writes a checkpoint to `file`. `state` is the path of the trainer's part.
    fn write(
        &self,
        state: &Path,
        file: &Path,
        callbacks: &[Box<dyn TrainingCallback>],
        context: &Context<'_>,
    ) -> Result<()> {
        write_checkpoint(context.trainer, state)?;
        let record = resume::Progress {
            before: context.before.clone(),
            callbacks: callbacks.iter().map(|callback| callback.state()).collect(),
            seconds: self.duration().as_secs_f64(),
            batch_size: context.trainer.options.batch_size,
            history: context.history.clone(),
            stop: context.stop,
            ..resume::Progress::new()
        };
        resume::pack(file, &record, context.folder, &file_names(callbacks))
    }

    /// Restores the state of a run from the record of a checkpoint.
    pub(super) fn load(
        &mut self,
        record: resume::Progress,
        callbacks: &mut [Box<dyn TrainingCallback>],
        context: &mut Context<'_>,
    ) -> Result<()> {
        let state = context.folder.join(TRAINER_FILE);
        read_checkpoint(context.trainer, &state)?;
        std::fs::remove_file(&state).map_err(|e| Error::io(&state, e))?;
        if record.callbacks.len() != callbacks.len() {
            return Err(Error::checkpoint(
                "it belongs to a run with other callbacks",
            ));
        }
        for (callback, state) in callbacks.iter_mut().zip(&record.callbacks) {
            callback.restore(state)?;
        }
        context.before = record.before;
        context.history = record.history;
        context.stop = record.stop;
        self.before = Duration::try_from_secs_f64(record.seconds).unwrap_or_default();
        let Position { epoch, step, .. } = context.trainer.position();
        context.log(
            Level::Info,
            format!("Resuming from a checkpoint after {epoch} epochs and {step} steps"),
        );
        Ok(())
    }
}

/// The trainer's part of a checkpoint.
const TRAINER_FILE: &str = "trainer.safetensors";

/// Names of all files in a checkpoint.
pub(super) fn file_names(callbacks: &[Box<dyn TrainingCallback>]) -> Vec<&'static str> {
    let own = callbacks.iter().filter_map(|callback| callback.file());
    [TRAINER_FILE, negatives::FILE]
        .into_iter()
        .chain(own)
        .collect()
}
