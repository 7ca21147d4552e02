//! The orders that end or pause a run, which all parts of a worker share.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use finetuner_engine::{Error as EngineError, job::Interruption};

/// How often a long transfer looks whether the run was interrupted.
const LOOK: Duration = Duration::from_millis(100);

/// The orders that end or pause a run.
#[derive(Default)]
pub(crate) struct Signals {
    /// For good.
    stop: Arc<AtomicBool>,
    /// Whether the run has ended at the server.
    over: AtomicBool,
    /// To go on later.
    pause: Arc<AtomicBool>,
    /// With a failure, such as a limit that was passed.
    failure: Mutex<Option<String>>,
}

impl Signals {
    /// A run that also stops when `stop` is set.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// SIGINT and SIGTERM to this process are the order to pause. The first process
    /// of a container ignores both until this was called.
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
        // A file that is larger than allowed is an error, not the process's end.
        #[cfg(target_os = "linux")]
        register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        Ok(signals)
    }

    /// Nothing comes before the runtime listens for Ctrl-C.
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

    /// The server says that the run has ended.
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

    /// Carries out something long, unless the run is interrupted first.
    pub(super) async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, EngineError> {
        let interrupted = async {
            while self.interruption().is_none() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = interrupted => Err(EngineError::Interrupted),
            done = work => Ok(done),
        }
    }
}
