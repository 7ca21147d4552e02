//! The interface through which a run reports progress and is interrupted.

use std::path::Path;

use finetuner_protocol::Event;

use crate::train::Position;

/// Receives a run's events, and may interrupt the run.
pub trait Observer {
    /// Handles an event. Must return quickly: training waits for it.
    fn event(&mut self, event: Event);

    /// Returns the memory limit of the run in bytes.
    ///
    /// `None` means the machine's memory.
    fn memory_limit(&self) -> Option<u64> {
        None
    }

    /// Returns whether and how the run should stop at the next step.
    fn interrupted(&self) -> Option<Interruption> {
        None
    }

    /// Returns whether to write a checkpoint at the next step or the end of the epoch.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// Stores a checkpoint.
    ///
    /// The next checkpoint overwrites `file`, so its contents must be copied.
    ///
    /// # Errors
    /// Returns why the checkpoint could not be stored. The run logs a warning and
    /// continues.
    fn checkpoint(&mut self, file: &Path, at: Position) -> Result<(), String> {
        let _ = (file, at);
        Ok(())
    }

    /// Called instead of [`Observer::checkpoint`] if the checkpoint can't be written.
    ///
    /// The run logs a warning and continues. While [`Observer::wants_checkpoint`] returns
    /// true, it tries again after each step.
    fn checkpoint_skipped(&mut self) {}
}

/// A request to stop a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// Stop for good, without a checkpoint.
    Stop,
    /// Write a checkpoint first, so that the run can resume later.
    Pause,
}
