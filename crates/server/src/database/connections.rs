//! Connections to the database: one writer in its own thread, and several
//! readers.
//!
//! Readers and async threads never wait for the writer. A call that waits too
//! long fails with a busy error.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, Error, ffi};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The database. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Database(Arc<Connections>);

/// Number of connections that only read.
pub(super) const READERS: usize = 4;
/// Time that a statement waits for a writer in another process.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Time that a call waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Work for the writing connection.
type Job = Box<dyn FnOnce(&mut Connection) + Send>;

pub(super) struct Connections {
    /// `None` while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// `None` for a database in memory, which is read through the writer.
    readers: Option<Arc<Readers>>,
}

struct Readers {
    turns: Arc<Semaphore>,
    /// Connections that are not in use; at least as many as there are free turns.
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    pub(super) fn new(mut writer: Connection, readers: Vec<Connection>) -> Result<Self, String> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let write = move || {
            for job in queue {
                // A panic rolls the transaction back, so the connection stays usable.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut writer)));
            }
        };
        let thread = std::thread::Builder::new().name("database".to_owned());
        let count = readers.len();
        let readers = Readers {
            turns: Arc::new(Semaphore::new(count)),
            idle: Mutex::new(readers),
        };
        Ok(Self {
            jobs: Some(jobs),
            writer: Some(thread.spawn(write).map_err(|e| e.to_string())?),
            readers: (count > 0).then(|| Arc::new(readers)),
        })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // Closing the channel ends the thread after its pending jobs, which closes the
        // file.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl From<Connections> for Database {
    fn from(connections: Connections) -> Self {
        Self(Arc::new(connections))
    }
}

impl Database {
    /// Runs `f` with the writing connection in its thread. It runs to its end even
    /// if the caller is cancelled.
    pub(super) async fn write<T, F>(&self, f: F) -> rusqlite::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_within(PATIENCE, f).await
    }

    async fn write_within<T, F>(&self, patience: Duration, f: F) -> rusqlite::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let until = Instant::now() + patience;
        let turn = Arc::new(Turn::default());
        let job = {
            let turn = Arc::clone(&turn);
            move |connection: &mut Connection| {
                if Instant::now() < until && turn.begin() {
                    let _ = tell.send(f(connection));
                }
            }
        };
        let jobs = self.0.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(Box::new(job)).map_err(|_| closed())?;
        let mut told = std::pin::pin!(told);
        let done = match tokio::time::timeout(patience, told.as_mut()).await {
            Ok(done) => done,
            // The job's turn never came, so it will not run.
            Err(_) if turn.give_up() => return Err(busy()),
            // The job has started, so its result is awaited.
            Err(_) => told.await,
        };
        done.unwrap_or_else(|_| match turn.give_up() {
            // The turn came too late.
            true => Err(busy()),
            // The panic was printed to standard error.
            false => Err(panicked()),
        })
    }

    /// Runs `f` with a reading connection on a blocking thread.
    pub(super) async fn read<T, F>(&self, f: F) -> rusqlite::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(readers) = self.0.readers.as_ref().map(Arc::clone) else {
            return self.write(f).await;
        };
        let turn = Arc::clone(&readers.turns).acquire_owned();
        let turn = tokio::time::timeout(PATIENCE, turn).await;
        // The semaphore is never closed.
        let turn = turn.map_err(|_| busy())?.map_err(|_| closed())?;
        let done = tokio::task::spawn_blocking(move || {
            let mut reader = Reader::take(readers, turn)?;
            reader.connection.as_mut().map_or_else(|| Err(closed()), f)
        });
        match done.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => Err(closed()),
        }
    }
}

/// Whether a job has started or was given up. Only one of the two can happen.
#[derive(Default)]
struct Turn(AtomicBool);

impl Turn {
    /// Starts the job. Returns false if it was given up.
    fn begin(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    /// Gives up the job. Returns false if it has started.
    fn give_up(&self) -> bool {
        self.begin()
    }
}

/// A reading connection. It is returned to the pool when dropped.
struct Reader {
    readers: Arc<Readers>,
    connection: Option<Connection>,
    /// Released after the connection is returned.
    _turn: OwnedSemaphorePermit,
}

impl Reader {
    fn take(readers: Arc<Readers>, turn: OwnedSemaphorePermit) -> rusqlite::Result<Self> {
        let idle = readers
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        Ok(Self {
            connection: Some(idle.ok_or_else(closed)?),
            readers,
            _turn: turn,
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let idle = self.readers.idle.lock();
        idle.unwrap_or_else(PoisonError::into_inner)
            .extend(self.connection.take());
    }
}

fn busy() -> Error {
    let reason = "too many calls are waiting for the database".to_owned();
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(reason))
}

/// Returned while the runtime is shutting down.
fn closed() -> Error {
    let reason = "the server is shutting down".to_owned();
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ABORT), Some(reason))
}

fn panicked() -> Error {
    let reason = "the database call panicked; this is a bug".to_owned();
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERNAL), Some(reason))
}

#[cfg(test)]
mod tests {
    use rusqlite::ErrorCode;

    use super::*;
    use crate::{database::Manager, error::ApiError};

    #[tokio::test]
    async fn a_request_that_waits_too_long_is_refused_while_reads_continue() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db.sqlite")).unwrap();
        let (begun, has_begun) = oneshot::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let long = tokio::spawn({
            let database = database.clone();
            async move {
                let write = database.write(move |_| {
                    let _ = begun.send(());
                    let _ = goes_on.recv();
                    Ok(())
                });
                write.await
            }
        });
        has_begun.await.unwrap();
        for _ in 0..2 * READERS {
            assert!(database.has_no_users().await.unwrap(), "readers continue");
        }
        // The caller gets the error while the long job runs, and its own job never
        // runs.
        let (done, was_done) = mpsc::channel();
        let waits = database.write_within(Duration::from_millis(1), move |_| {
            done.send(()).unwrap();
            Ok(())
        });
        let error = waits.await.unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
        go_on.send(()).unwrap();
        long.await.unwrap().unwrap();
        assert!(database.write(|_| Ok(())).await.is_ok());
        assert!(was_done.try_recv().is_err(), "the job was cancelled");
        let error = ApiError::from(error);
        assert_eq!(
            (error.status().as_u16(), error.retry_after()),
            (503, Some(1))
        );
    }

    #[tokio::test]
    async fn panics_and_dropped_calls_return_their_connection() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db.sqlite")).unwrap();
        for _ in 0..2 * READERS {
            let panics = tokio::spawn({
                let database = database.clone();
                async move {
                    database
                        .read(|_| -> rusqlite::Result<()> { panic!("a test") })
                        .await
                }
            });
            assert!(panics.await.is_err());
            let given_up = tokio::spawn({
                let database = database.clone();
                async move { database.read(|_| Ok(())).await }
            });
            given_up.abort();
            let panics = database.write(|_| -> rusqlite::Result<()> { panic!("a test") });
            assert!(panics.await.is_err());
        }
        assert!(database.has_no_users().await.unwrap());
        let added = database.add_user(Manager::Operator, "ada".into());
        added.await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_has_its_own_status() {
        let database = super::super::in_memory();
        let full = database.write(|db| {
            let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
            db.pragma_update(None, "max_page_count", pages)?;
            db.execute("CREATE TABLE more (x BLOB)", [])?;
            db.execute("INSERT INTO more VALUES (zeroblob(1000000))", [])
        });
        let error = ApiError::from(full.await.unwrap_err());
        assert_eq!(error.status().as_u16(), 507, "{}", error.message());
    }
}
