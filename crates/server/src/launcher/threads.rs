//! The launcher that runs workers in threads of the server's process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{BoxFuture, ready};

use super::{JobState, LaunchError, Launcher, WorkOrder, contract::NO_OUTCOME};
use crate::{
    requests::Authorities,
    worker::{self, Place, Signals},
};

/// Starts workers in threads.
#[derive(Default)]
pub(crate) struct Threads {
    jobs: Mutex<HashMap<String, Job>>,
}

struct Job {
    thread: Arc<Thread>,
    /// Whether a list has reported the end.
    is_told: bool,
}

#[derive(Default)]
struct Thread {
    stop: Arc<AtomicBool>,
    /// Reason for the thread's end; `None` while it runs.
    ended: Mutex<Option<String>>,
}

impl Thread {
    fn ended(&self) -> Option<String> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone()
    }
}

impl Threads {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, order: &WorkOrder) -> Result<(), LaunchError> {
        let mut jobs = self.jobs();
        if jobs.contains_key(&order.name) {
            return Ok(());
        }
        let thread = Arc::new(Thread::default());
        let (work, order) = (Arc::clone(&thread), order.clone());
        let name = order.name.clone();
        let spawned = std::thread::Builder::new()
            .name("finetuner-worker".to_owned())
            .spawn(move || {
                let signals = Signals::new(Arc::clone(&work.stop));
                let run = || {
                    let ca = order.ca.as_deref();
                    let authorities = ca.map(|text| Authorities::in_pem(text.as_bytes()));
                    worker::run(
                        &order.url,
                        order.start_token,
                        &order.folder,
                        authorities.transpose()?.unwrap_or_default(),
                        signals,
                        Place::Thread,
                    )
                };
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                let end = match result {
                    Ok(Ok(())) => NO_OUTCOME.to_owned(),
                    Ok(Err(reason)) => reason,
                    Err(_) => "it panicked; this is a bug".to_owned(),
                };
                *work.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            });
        spawned.map_err(|e| {
            LaunchError::Retry(format!("the worker's thread can't be started: {e}"))
        })?;
        jobs.retain(|_, job| !job.is_told);
        let is_told = false;
        jobs.insert(name, Job { thread, is_told });
        Ok(())
    }
}

impl Launcher for Threads {
    fn start<'a>(&'a self, order: &'a WorkOrder) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(ready(self.spawn(order)))
    }

    /// A thread can't be ended from outside. It stops before its next training
    /// step.
    fn stop<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        if let Some(job) = self.jobs().get(name) {
            job.thread.stop.store(true, Ordering::Relaxed);
        }
        Box::pin(ready(Ok(())))
    }

    fn list(&self) -> BoxFuture<'_, Result<HashMap<String, JobState>, String>> {
        let mut jobs = self.jobs();
        let listed = jobs.iter_mut().map(|(name, job)| {
            let ended = job.thread.ended();
            job.is_told = ended.is_some();
            (
                name.clone(),
                ended.map_or(JobState::Running, JobState::Ended),
            )
        });
        let listed = listed.collect();
        Box::pin(ready(Ok(listed)))
    }

    fn engine(&self) -> &'static str {
        "the server"
    }

    fn outlives_the_server(&self) -> bool {
        false
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for job in self.jobs().values() {
            job.thread.stop.store(true, Ordering::Relaxed);
        }
    }
}
