//! Which run has which worker. A worker holds its run under a lease: it shows
//! that it lives, or the run is given to another one. What a worker writes is
//! compared with the token of the run's worker in the same transaction, so that
//! one which was replaced can write nothing more.

use std::time::Duration;

use finetuner_protocol::{Event, Level, Stage, Status};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::{CheckpointRow, Database, NewArtifact, artifacts, checkpoints, events, now_ms};

/// A run that has a worker.
#[derive(Clone, Debug)]
pub(crate) struct Launched {
    pub(crate) id: i64,
    pub(crate) attempts: u32,
    /// The launcher's name of the worker; none between the claim and the start.
    pub(crate) job: Option<String>,
    pub(crate) lease_until: i64,
    pub(crate) started_at: Option<i64>,
}

/// A run that was given to a worker.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) id: i64,
    pub(crate) attempt: u32,
}

/// The lines of a run's end, and what the status says then.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) status: Status,
    pub(crate) details: String,
    pub(crate) lines: Vec<(Level, String)>,
}

const OPEN: &str = "status IN ('CREATED', 'STARTED')";

fn launched(row: &Row<'_>) -> rusqlite::Result<Launched> {
    Ok(Launched {
        id: row.get(0)?,
        attempts: row.get(1)?,
        job: row.get(2)?,
        lease_until: row.get::<_, Option<i64>>(3)?.unwrap_or_default(),
        started_at: row.get(4)?,
    })
}

fn until(lease: Duration) -> i64 {
    now_ms().saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
}

/// Whether `token` is that of the run's worker, and the run still open.
fn is_current(db: &Connection, run_id: i64, token: &[u8]) -> rusqlite::Result<bool> {
    db.query_row(
        &format!(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND worker_token = ?2 AND {OPEN})"
        ),
        params![run_id, token],
        |row| row.get(0),
    )
}

fn log(db: &Connection, run_id: i64, level: Level, message: String) -> rusqlite::Result<()> {
    events::append(db, run_id, &[Event::Log { level, message }])
}

impl Database {
    /// Gives the oldest run that waits to a worker with this token.
    pub(crate) async fn claim(
        &self,
        token: Vec<u8>,
        lease: Duration,
    ) -> rusqlite::Result<Option<Claim>> {
        self.write(move |db| {
            db.query_row(
                &format!(
                    "UPDATE runs SET worker_token = ?1, attempts = attempts + 1, received = 0,
                         lease_until = ?2, job = NULL, pace_step = NULL, pace_at = NULL
                     WHERE id = (SELECT id FROM runs WHERE {OPEN} AND worker_token IS NULL
                                 ORDER BY id LIMIT 1)
                     RETURNING id, attempts"
                ),
                params![token, until(lease)],
                |row| {
                    Ok(Claim {
                        id: row.get(0)?,
                        attempt: row.get(1)?,
                    })
                },
            )
            .optional()
        })
        .await
    }

    /// Notes what the launcher calls the worker of an attempt.
    pub(crate) async fn set_job(&self, claim: Claim, job: String) -> rusqlite::Result<()> {
        self.write(move |db| {
            db.execute(
                "UPDATE runs SET job = ?3 WHERE id = ?1 AND attempts = ?2",
                params![claim.id, claim.attempt, job],
            )
            .map(drop)
        })
        .await
    }

