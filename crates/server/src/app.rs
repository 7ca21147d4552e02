//! State that all parts of a running server share, and the operations that span
//! database, store and queue.

mod access;
mod contents;
mod housekeeping;
mod quota;
mod runs;
mod spent_codes;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub(crate) use quota::over_quota;
use spent_codes::SpentCodes;
use tokio::sync::Notify;

use crate::{
    attempts::LoginAttempts,
    cached::Cached,
    changes::Changes,
    clock::Clock,
    counters::Counters,
    database::Database,
    gate::Gates,
    logins::Logins,
    oidc::Oidc,
    queue_state::{Health, Leases, Waits},
    run_folders::RunFolders,
    secret,
    serving::Serving,
    settings::Settings,
    space::Space,
    store::Store,
    ticket::Signer,
    uploads::Uploads,
};

/// Time limit for recording the stop in the database.
const NOTE_LIMIT: Duration = Duration::from_secs(1);

/// The state of a server.
pub(crate) struct App {
    pub(crate) database: Database,
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) signer: Signer,
    /// Random id of this server process.
    pub(crate) boot: String,
    /// Wakes the queue.
    pub(crate) submitted: Notify,
    /// Wakes the outbox.
    pub(crate) outgoing: Notify,
    /// Whether the server is stopping: workers then pause.
    stopping: AtomicBool,
    pub(crate) changes: Changes,
    pub(crate) clock: Clock,
    /// Leases of the workers that count as alive.
    pub(crate) leases: Leases,
    /// Health of the queue.
    pub(crate) queue: Health,
    /// Status texts of runs whose jobs are pending in the engine's queue.
    pub(crate) waits: Waits,
    pub(crate) uploads: Uploads,
    pub(crate) logins: Logins,
    /// `None` if the settings name no sign-in provider.
    pub(crate) oidc: Option<Oidc>,
    pub(crate) attempts: LoginAttempts,
    pub(crate) gates: Gates,
    /// Number of runs with each status, for `/metrics`.
    pub(crate) run_counts: Cached<Vec<(String, u64)>>,
    /// Whether the database answers, for `/readyz`.
    pub(crate) readiness: Cached<std::result::Result<(), String>>,
    pub(crate) counters: Counters,
    pub(crate) serving: Serving,
    pub(crate) spent_codes: SpentCodes,
    /// Hashes of tokens used since the last write of `write_uses`.
    used_tokens: Mutex<HashSet<Vec<u8>>>,
    pub(crate) space: Space,
    /// Temporary folders of workers on this machine.
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

    /// Creates a state over this store, with a database in memory.
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

    /// Begins to stop: workers are told to pause, and no new ones are started.
    pub(crate) async fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        match tokio::time::timeout(NOTE_LIMIT, self.database.note_stop()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("The stop can't be recorded in the database: {error}"),
            Err(_) => tracing::warn!("The stop can't be recorded: the database is busy"),
        }
        self.submitted.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
