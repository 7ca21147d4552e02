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
use tokio::sync::Notify;

use crate::{
    api::{Logins, Uploads},
    attempts::LoginAttempts,
    cached::Cached,
    changes::Changes,
    clock::Clock,
    counters::Counters,
    database::{
        AccountChange, CANCELLED, Database, End, Identity, Manager, NewArtifact, Put, RunRow,
        Usage, Which, now_ms,
    },
    error::{ApiError, Result},
    gate::Gates,
    oidc::Oidc,
    queue_state::{Health, Leases, Waits},
    run_folders::RunFolders,
    secret,
    serving::Serving,
    settings::Settings,
    space::Space,
    store::{Hold, Store, Stored, Unnamed, Upload},
    ticket::Signer,
};

/// How long a server that stops waits to note that in the database.
const NOTE_LIMIT: Duration = Duration::from_secs(1);

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
    /// Tells the outbox that there may be something to send.
    pub(crate) outgoing: Notify,
    /// Whether the server is about to end: workers shall pause.
    stopping: AtomicBool,
    pub(crate) changes: Changes,
    pub(crate) clock: Clock,
    /// Which workers are believed to be alive.
    pub(crate) leases: Leases,
    /// Whether the queue does its work.
    pub(crate) queue: Health,
    /// Where the jobs of runs wait.
    pub(crate) waits: Waits,
    pub(crate) uploads: Uploads,
    pub(crate) logins: Logins,
    /// None if the settings name no sign-in provider.
    pub(crate) oidc: Option<Oidc>,
    pub(crate) attempts: LoginAttempts,
    pub(crate) gates: Gates,
    /// How many runs have each status, for `/metrics`.
    pub(crate) run_counts: Cached<Vec<(String, u64)>>,
    /// Whether the database answers, for `/readyz`.
    pub(crate) readiness: Cached<std::result::Result<(), String>>,
    pub(crate) counters: Counters,
    pub(crate) serving: Serving,
    pub(crate) spent_codes: SpentCodes,
    /// Tokens that were used since this was last written down.
    used_tokens: Mutex<HashSet<Vec<u8>>>,
    pub(crate) space: Space,
    /// Where workers of this machine keep their files.
    pub(crate) run_folders: RunFolders,
}

impl App {
    pub(crate) fn new(
        database: Database,
        store: Store,
        settings: Settings,
        space: Space,
        oidc: Option<Oidc>,
        signing_key: [u8; 32],
        server_id: &str,
    ) -> Arc<Self> {
        let clock = Clock::default();
        let counters = Counters::default();
        let serving = Serving::new(store.clone(), settings.max_loaded, counters.serving());
        Arc::new(Self {
            leases: Leases::new(clock.clone(), settings.lease),
            queue: Health::new(clock.clone()),
            waits: Waits::default(),
            clock,
            database,
            store,
            settings,
            signer: Signer::new(signing_key),
            boot: secret::new_id(),
            submitted: Notify::new(),
            outgoing: Notify::new(),
            stopping: AtomicBool::new(false),
            changes: Changes::default(),
            uploads: Uploads::default(),
            logins: Logins::default(),
            oidc,
            attempts: LoginAttempts::default(),
            gates: Gates::default(),
            run_counts: Cached::new(Duration::from_secs(5)),
            readiness: Cached::new(Duration::from_secs(1)),
            counters,
            serving,
            spent_codes: SpentCodes::default(),
            used_tokens: Mutex::default(),
            space,
            run_folders: RunFolders::of(server_id),
        })
    }

    /// A server's state over this store, with a database in the memory.
    #[cfg(test)]
    pub(crate) fn in_memory(store: Store, settings: Settings) -> Arc<Self> {
        let space = Space::new(std::env::temp_dir(), Some(0));
        Self::new(
            crate::database::in_memory(),
            store,
            settings,
            space,
            None,
            [0; 32],
            &secret::new_id(),
        )
    }