    /// The runs that have a worker.
    pub(crate) async fn launched(&self) -> rusqlite::Result<Vec<Launched>> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT id, attempts, job, lease_until, started_at FROM runs
                 WHERE {OPEN} AND worker_token IS NOT NULL ORDER BY id"
            ))?
            .query_map([], launched)?
            .collect()
        })
        .await
    }

    /// The worker has shown that it lives. Says whether it still has the run.
    pub(crate) async fn extend_lease(
        &self,
        run_id: i64,
        token: Vec<u8>,
        lease: Duration,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let changed = db.execute(
                &format!(
                    "UPDATE runs SET lease_until = ?3
                     WHERE id = ?1 AND worker_token = ?2 AND {OPEN}"
                ),
                params![run_id, token, until(lease)],
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Gives all workers of an earlier server time to find this one.
    pub(crate) async fn extend_leases(&self, lease: Duration) -> rusqlite::Result<()> {
        self.write(move |db| {
            db.execute(
                &format!(
                    "UPDATE runs SET lease_until = ?1 WHERE {OPEN} AND worker_token IS NOT NULL"
                ),
                [until(lease)],
            )
            .map(drop)
        })
        .await
    }

    /// Takes a run away from the worker of this attempt, so that it waits for
    /// another. Says whether that worker had it; `message` goes to the log. An
    /// attempt that `counts` not may be made again.
    pub(crate) async fn release(
        &self,
        run_id: i64,
        attempt: u32,
        counts: bool,
        level: Level,
        message: String,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let changed = transaction.execute(
                &format!(
                    "UPDATE runs SET worker_token = NULL, lease_until = NULL, job = NULL,
                         attempts = attempts - ?3
                     WHERE id = ?1 AND attempts = ?2 AND worker_token IS NOT NULL AND {OPEN}"
                ),
                params![run_id, attempt, u32::from(!counts)],
            )?;
            if changed == 1 {
                log(&transaction, run_id, level, message)?;
                transaction.commit()?;
            }
            Ok(changed == 1)
        })
        .await
    }

    /// A worker's first call: the run is in progress. Says whether the worker
    /// has it.
    pub(crate) async fn begin(&self, run_id: i64, token: Vec<u8>) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let changed = db.execute(
                &format!(
                    "UPDATE runs SET status = 'STARTED', details = 'Run is being executed',
                         started_at = coalesce(started_at, ?3)
                     WHERE id = ?1 AND worker_token = ?2 AND {OPEN}"
                ),
                params![run_id, token, now_ms()],
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Stores a worker's events, of which the first is number `first` of its
    /// attempt; those that have come before are skipped, and so are steps and
    /// epochs that an earlier worker has reported. Says whether the worker
    /// still has the run.
    pub(crate) async fn add_worker_events(
        &self,
        run_id: i64,
        token: Vec<u8>,
        lease: Duration,
        first: u64,
        batch: Vec<Event>,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            if !is_current(&transaction, run_id, &token)? {
                return Ok(false);
            }
            let mut state = State::read(&transaction, run_id)?;
            // A gap would mean that a batch was lost; its sender sends it first.
            let skip = usize::try_from(state.received.saturating_sub(first)).unwrap_or(usize::MAX);
            let received = first.saturating_add(batch.len() as u64).max(state.received);
            let new: Vec<Event> = batch.into_iter().skip(skip).collect();
            let new: Vec<Event> = new.into_iter().filter(|event| state.take(event)).collect();
            events::append(&transaction, run_id, &new)?;
            state.received = received;
            state.write(&transaction, run_id, until(lease))?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Stores a checkpoint of a worker. Returns the contents that nothing
    /// refers to any more, or none where the worker no longer has the run.
    pub(crate) async fn add_checkpoint(
        &self,
        run_id: i64,
        token: Vec<u8>,
        checkpoint: CheckpointRow,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            if !is_current(&transaction, run_id, &token)? {
                return Ok(None);
            }
            let message = format!(
                "Checkpoint {} is kept: {} epochs and {} steps",
                checkpoints::insert(&transaction, run_id, &checkpoint)?,
                checkpoint.epoch,
                checkpoint.step
            );
            log(&transaction, run_id, Level::Debug, message)?;
            let orphans = checkpoints::thin(&transaction, run_id, true)?;
            transaction.commit()?;
            Ok(Some(orphans))
        })
        .await
    }

    /// Stores the model that a worker has made. Returns the content that
    /// nothing refers to any more; none where the worker no longer has the run.
    pub(crate) async fn put_model(
        &self,
        run_id: i64,
        token: Vec<u8>,
        model: NewArtifact,
    ) -> rusqlite::Result<Option<Option<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            if !is_current(&transaction, run_id, &token)? {
                return Ok(None);
            }
            let (_, orphan) = artifacts::put(&transaction, model)?;
            transaction.commit()?;
            Ok(Some(orphan))
        })
        .await
    }

    /// Ends a run, unless it has ended: for the worker with `token`, or for
    /// anybody where there is none. Returns the contents that nothing refers to
    /// any more, or none where the run was not ended.
    pub(crate) async fn end_run(
        &self,
        run_id: i64,
        token: Option<Vec<u8>>,
        end: End,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let changed = transaction.execute(
                &format!(
                    "UPDATE runs SET status = ?3, details = ?4, ended_at = ?5
                     WHERE id = ?1 AND coalesce(worker_token = ?2, ?2 IS NULL) AND {OPEN}"
                ),
                params![run_id, token, end.status.as_str(), end.details, now_ms()],
            )?;
            if changed == 0 {
                return Ok(None);
            }
            // Who sees the final status sees all lines.
            for (level, message) in end.lines {
                log(&transaction, run_id, level, message)?;
            }
            // What has failed may still be gone on from.
            let keep_last = end.status != Status::Finished;
            let mut gone = checkpoints::thin(&transaction, run_id, keep_last)?;
            let mut used = data_of(&transaction, run_id)?;
            if end.status == Status::Finished {
                used.extend(begun_with(&transaction, run_id)?);
                transaction.execute(
                    "UPDATE runs SET first_checkpoint = NULL WHERE id = ?1",
                    [run_id],
                )?;
            }
            gone.extend(checkpoints::orphans(&transaction, used)?);
            transaction.commit()?;
            Ok(Some(gone))
        })
        .await
    }
}

