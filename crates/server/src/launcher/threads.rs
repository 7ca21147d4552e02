//! Workers in threads of this process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::BoxFuture;

use super::{Launcher, WorkOrder};
use crate::worker::{self, Place};

/// Starts workers in threads.
#[derive(Default)]
pub(crate) struct Threads {
    started: AtomicU64,
    jobs: Mutex<HashMap<String, Arc<Thread>>>,
}

#[derive(Default)]
struct Thread {
    stop: Arc<AtomicBool>,
    /// How it has ended.
    ended: Mutex<Option<String>>,
}

impl Thread {
    fn ended(&self) -> Option<String> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone()
    }
}

impl Threads {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Thread>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher for Threads {
    fn start(&self, order: WorkOrder) -> BoxFuture<'_, Result<String, String>> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let job = format!("thread-{number}");
        let thread = Arc::new(Thread::default());
        let work = Arc::clone(&thread);
        let spawned = std::thread::Builder::new()
            .name("finetuner-worker".to_owned())
            .spawn(move || {
                let stop = Arc::clone(&work.stop);
                let run =
                    || worker::run(&order.url, order.token, &order.folder, stop, Place::Thread);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                let end = match result {
                    Ok(Ok(())) => "it ended without saying how".to_owned(),
                    Ok(Err(reason)) => reason,
                    Err(_) => "it has panicked; this is a bug".to_owned(),
                };
                *work.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            });
        let started = spawned
            .map_err(|e| format!("no thread for the worker: {e}"))
            .map(|_| {
                let mut jobs = self.jobs();
                // Nobody asks for workers that ended before the last ones.
                jobs.retain(|_, thread| thread.ended().is_none());
                jobs.insert(job.clone(), thread);
                job
            });
        Box::pin(std::future::ready(started))
    }

    /// A thread can't be ended from outside: it stops at its next step.
    fn kill<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), String>> {
        if let Some(thread) = self.jobs().get(job) {
            thread.stop.store(true, Ordering::Relaxed);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn running(&self) -> BoxFuture<'_, Result<Vec<String>, String>> {
        let jobs = self.jobs();
        let running = jobs.iter().filter(|(_, thread)| thread.ended().is_none());
        let running = running.map(|(job, _)| job.clone()).collect();
        Box::pin(std::future::ready(Ok(running)))
    }

    fn end_of(&self, job: &str) -> Option<String> {
        self.jobs().get(job)?.ended()
    }

    /// The threads of an earlier server have ended with it.
    fn take_over<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.jobs().values() {
            thread.stop.store(true, Ordering::Relaxed);
        }
    }
}
