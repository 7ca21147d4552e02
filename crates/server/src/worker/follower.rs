//! The observer of a run, which forwards what the engine reports to the server.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use finetuner_engine::{
    Error as EngineError,
    job::{Interruption, Observer},
    train::Position,
};
use finetuner_protocol::Event;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use super::{calls::Server, events, signals::Signals, trackers::Trackers};

/// Observes the run: forwards its events and uploads its checkpoints.
pub(super) struct Follower<'a> {
    pub(super) trackers: Trackers,
    pub(super) events: mpsc::UnboundedSender<events::Item>,
    pub(super) signals: Arc<Signals>,
    pub(super) runtime: &'a Runtime,
    pub(super) server: &'a Server,
    /// Time between two checkpoints.
    pub(super) every: Duration,
    /// Time of the last checkpoint, even if it was skipped.
    pub(super) last: Instant,
    /// Limit on the worker's memory, in bytes.
    pub(super) memory_limit: Option<u64>,
}

impl Follower<'_> {
    /// Waits for a transfer unless the run is interrupted first.
    pub(super) fn transfer<T>(&self, work: impl Future<Output = T>) -> Result<T, EngineError> {
        self.runtime.block_on(self.signals.unless_interrupted(work))
    }
}

impl Observer for Follower<'_> {
    fn event(&mut self, event: Event) {
        self.trackers.event(&event);
        // The receiver is gone only after a failed report, which also stops this run.
        let _ = self.events.send(events::Item::Event(event));
    }

    fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    fn interrupted(&self) -> Option<Interruption> {
        self.signals.interruption()
    }

    fn wants_checkpoint(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    fn checkpoint(&mut self, file: &Path, at: Position) -> Result<(), String> {
        let position = [("epoch", at.epoch), ("step", at.step)];
        let begun = Instant::now();
        let (told, delivered) = oneshot::channel();
        let sent = self.runtime.block_on(async {
            // A run that resumes from this checkpoint does not report the earlier steps
            // again.
            let asked = self.events.send(events::Item::Delivered(told)).is_ok();
            if !asked || delivered.await.is_err() {
                return Err("the events before it can't be reported".to_owned());
            }
            let sent = self.server.upload("checkpoint", &position, file);
            // A server that is gone is noticed by the reports, long before the upload.
            match self.signals.unless_stopped(sent).await {
                Ok(sent) => sent.map_err(|e| e.to_string()),
                Err(_) => Err("the worker was stopped".to_owned()),
            }
        });
        // A large model must not spend more than a tenth of its time on checkpoints.
        self.every = self.every.max(begun.elapsed() * 10);
        self.last = Instant::now();
        sent
    }

    fn checkpoint_skipped(&mut self) {
        self.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, runtime::Builder};

    use super::*;
    use crate::requests::Authorities;

    #[test]
    fn a_stopped_worker_does_not_wait_for_its_upload() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // It never answers.
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::new(&url, "t".into(), &Authorities::default()).unwrap();
        let signals = Arc::new(Signals::default());
        let (events, mut items) = mpsc::unbounded_channel();
        let stopping = Arc::clone(&signals);
        runtime.spawn(async move {
            while let Some(item) = items.recv().await {
                if let events::Item::Delivered(told) = item {
                    let _ = told.send(());
                    // The connection stays open.
                    let (_client, _) = listener.accept().await.unwrap();
                    stopping.stop();
                    std::future::pending::<()>().await;
                }
            }
        });
        let mut follower = Follower {
            trackers: Trackers::default(),
            events,
            signals,
            runtime: &runtime,
            server: &server,
            every: Duration::ZERO,
            last: Instant::now(),
            memory_limit: None,
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let sent = follower.checkpoint(file.path(), Position::default());
        assert_eq!(sent, Err("the worker was stopped".to_owned()));
    }
}
