//! Accounts, experiments, runs, events and artifacts in one SQLite file. Each
//! of them has its own file here; all SQL is in this folder.

mod accounts;
mod artifacts;
mod checkpoints;
mod events;
mod experiments;
mod queue;
mod runs;
mod upkeep;
mod usage;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

pub(crate) use accounts::{NewToken, Scope, UserRow};
pub(crate) use artifacts::{ArtifactList, ArtifactRow, NewArtifact, Put, Which};
pub(crate) use checkpoints::CheckpointRow;
pub(crate) use events::StoredEvent;
pub(crate) use experiments::ExperimentRow;
pub(crate) use finetuner_protocol::FoundDocuments as Found;
pub(crate) use queue::{Claim, End, Launched};
pub(crate) use runs::{Created, NewRunRow, RunFilter, RunRow};

/// One entry for each version of the schema. Entries are never changed, only
/// added.
const MIGRATIONS: [&str; 3] = [
    include_str!("0001_first.sql"),
    include_str!("0002_accounts.sql"),
    include_str!("0003_queue.sql"),
];

/// The time in UTC as SQL.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// Connections that only read. Reading waits for no writer.
const READERS: usize = 4;

/// The database. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Database(Arc<Connections>);

struct Connections {
    writer: Mutex<Connection>,
    /// Those that nobody uses; none for a database in memory, which the writer
    /// reads as well.
    readers: Mutex<Vec<Connection>>,
    free: Option<Semaphore>,
}

impl Database {
    /// Opens or creates the file, and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let writer = Self::prepare(Connection::open(path).map_err(|e| e.to_string())?)?;
        let reader = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        };
        let readers = (0..READERS).map(|_| reader()).collect::<Result<_, _>>();
        Ok(Self(Arc::new(Connections {
            writer: Mutex::new(writer),
            readers: Mutex::new(readers.map_err(|e| e.to_string())?),
            free: Some(Semaphore::new(READERS)),
        })))
    }

    fn prepare(mut connection: Connection) -> Result<Connection, String> {
        let mut setup = || -> rusqlite::Result<usize> {
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // What was answered with yes is on the disk, whatever happens next.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let version: usize =
                transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            for migration in MIGRATIONS.iter().skip(version) {
                transaction.execute_batch(migration)?;
            }
            if version < MIGRATIONS.len() {
                transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
            }
            transaction.commit()?;
            Ok(version)
        };
        let version = setup().map_err(|e| e.to_string())?;
        if version > MIGRATIONS.len() {
            return Err(format!(
                "its database has version {version}, this server knows {}: use a newer server",
                MIGRATIONS.len()
            ));
        }
        Ok(connection)
    }

    /// Runs `f` with the connection that writes, off the async threads.
    async fn write<T, F>(&self, f: F) -> rusqlite::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let connections = Arc::clone(&self.0);
        off_thread(move || {
            // A transaction that panicked was rolled back: the connection is fine.
            let writer = connections.writer.lock();
            f(&mut writer.unwrap_or_else(PoisonError::into_inner))
        })
        .await
    }

    /// Runs `f` with a connection that reads, off the async threads.
    async fn read<T, F>(&self, f: F) -> rusqlite::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(free) = &self.0.free else {
            return self.write(f).await;
        };
        // Never closed.
        let _turn = free.acquire().await;
        let connections = Arc::clone(&self.0);
        off_thread(move || {
            let idle = || {
                connections
                    .readers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
            };
            let taken = idle().pop();
            let Some(mut reader) = taken else {
                // Whoever had it was cancelled, and gives it back when it is done.
                let writer = connections.writer.lock();
                return f(&mut writer.unwrap_or_else(PoisonError::into_inner));
            };
            let result = f(&mut reader);
            idle().push(reader);
            result
        })
        .await
    }
}

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);

async fn off_thread<T, F>(f: F) -> rusqlite::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> rusqlite::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(rusqlite::Error::QueryReturnedNoRows),
    }
}

/// Where the file lies in the folder of a server.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("finetuner.sqlite")
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// Offset and limit as SQLite wants them; a limit of -1 is none.
fn bounds(page: Option<(u64, u64)>) -> (i64, i64) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    page.map_or((0, -1), |(offset, limit)| (number(offset), number(limit)))
}

/// Whether an error says that something of that name is there already.
pub(crate) fn is_duplicate(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

#[cfg(test)]
pub(crate) fn in_memory() -> Database {
    let writer = Database::prepare(Connection::open_in_memory().unwrap()).unwrap();
    Database(Arc::new(Connections {
        writer: Mutex::new(writer),
        readers: Mutex::default(),
        free: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_twice_and_refuses_a_newer_schema() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        drop(Database::open(&path).unwrap());
        drop(Database::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let error = Database::open(&path).err().unwrap();
        assert!(error.contains("version 99"), "{error}");
    }

    #[test]
    fn a_database_of_an_earlier_version_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        let old = Connection::open(&path).unwrap();
        for migration in &MIGRATIONS[..2] {
            old.execute_batch(migration).unwrap();
        }
        old.execute_batch(
            "PRAGMA user_version = 2;
             INSERT INTO users (id, name, created_at) VALUES ('u', 'ada', '');
             INSERT INTO experiments (user_id, name, description, created_at)
                 VALUES ('u', 'e', '', '');
             INSERT INTO runs (experiment_id, name, description, config, device, task, status,
                 details, created_at, artifact_id, worker_token)
                 VALUES (1, 'r', '', '{}', 'cpu', 'training', 'STARTED', '', '', 'a', x'00');
             INSERT INTO events (run_id, number, at, event)
                 VALUES (1, 0, 0, '{\"kind\": \"log\"}');",
        )
        .unwrap();
        drop(old);
        drop(Database::open(&path).unwrap());
        let new = Connection::open(&path).unwrap();
        let row = new.query_row(
            "SELECT status, worker_token, (SELECT runs FROM experiments),
                 (SELECT kind FROM events) FROM runs",
            [],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, Option<Vec<u8>>>(1)?,
                    row.get::<_, u32>(2)?,
                    row.get::<_, String>(3)?,
                ))
            },
        );
        let expected = ("FAILED".to_owned(), None, 1, "log".to_owned());
        assert_eq!(row.unwrap(), expected);
    }
}
