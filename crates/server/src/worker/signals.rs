//! Requests to stop, pause or fail a run, shared by all parts of a worker.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use finetuner_engine::{Error as EngineError, job::Interruption};

/// Interval at which a long transfer checks for an interruption.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Requests to stop, pause or fail a run.
#[derive(Default)]
pub(crate) struct Signals {
    /// Stop for good.
    stop: Arc<AtomicBool>,
    /// Whether the server has ended the run.
    over: AtomicBool,
    /// Pause, to resume later.
    pause: Arc<AtomicBool>,
    /// Fail with this reason, for example because a limit was exceeded.
    failure: Mutex<Option<String>>,
}

impl Signals {
    /// Creates signals that also stop the run when `stop` is set.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// Creates signals that SIGINT and SIGTERM of this process set to pause. The
    /// first process of a container ignores both until this call.
    #[cfg(unix)]
    pub(crate) fn of_this_process() -> std::io::Result<Self> {
        use signal_hook::{
            consts::{SIGINT, SIGTERM},
            flag::register,
        };

        let signals = Self::default();
        for signal in [SIGINT, SIGTERM] {
            register(signal, Arc::clone(&signals.pause))?;
        }
        // With a handler, writing a file beyond the size limit is an error and does not
        // kill the process.
        #[cfg(target_os = "linux")]
        register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        Ok(signals)
    }

    /// Creates signals. The runtime listens for Ctrl-C later.
    #[cfg(not(unix))]
    pub(crate) fn of_this_process() -> std::io::Result<Self> {
        Ok(Self::default())
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Records that the server has ended the run.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self) {
        self.pause.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_pausing(&self) -> bool {
        self.pause.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, reason: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(reason);
    }

    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    pub(super) fn interruption(&self) -> Option<Interruption> {
        if self.is_stopping() || self.failure().is_some() {
            return Some(Interruption::Stop);
        }
        self.is_pausing().then_some(Interruption::Pause)
    }

    /// Waits for `work` unless the run is stopped for good first. A pause lets it
    /// complete.
    pub(super) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, EngineError> {
        self.unless(Self::is_stopping, work).await
    }

    /// Waits for `work` unless the run is interrupted first.
    pub(super) async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, EngineError> {
        self.unless(|signals| signals.interruption().is_some(), work)
            .await
    }

    async fn unless<T>(
        &self,
        is_interrupted: impl Fn(&Self) -> bool,
        work: impl Future<Output = T>,
    ) -> Result<T, EngineError> {
        let interrupted = async {
            while !is_interrupted(self) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            () = interrupted => Err(EngineError::Interrupted),
            done = work => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_lets_an_upload_complete_and_a_stop_does_not() {
        let signals = Signals::default();
        signals.pause();
        assert!(signals.unless_interrupted(async {}).await.is_err());
        assert!(signals.unless_stopped(async {}).await.is_ok());
        signals.stop();
        assert!(signals.unless_stopped(async {}).await.is_err());
    }
}