    /// From now on workers are told to pause, and no new ones are started.
    pub(crate) async fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        match tokio::time::timeout(NOTE_LIMIT, self.database.note_stop()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("The stop can't be noted in the database: {error}"),
            Err(_) => tracing::warn!("The stop can't be noted in the database, which is busy"),
        }
        self.submitted.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends a run without an artifact, unless it has ended: for the worker with
    /// `token`, or for anybody. Says whether it was ended.
    pub(crate) async fn fail(
        self: &Arc<Self>,
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

    /// Ends a run on behalf of a user, unless it has ended.
    pub(crate) async fn cancel(self: &Arc<Self>, run_id: i64, by: Identity) -> Result<()> {
        let reason = format!("{CANCELLED}{}", by.name);
        let end = End {
            status: Status::Failed,
            lines: vec![(Level::Error, reason.clone())],
            details: reason,
        };
        let app = Arc::clone(self);
        to_the_end(async move {
            let orphans = app.database.cancel_run(by, run_id, end).await?;
            app.ended(run_id, orphans.unwrap_or_default()).await;
            Ok(())
        })
        .await
    }

    /// Tells everybody that a run has ended, and removes what it left.
    async fn ended(&self, run_id: i64, orphans: Vec<String>) {
        self.changes.notify(run_id);
        self.submitted.notify_one();
        self.outgoing.notify_one();
        self.remove_orphans(orphans).await;
    }

    /// Ends a run, unless it has ended. Says whether it was ended.
    pub(crate) async fn end(
        self: &Arc<Self>,
        run_id: i64,
        token: Option<Vec<u8>>,
        end: End,
    ) -> Result<bool> {
        let app = Arc::clone(self);
        to_the_end(async move {
            let orphans = app.database.end_run(run_id, token, end).await?;
            let ended = orphans.is_some();
            app.ended(run_id, orphans.unwrap_or_default()).await;
            Ok(ended)
        })
        .await
    }

    /// Finds something that names a content, and holds that content: it stays
    /// until the hold is dropped, whatever is deleted meanwhile.
    pub(crate) async fn held<T, F>(
        &self,
        find: impl Fn() -> F,
        content: fn(&T) -> &str,
    ) -> Result<Option<(T, Hold)>>
    where
        F: Future<Output = rusqlite::Result<Option<T>>>,
    {
        let mut found = find().await?;
        while let Some(named) = found {
            let hold = self.store.hold(content(&named)).await;
            // It may have gone before it was held.
            let again = find().await?;
            if again.as_ref().map(content) == Some(content(&named)) {
                return Ok(Some((named, hold)));
            }
            found = again;
        }
        Ok(None)
    }

    /// Starts to take in data for a project, as far as there is room. An artifact
    /// that it replaces may be named.
    pub(crate) async fn upload(&self, user: &Identity, replaces: Option<&str>) -> Result<Upload> {
        self.space.check("upload", 0)?;
        let space = self.space.clone();
        let quota = self.quota(user, replaces).await?;
        let check = move |size: u64| {
            if let Some((used, most)) = quota
                && used.saturating_add(size) > most
            {
                return Err(over_quota(used.saturating_add(size), most));
            }
            space.check("upload", 0)
        };
        let upload = self.store.upload().checked(Box::new(check));
        Ok(upload)
    }

    /// The bytes of a project that count when an upload begins, and the most that
    /// it may have. Without the name of what it replaces only the upload itself
    /// can be limited; what is stored in the end is counted when it gets its name.
    async fn quota(&self, user: &Identity, replaces: Option<&str>) -> Result<Option<(u64, u64)>> {
        let usage = self.usage(user).await?;
        let Some(most) = usage.max_stored else {
            return Ok(None);
        };
        let Some(name) = replaces else {
            return Ok(Some((0, most)));
        };
        let project = user.namespace.clone();
        let replaced = self.database.artifact_by_name(project, name.to_owned());
        let replaced = replaced.await?.map_or(0, |artifact| artifact.size);
        Ok(Some((usage.stored.saturating_sub(replaced), most)))
    }

    /// What a user and the project have taken of the server, and their limits.
    pub(crate) async fn usage(&self, of: &Identity) -> Result<Usage> {
        let most = (self.settings.max_open_runs, self.settings.max_stored);
        Ok(self.database.usage(of, most).await?)
    }

    /// Puts a content in its place and lets `enter` give it a name. If that does
    /// not happen, or is cancelled, the content is removed. `enter` returns its
    /// result and the contents that nothing refers to any more.
    pub(crate) async fn keep<T>(
        &self,
        upload: Upload,
        enter: impl AsyncFnOnce(&Stored) -> Result<(T, Vec<String>)>,
    ) -> Result<T> {
        let (stored, unnamed) = self.place(upload).await?;
        match enter(&stored).await {
            Ok((made, orphans)) => {
                unnamed.named();
                self.remove_orphans(orphans).await;
                Ok(made)
            }
            Err(error) => {
                drop(unnamed);
                self.remove_orphans(vec![stored.content]).await;
                Err(error)
            }
        }
    }

    /// Puts a content in its place. It is removed unless it gets a name.
    pub(crate) async fn place(&self, upload: Upload) -> Result<(Stored, Unnamed)> {
        let sealed = upload.seal().await?;
        let hold = self.store.hold(sealed.content()).await;
        let unnamed = Unnamed::new(hold.clone());
        Ok((sealed.place(hold).await?, unnamed))
    }

    /// Enters a content as an artifact. Returns its id and the content that
    /// nothing refers to any more.
    pub(crate) async fn put_artifact(
        &self,
        by: Identity,
        new: NewArtifact,
    ) -> Result<(String, Vec<String>)> {
        let most = self.settings.max_stored;
        match self.database.put_artifact(by, new, most).await? {
            Put::Artifact { id, orphan } => Ok((id, orphan.into_iter().collect())),
            Put::OverQuota(stored, most) => Err(over_quota(stored, most)),
        }
    }

    /// Removes those of the contents that nothing refers to. One that somebody
    /// still reads is removed later; one that could not be removed, by the sweep
    /// of the next start. What made them orphans was done all the same.
    pub(crate) async fn remove_orphans(&self, contents: Vec<String>) {
        for content in contents {
            // Something may have got it since.
            let is_wanted = self.database.is_wanted(content.clone());
            if let Err(error) = self.store.remove(&content, is_wanted).await {
                tracing::warn!("Content {content}, which nothing refers to, stays: {error}");
            }
        }
    }

    /// Removes contents that nothing refers to once nobody reads them any more,
    /// as long as the server runs.
    pub(crate) async fn remove_suspects(self: Arc<Self>) {
        loop {
            let suspects = self.store.suspects().await;
            self.remove_orphans(suspects).await;
        }
    }

    /// Deletes an artifact of the project. Says whether it was there.
    pub(crate) async fn delete_artifact(
        self: &Arc<Self>,
        by: Identity,
        which: Which,
    ) -> Result<bool> {
        let app = Arc::clone(self);
        to_the_end(async move {
            let (there, orphan) = app.database.delete_artifact(by, which).await?;
            app.remove_orphans(orphan.into_iter().collect()).await;
            Ok(there)
        })
        .await
    }

    /// Deletes a run and what it has made. Its worker, if there is one, finds
    /// that its token is void, and stops.
    pub(crate) async fn delete_run(self: &Arc<Self>, by: Identity, run: RunRow) -> Result<()> {
        let app = Arc::clone(self);
        to_the_end(async move {
            let orphans = app.database.delete_run(by, run.id).await?;
            app.ended(run.id, orphans).await;
            Ok(())
        })
        .await
    }

    /// Removes a member of a project, and ends what the member follows.
    pub(crate) async fn remove_member(
        self: &Arc<Self>,
        by: Identity,
        project: String,
        name: String,
    ) -> Result<()> {
        let app = Arc::clone(self);
        to_the_end(async move {
            app.database.remove_member(by, project, name).await?;
            app.changes.notify_all();
            Ok(())
        })
        .await
    }

    /// Changes a user, and ends what a disabled one follows.
    pub(crate) async fn change_account(
        self: &Arc<Self>,
        by: Manager,
        name: String,
        change: AccountChange,
    ) -> Result<()> {
        let app = Arc::clone(self);
        to_the_end(async move {
            app.database.change_account(by, name, change).await?;
            app.changes.notify_all();
            Ok(())
        })
        .await
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
            if let Err(error) = self.database.prune_audit(self.settings.audit_days).await {
                tracing::warn!("old entries of the audit log could not be removed: {error}");
            }
            if let Err(error) = self.database.drop_expired_shares().await {
                tracing::warn!("expired links could not be removed: {error}");
            }
            self.uploads.forget();
            self.logins.forget();
            if let Some(oidc) = &self.oidc {
                oidc.forget();
            }
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

/// Does work to its end, even if nobody waits for it any more: what follows a
/// change of the database must not be left out because a client has gone.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|e| ApiError::internal(&e))?
}

/// Refuses what is too much for its user.
pub(crate) fn over_quota(stored: u64, most: u64) -> ApiError {
    ApiError::forbidden(format!(
        "stored bytes: the project's data, models and checkpoints would take {} MiB, and the \
         limit is {} MiB: delete some, or ask the operator for a higher `--max-stored`",
        stored.div_ceil(1 << 20),
        most >> 20
    ))
}

/// Codes that have signed somebody in, and when each would have ended.
#[derive(Default)]
pub(crate) struct SpentCodes(Mutex<HashMap<String, i64>>);

impl SpentCodes {
    /// Spends a code. Returns whether it was good until now.
    pub(crate) fn spend(&self, code: &str, until: i64) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended is refused without being remembered.
        spent.retain(|_, until| *until > now_ms());
        spent.insert(code.to_owned(), until).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_used_once_and_remembered_until_it_expires() {
        let spent = SpentCodes::default();
        let until = now_ms() + 3_600_000;
        assert!(spent.spend("a", until));
        assert!(!spent.spend("a", until));
        assert!(spent.spend("ended", 0));
        assert!(spent.spend("b", until));
        assert_eq!(spent.0.lock().unwrap().len(), 2);
    }
}
