//! Accounts, experiments, runs, events and artifacts in one SQLite file. Each
//! of them has its own file here; all SQL is in this folder.

mod accounts;
mod artifacts;
mod events;
mod experiments;
mod runs;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

pub(crate) use accounts::UserRow;
pub(crate) use artifacts::{ArtifactRow, NewArtifact, Which};
pub(crate) use events::StoredEvent;
pub(crate) use experiments::ExperimentRow;
pub(crate) use runs::{NewRunRow, RunRow};

/// One entry for each version of the schema. Entries are never changed, only
/// added.
const MIGRATIONS: [&str; 2] = [
    include_str!("0001_first.sql"),
    include_str!("0002_accounts.sql"),
];

/// The time in UTC as SQL.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// The database. Clones share one connection.
#[derive(Clone)]
pub(crate) struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Opens or creates the file, and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let connection = Connection::open(path).map_err(|e| e.to_string())?;
        Self::prepare(connection)
    }

    fn prepare(mut connection: Connection) -> Result<Self, String> {
        let mut setup = || -> rusqlite::Result<usize> {
            connection.busy_timeout(Duration::from_secs(10))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
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
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs `f` with the connection, off the async threads.
    async fn call<T, F>(&self, f: F) -> rusqlite::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let connection = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            // A transaction that panicked was rolled back: the connection is fine.
            f(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => Err(rusqlite::Error::QueryReturnedNoRows),
        }
    }
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
    Database::prepare(Connection::open_in_memory().unwrap()).unwrap()
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
}