/// The checkpoint that a run began with.
pub(super) fn begun_with(db: &Connection, run_id: i64) -> rusqlite::Result<Option<String>> {
    db.query_row(
        "SELECT first_checkpoint FROM runs WHERE id = ?1",
        [run_id],
        |row| row.get(0),
    )
}

/// The contents of a run's data.
pub(super) fn data_of(db: &Connection, run_id: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT used.value FROM runs, json_each(data) AS used WHERE runs.id = ?1")?
        .query_map([run_id], |row| row.get(0))?
        .collect()
}

/// How far a run is, as its worker's events tell.
struct State {
    received: u64,
    epoch: usize,
    epochs: usize,
    step: usize,
    steps: usize,
    epochs_done: usize,
    pace: Option<(i64, i64)>,
    metrics: Value,
}

impl State {
    fn read(db: &Connection, run_id: i64) -> rusqlite::Result<Self> {
        db.query_row(
            "SELECT received, epoch, epochs, step, steps, epochs_done, pace_step, pace_at, metrics
             FROM runs WHERE id = ?1",
            [run_id],
            |row| {
                let metrics: String = row.get(8)?;
                Ok(Self {
                    received: row.get(0)?,
                    epoch: row.get(1)?,
                    epochs: row.get(2)?,
                    step: row.get(3)?,
                    steps: row.get(4)?,
                    epochs_done: row.get(5)?,
                    pace: row.get::<_, Option<i64>>(6)?.zip(row.get(7)?),
                    metrics: serde_json::from_str(&metrics).unwrap_or_default(),
                })
            },
        )
    }

