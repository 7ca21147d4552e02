//! How a run tells what happens, and is told to stop.

use std::path::Path;

use finetuner_protocol::Event;

use crate::train::Position;

/// Whoever follows a run: it is told what happens, and may end it.
pub trait Observer {
    /// Something happened. It must not take long: training waits.
    fn event(&mut self, event: Event);

    /// The most bytes of memory that the run may hold, where there is a limit
    /// beside the machine's own.
    fn memory_limit(&self) -> Option<u64> {
        None
    }

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
