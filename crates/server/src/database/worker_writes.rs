//! The writes of workers. Each checks the worker's token in the same transaction,
//! so a replaced worker can't write anything.

mod progress;

use std::time::Duration;

use finetuner_protocol::{Event, Level};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Actor, CheckpointRow, Database, NewArtifact,
    announcements::{RunEvent, announce},
    artifacts, checkpoints, events,
    run_rows::OPEN,
    sql::now_ms,
};
use progress::Progress;

/// Whether `token` belongs to the run's current worker and the run is open.
fn is_current(db: &Connection, run_id: i64, token: &[u8]) -> rusqlite::Result<bool> {
    db.query_row(
        &format!(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND worker_token = ?2 AND {OPEN})"
        ),
        params![run_id, token],
        |row| row.get(0),
    )
}

impl Database {
    /// Marks a run as started when its worker fetches the job. Returns whether the
    /// worker has the run.
    pub(crate) async fn begin(&self, run_id: i64, token: Vec<u8>) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let is_first: Option<bool> = transaction
                .query_row(
                    &format!(
                        "SELECT started_at IS NULL FROM runs
                         WHERE id = ?1 AND worker_token = ?2 AND {OPEN}"
                    ),
                    params![run_id, token],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(is_first) = is_first else {
                return Ok(false);
            };
            transaction.execute(
                "UPDATE runs SET status = 'STARTED', details = 'Run is being executed',
                     started_at = coalesce(started_at, ?2)
                 WHERE id = ?1",
                params![run_id, now_ms()],
            )?;
            if is_first {
                announce(&transaction, run_id, RunEvent::Started)?;
            }
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Stores a worker's events and adds `worked` to the run's working time.
    ///
    /// The first event has number `first` in its launch. Skips events that were
    /// received before, and steps and epochs that an earlier worker reported.
    /// Returns whether the worker still has the run.
    pub(crate) async fn add_worker_events(
        &self,
        run_id: i64,
        token: Vec<u8>,
        worked: Duration,
        first: u64,
        batch: Vec<Event>,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            if !is_current(&transaction, run_id, &token)? {
                return Ok(false);
            }
            let mut state = Progress::read(&transaction, run_id)?;
            // There are no gaps, because a worker repeats a batch until it is accepted.
            let skip = usize::try_from(state.received.saturating_sub(first)).unwrap_or(usize::MAX);
            let received = first.saturating_add(batch.len() as u64).max(state.received);
            let new: Vec<Event> = batch.into_iter().skip(skip).collect();
            let new: Vec<Event> = new.into_iter().filter(|event| state.take(event)).collect();
            events::append(&transaction, run_id, &new)?;
            state.received = received;
            state.write(&transaction, run_id, worked)?;
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

    /// Stores a worker's checkpoint. Returns the contents that have lost their
    /// last reference, or `None` if the worker no longer has the run.
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
            // Progress resets the number of attempts.
            transaction.execute(
                "UPDATE runs SET attempts = 1 WHERE id = ?1 AND (?2, ?3) > (
                     SELECT coalesce(max(epoch), -1), coalesce(max(step), -1) FROM (
                         SELECT epoch, step FROM checkpoints WHERE run_id = ?1
                         ORDER BY epoch DESC, step DESC LIMIT 1))",
                params![run_id, checkpoint.epoch, checkpoint.step],
            )?;
            let message = format!(
                "Checkpoint {} saved after {} epochs and {} steps",
                checkpoints::insert(&transaction, run_id, &checkpoint)?,
                checkpoint.epoch,
                checkpoint.step
            );
            events::log(&transaction, run_id, Level::Debug, message)?;
            let orphans = checkpoints::thin(&transaction, run_id, true)?;
            transaction.commit()?;
            Ok(Some(orphans))
        })
        .await
    }

    /// Stores a worker's model. Returns the content that has lost its last
    /// reference, if there is one. The outer `None` means that the worker no
    /// longer has the run.
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
            if model.public {
                Actor::starter(&transaction, run_id)?.note(
                    &transaction,
                    "data.publish",
                    model.name.as_deref().unwrap_or(&model.id),
                )?;
            }
            let (_, orphan) = artifacts::put(&transaction, model)?;
            transaction.commit()?;
            Ok(Some(orphan))
        })
        .await
    }
}
