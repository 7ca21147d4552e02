//! What all parts of a running server share.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use finetuner_protocol::{Level, Status};
use tokio::sync::{Notify, RwLock, watch};

use crate::{
    api::{Logins, Uploads},
    attempts::LoginAttempts,
    cached::Cached,
    counters::Counters,
    database::{Database, End, NewArtifact, RunRow, Which},
    error::Result,
    gate::Gates,
    secret,
    settings::Settings,
    store::{Store, Upload},
    ticket::Signer,
};

/// The state of a server.
pub(crate) struct App {
    pub(crate) database: Database,
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) signer: Signer,
    /// Another one each time a server starts.
    pub(crate) boot: String,
    /// Tells the queue that there may be something to do.
    pub(crate) submitted: Notify,
    /// Whether the server is about to end: workers shall pause.
    stopping: AtomicBool,
    pub(crate) changes: Changes,
    pub(crate) uploads: Uploads,
    pub(crate) logins: Logins,
    pub(crate) attempts: LoginAttempts,
    pub(crate) gates: Gates,
    /// How many runs have each status, for `/metrics`.
    pub(crate) run_counts: Cached<Vec<(String, u64)>>,
    /// Whether the database answers, for `/readyz`.
    pub(crate) readiness: Cached<std::result::Result<(), String>>,
    pub(crate) counters: Counters,
    pub(crate) spent_codes: SpentCodes,
    /// Tokens that were used since this was last written down.
    used_tokens: Mutex<HashSet<Vec<u8>>>,
    /// Held by those who give a stored content a name, and alone by those who
    /// remove one: else a content could go while it gets its name.
    contents: RwLock<()>,
}

impl App {
    pub(crate) fn new(
        database: Database,
        store: Store,
        settings: Settings,
        signing_key: [u8; 32],
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            store,
            settings,
            signer: Signer::new(signing_key),
            boot: secret::new_id(),
            submitted: Notify::new(),
            stopping: AtomicBool::new(false),
            changes: Changes::default(),
            uploads: Uploads::default(),
            logins: Logins::default(),
            attempts: LoginAttempts::default(),
            gates: Gates::default(),
            run_counts: Cached::new(Duration::from_secs(5)),
            readiness: Cached::new(Duration::from_secs(1)),
            counters: Counters::default(),
            spent_codes: SpentCodes::default(),
            used_tokens: Mutex::default(),
            contents: RwLock::default(),
        })
    }

    /// From now on workers are told to pause, and no new ones are started.
    pub(crate) fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.submitted.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends a run without an artifact, unless it has ended: for the worker with
    /// `token`, or for anybody. Says whether it was ended.
    pub(crate) async fn fail(
        &self,
        run_id: i64,
        token: Option<Vec<u8>>,
        reason: String,
    ) -> Result<bool> {
        let end = End {
            status: Status::Failed,
            lines: vec![(Level::Error, reason.clone())],
            details: reason,
        };
        self.end(run_id, token, end).await
    }

    /// Ends a run, unless it has ended. Says whether it was ended.
    pub(crate) async fn end(&self, run_id: i64, token: Option<Vec<u8>>, end: End) -> Result<bool> {
        let orphans = self.database.end_run(run_id, token, end).await?;
        let ended = orphans.is_some();
        self.remove_orphans(orphans.unwrap_or_default()).await?;
        self.changes.notify(run_id);
        self.submitted.notify_one();
        Ok(ended)
    }

    /// Puts a content in its place and lets `enter` give it a name; where that
    /// does not happen, it is removed. `enter` returns what it made, and the
    /// contents that nothing refers to any more.
    pub(crate) async fn keep<T>(
        &self,
        upload: Upload,
        enter: impl AsyncFnOnce(&crate::store::Stored) -> Result<(T, Vec<String>)>,
    ) -> Result<T> {
        let guard = self.contents.read().await;
        let stored = upload.finish().await?;
        let entered = enter(&stored).await;
        drop(guard);
        match entered {
            Ok((made, orphans)) => {
                self.remove_orphans(orphans).await?;
                Ok(made)
            }
            Err(error) => {
                self.remove_orphans(vec![stored.content]).await?;
                Err(error)
            }
        }
    }

    /// Enters a content as an artifact. Returns its id.
    pub(crate) async fn put_artifact(&self, new: NewArtifact) -> Result<(String, Vec<String>)> {
        let (id, orphan) = self.database.put_artifact(new).await?;
        Ok((id, orphan.into_iter().collect()))
    }

    /// Removes those of the contents that nothing refers to.
    pub(crate) async fn remove_orphans(&self, contents: Vec<String>) -> Result<()> {
        if contents.is_empty() {
            return Ok(());
        }
        let _guard = self.contents.write().await;
        for content in contents {
            // Something may have got it since.
            if !self.database.is_wanted(content.clone()).await? {
                self.store.remove(&content).await;
            }
        }
        Ok(())
    }

    /// Deletes a user's artifact. Says whether it was there.
    pub(crate) async fn delete_artifact(&self, user_id: String, which: Which) -> Result<bool> {
        let (there, orphan) = self.database.delete_artifact(user_id, which).await?;
        self.remove_orphans(orphan.into_iter().collect()).await?;
        Ok(there)
    }

    /// Deletes a run and what it has made. Its worker, if there is one, finds
    /// that its token is void, and stops.
    pub(crate) async fn delete_run(&self, run: RunRow) -> Result<()> {
        let orphans = self.database.delete_run(run.id).await?;
        self.changes.notify(run.id);
        self.submitted.notify_one();
        self.remove_orphans(orphans).await?;
        self.delete_artifact(run.user_id, Which::Id(run.artifact_id))
            .await
            .map(drop)
    }

    /// A token was used.
    pub(crate) fn note_use(&self, hash: Vec<u8>) {
        let mut used = self
            .used_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.insert(hash);
    }

    /// Writes down, from time to time, what is not worth a write each time, and
    /// forgets what has ended.
    pub(crate) async fn keep_house(self: Arc<Self>) {
        const PAUSE: Duration = Duration::from_secs(60);
        loop {
            tokio::time::sleep(PAUSE).await;
            self.write_uses().await;
            if let Err(error) = self.database.drop_expired_tokens().await {
                tracing::warn!("ended tokens could not be removed: {error}");
            }
            self.uploads.forget();
            self.logins.forget();
        }
    }

    /// Writes down which tokens were used.
    pub(crate) async fn write_uses(&self) {
        let used = {
            let mut used = self
                .used_tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *used).into_iter().collect::<Vec<_>>()
        };
        if !used.is_empty()
            && let Err(error) = self.database.touch_tokens(used).await
        {
            tracing::warn!("the use of tokens could not be noted: {error}");
        }
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

/// Codes that have signed somebody in, and are good no more.
#[derive(Default)]
pub(crate) struct SpentCodes(Mutex<HashSet<String>>);

impl SpentCodes {
    /// Spends a code. Says whether it was good until now.
    pub(crate) fn spend(&self, code: &str) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spent.insert(code.to_owned())
    }
}