    /// Notes what an event says. A step or an epoch that was reported before is
    /// not wanted again: a run that goes on from a checkpoint repeats them with
    /// the same numbers.
    fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Step {
                epoch,
                epochs,
                step,
                steps,
                ..
            } => {
                let done = (epoch.saturating_sub(1) * steps + step) as i64;
                self.pace.get_or_insert((done, now_ms()));
                if (*epoch, *step) <= (self.epoch, self.step) {
                    return false;
                }
                (self.epoch, self.epochs) = (*epoch, *epochs);
                (self.step, self.steps) = (*step, *steps);
                true
            }
            Event::Epoch { epoch, .. } => {
                let new = *epoch > self.epochs_done;
                self.epochs_done = self.epochs_done.max(*epoch);
                new
            }
            Event::Evaluation { stage, metrics } => {
                let stage = match stage {
                    Stage::Before => "before",
                    Stage::After => "after",
                };
                for (name, value) in metrics {
                    self.metrics[stage][name] = (*value).into();
                }
                true
            }
            _ => true,
        }
    }

    fn write(&self, db: &Connection, run_id: i64, lease_until: i64) -> rusqlite::Result<()> {
        let (pace_step, pace_at) = self.pace.unzip();
        db.execute(
            "UPDATE runs SET received = ?2, epoch = ?3, epochs = ?4, step = ?5, steps = ?6,
                 epochs_done = ?7, pace_step = ?8, pace_at = ?9, metrics = ?10, lease_until = ?11
             WHERE id = ?1",
            params![
                run_id,
                self.received,
                self.epoch,
                self.epochs,
                self.step,
                self.steps,
                self.epochs_done,
                pace_step,
                pace_at,
                self.metrics.to_string(),
                lease_until
            ],
        )
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{in_memory, runs::tests::with_run};

    const LEASE: Duration = Duration::from_secs(30);

    fn line(text: &str) -> Event {
        Event::Log {
            level: Level::Info,
            message: text.into(),
        }
    }

    fn step(epoch: usize, step: usize) -> Event {
        Event::Step {
            epoch,
            epochs: 2,
            step,
            steps: 3,
            loss: 1.0,
            mean_loss: 1.0,
            learning_rate: 0.1,
        }
    }

    async fn seen(db: &Database, run_id: i64) -> Vec<Event> {
        let events = db.events(run_id, None, 0, 100).await.unwrap();
        let numbers: Vec<u64> = events.iter().map(|e| e.number).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
        events.into_iter().map(|e| e.event).collect()
    }

    #[tokio::test]
    async fn a_batch_that_comes_twice_is_stored_once_and_in_order() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        db.claim(b"one".to_vec(), LEASE).await.unwrap().unwrap();
        let add = async |first, events| {
            let added = db.add_worker_events(run, b"one".to_vec(), LEASE, first, events);
            assert!(added.await.unwrap());
        };
        add(0, vec![line("0"), line("1")]).await;
        add(0, vec![line("0"), line("1")]).await;
        add(1, vec![line("1"), line("2")]).await;
        // A line of the server's own takes nothing from the worker's count.
        let own = db.write(move |db| log(db, run, Level::Info, "mine".into()));
        own.await.unwrap();
        add(3, vec![line("3")]).await;
        let expected = ["0", "1", "2", "mine", "3"].map(line);
        assert_eq!(seen(&db, run).await, expected);
    }

    #[tokio::test]
    async fn a_worker_that_was_replaced_can_write_nothing() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let claim = db.claim(b"one".to_vec(), LEASE).await.unwrap().unwrap();
        assert_eq!((claim.id, claim.attempt), (run, 1));
        assert!(db.claim(b"two".to_vec(), LEASE).await.unwrap().is_none());
        assert!(db.begin(run, b"one".to_vec()).await.unwrap());
        let lost = db.release(run, 1, true, Level::Warning, "lost".into());
        assert!(lost.await.unwrap());
        // Once only, and not what another attempt has.
        let again = db.release(run, 1, true, Level::Warning, "lost".into());
        assert!(!again.await.unwrap());
        let claim = db.claim(b"two".to_vec(), LEASE).await.unwrap().unwrap();
        assert_eq!(claim.attempt, 2);

        let old = || b"one".to_vec();
        let added = db.add_worker_events(run, old(), LEASE, 0, vec![line("stale")]);
        assert!(!added.await.unwrap());
        assert!(!db.extend_lease(run, old(), LEASE).await.unwrap());
        assert!(!db.begin(run, old()).await.unwrap());
        let checkpoint = CheckpointRow::default();
        let stored = db.add_checkpoint(run, old(), checkpoint.clone()).await;
        assert!(stored.unwrap().is_none());
        let end = |status| End {
            status,
            details: "over".into(),
            lines: vec![(Level::Info, "over".into())],
        };
        let ended = db.end_run(run, Some(old()), end(Status::Finished)).await;
        assert!(ended.unwrap().is_none());
        let new = || b"two".to_vec();
        let stored = db.add_checkpoint(run, new(), checkpoint).await;
        assert!(stored.unwrap().is_some());
        let ended = db.end_run(run, Some(new()), end(Status::Finished)).await;
        assert!(ended.unwrap().is_some());
        // Ended once, whoever else wants it.
        let ended = db.end_run(run, None, end(Status::Failed)).await;
        assert!(ended.unwrap().is_none());
        let run = db.run_by_id(run).await.unwrap().unwrap();
        assert_eq!(run.status(), Status::Finished);
    }

    #[tokio::test]
    async fn steps_that_are_repeated_are_stored_once() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        db.claim(b"one".to_vec(), LEASE).await.unwrap();
        let batch = vec![step(1, 1), step(1, 2), step(1, 3), step(2, 1)];
        let added = db.add_worker_events(run, b"one".to_vec(), LEASE, 0, batch);
        assert!(added.await.unwrap());
        let lost = db.release(run, 1, true, Level::Warning, "lost".into());
        assert!(lost.await.unwrap());
        db.claim(b"two".to_vec(), LEASE).await.unwrap();
        // From the checkpoint behind step 2.
        let batch = vec![step(1, 3), step(2, 1), step(2, 2)];
        let added = db.add_worker_events(run, b"two".to_vec(), LEASE, 0, batch);
        assert!(added.await.unwrap());
        let steps: Vec<Event> = seen(&db, run).await;
        let expected = vec![step(1, 1), step(1, 2), step(1, 3), step(2, 1)];
        assert_eq!(steps[..4], expected);
        assert!(matches!(steps[4], Event::Log { .. }));
        assert_eq!(steps[5..], [step(2, 2)]);
    }
}
