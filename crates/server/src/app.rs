//! What all parts of a running server share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use finetuner_protocol::{Event, Level, Status};
use tokio::sync::{Notify, watch};

use crate::{
    api::Uploads,
    database::{Database, NewArtifact, RunRow, Which},
    error::Result,
    secret,
    store::{Store, Stored},
};

/// How long the address of a download can be used.
const TICKET_LIFE: Duration = Duration::from_secs(3600);

/// The state of a server.
pub(crate) struct App {
    pub(crate) database: Database,
    pub(crate) store: Store,
    /// Whether runs may start from models in folders of this machine.
    pub(crate) local_models: bool,
    /// Tells the queue that there is a new run.
    pub(crate) submitted: Notify,
    pub(crate) changes: Changes,
    pub(crate) tickets: Tickets,
    pub(crate) uploads: Uploads,
}

impl App {
    pub(crate) fn new(database: Database, store: Store, local_models: bool) -> Arc<Self> {
        Arc::new(Self {
            database,
            store,
            local_models,
            submitted: Notify::new(),
            changes: Changes::default(),
            tickets: Tickets::default(),
            uploads: Uploads::default(),
        })
    }

    /// Notes what happened in a run, and tells those who follow it.
    pub(crate) async fn add_events(
        &self,
        run_id: i64,
        first: Option<u64>,
        events: Vec<Event>,
    ) -> Result<()> {
        self.database.add_events(run_id, first, events).await?;
        self.changes.notify(run_id);
        Ok(())
    }

    /// Adds a line to a run's log.
    pub(crate) async fn log(&self, run_id: i64, level: Level, message: String) -> Result<()> {
        self.add_events(run_id, None, vec![Event::Log { level, message }])
            .await
    }

    /// Ends a run without an artifact, unless it has ended.
    pub(crate) async fn fail(&self, run_id: i64, reason: String) -> Result<()> {
        // The line first: who sees the final status has seen all lines.
        let run = self.database.run_by_id(run_id).await?;
        if run.is_none_or(|run| run.status().is_final()) {
            return Ok(());
        }
        self.log(run_id, Level::Error, reason.clone()).await?;
        self.database
            .set_status(run_id, Status::Failed, reason)
            .await?;
        self.changes.notify(run_id);
        Ok(())
    }

    /// Enters a stored content as an artifact. Returns its id.
    pub(crate) async fn put_artifact(&self, new: NewArtifact) -> Result<String> {
        let (id, orphan) = self.database.put_artifact(new).await?;
        if let Some(content) = orphan {
            self.store.remove(&content).await;
        }
        Ok(id)
    }

    /// Removes a content that was just taken in, unless something has it.
    pub(crate) async fn remove_unused(&self, content: &str) -> Result<()> {
        if !self.database.has_content(content.to_owned()).await? {
            self.store.remove(content).await;
        }
        Ok(())
    }

    /// Deletes a user's artifact. Says whether it was there.
    pub(crate) async fn delete_artifact(&self, user_id: String, which: Which) -> Result<bool> {
        let (there, orphan) = self.database.delete_artifact(user_id, which).await?;
        if let Some(content) = orphan {
            self.store.remove(&content).await;
        }
        Ok(there)
    }

    /// Deletes a run and what it has made. Its worker, if there is one, finds
    /// that its token is void, and stops.
    pub(crate) async fn delete_run(&self, run: RunRow) -> Result<()> {
        self.database.delete_run(run.id).await?;
        self.changes.notify(run.id);
        self.delete_artifact(run.user_id, Which::Id(run.artifact_id))
            .await
            .map(drop)
    }

    /// Enters what a run has made.
    pub(crate) async fn put_model(&self, run: &RunRow, stored: Stored) -> Result<()> {
        self.put_artifact(NewArtifact {
            id: run.artifact_id.clone(),
            user_id: run.user_id.clone(),
            name: None,
            kind: "model".to_owned(),
            public: false,
            meta_data: "{}".to_owned(),
            content: stored.content,
            size: stored.size,
        })
        .await
        .map(drop)
    }
}

/// Wakes those who follow a run when it has changed.
#[derive(Default)]
pub(crate) struct Changes(Mutex<HashMap<i64, watch::Sender<()>>>);

impl Changes {
    /// Follows a run. A change after this call is not missed.
    pub(crate) fn subscribe(&self, run_id: i64) -> watch::Receiver<()> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.entry(run_id)
            .or_insert_with(|| watch::channel(()).0)
            .subscribe()
    }

    pub(crate) fn notify(&self, run_id: i64) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = runs.get(&run_id)
            && sender.send(()).is_err()
        {
            // Nobody follows it any more.
            runs.remove(&run_id);
        }
    }
}

/// Short-lived keys, each good for the download of one artifact's content.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, Ticket>>);

/// What a key is good for.
#[derive(Clone)]
pub(crate) struct Ticket {
    pub(crate) content: String,
    pub(crate) size: u64,
    until: Instant,
}

impl Tickets {
    /// A new key.
    pub(crate) fn issue(&self, content: String, size: u64) -> String {
        let key = secret::hex(&rand::random::<[u8; 16]>());
        let now = Instant::now();
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|_, ticket| ticket.until > now);
        let ticket = Ticket {
            content,
            size,
            until: now + TICKET_LIFE,
        };
        tickets.insert(key.clone(), ticket);
        key
    }

    /// What the key is good for.
    pub(crate) fn redeem(&self, key: &str) -> Option<Ticket> {
        let tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets
            .get(key)
            .filter(|ticket| ticket.until > Instant::now())
            .cloned()
    }
}
