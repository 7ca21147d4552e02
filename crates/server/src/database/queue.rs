//! Assignment of runs to jobs and workers.
//!
//! A job's worker exchanges the job's start token for a token of its own. Every
//! write of a worker checks that token in the same transaction, so a replaced
//! worker can't write anything.

mod progress;

use std::time::Duration;

use finetuner_protocol::{Event, Level, Status};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Actor, CheckpointRow, Database, Identity, NewArtifact, artifacts, checkpoints, events,
    outbox::{self, RunEvent},
    sql::{is_duplicate, now_ms},
};
use progress::{Progress, millis};

/// Request for a job for the next waiting run.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Prefix of this server's job names. The run and the launch follow it.
    pub(crate) prefix: String,
    /// Hash of the job's start token.
    pub(crate) start_token: Vec<u8>,
    /// Runs whose pause is not over, which are skipped.
    pub(crate) delayed: Vec<i64>,
}

/// A run that has a job.
#[derive(Clone, Debug)]
pub(crate) struct Launched {
    pub(crate) id: i64,
    /// Number of the launch. It is never reused.
    pub(crate) launches: u64,
    /// Number of the current attempt. Only faults of the run itself count as
    /// attempts.
    pub(crate) attempts: u32,
    /// Name of the job.
    pub(crate) job: String,
    /// Whether the job's worker has made its first call.
    pub(crate) has_worker: bool,
    /// Working time of the run so far.
    pub(crate) worked: Duration,
    /// Whether the run was ever in progress.
    pub(crate) is_started: bool,
    /// Whether the server began to stop while this worker had the run.
    pub(crate) stopped: bool,
}

impl Launched {
    /// Returns the run and the number of its launch.
    pub(crate) fn held(&self) -> (i64, u64) {
        (self.id, self.launches)
    }
}

/// Details of taking a run from its worker.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    /// Whether the attempt counts towards the limit.
    pub(crate) counts: bool,
    /// Working time that was not recorded yet.
    pub(crate) worked: Duration,
    /// Line for the run's log.
    pub(crate) line: Option<(Level, String)>,
}

/// Details of a run's end: the status, its text, and lines for the log.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) status: Status,
    pub(crate) details: String,
    pub(crate) lines: Vec<(Level, String)>,
}

const OPEN: &str = "status IN ('CREATED', 'STARTED')";

const LAUNCHED: &str = "id, launches, attempts, job, worked, started_at IS NOT NULL, stopped,
    worker_token IS NOT NULL";

fn launched(row: &Row<'_>) -> rusqlite::Result<Launched> {
    Ok(Launched {
        id: row.get(0)?,
        launches: row.get(1)?,
        attempts: row.get(2)?,
        job: row.get(3)?,
        worked: Duration::from_millis(row.get(4)?),
        is_started: row.get(5)?,
        stopped: row.get(6)?,
        has_worker: row.get(7)?,
    })
}

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

fn log(db: &Connection, run_id: i64, level: Level, message: String) -> rusqlite::Result<()> {
    events::append(db, run_id, &[Event::Log { level, message }])
}

impl Database {
    /// Assigns a job to the next waiting run.
    ///
    /// Users take turns, and each user's oldest run goes first. The job's name is
    /// stored before the job is submitted, so that the job can be found after a
    /// crash.
    pub(crate) async fn claim(&self, claim: Claim) -> rusqlite::Result<Option<Launched>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let delayed = serde_json::json!(claim.delayed).to_string();
            let next: Option<(i64, Option<String>)> = transaction
                .prepare_cached(&format!(
                    "SELECT min(runs.id), created_by FROM runs
                         LEFT JOIN users ON users.id = created_by
                     WHERE {OPEN} AND job IS NULL
                         AND runs.id NOT IN (SELECT value FROM json_each(?1))
                     GROUP BY created_by ORDER BY turn IS NULL, turn, min(runs.id) LIMIT 1"
                ))?
                .query_row([delayed], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, person)) = next else {
                return Ok(None);
            };
            let claimed = transaction.query_row(
                &format!(
                    "UPDATE runs SET start_token = ?2, job = ?3 || id || '-' || (launches + 1),
                         attempts = attempts + 1, launches = launches + 1, received = 0,
                         stopped = 0, pace_step = NULL, pace_at = NULL
                     WHERE id = ?1 RETURNING {LAUNCHED}"
                ),
                params![id, claim.start_token, claim.prefix],
                launched,
            )?;
            transaction.execute(
                "UPDATE users SET turn = (SELECT max(turn) + 1 FROM users) WHERE id = ?1",
                [person],
            )?;
            transaction.commit()?;
            Ok(Some(claimed))
        })
        .await
    }

    /// Exchanges the start token of a job for the worker's token, given by its
    /// hash.
    ///
    /// Succeeds again if it is repeated with the same hash, and fails with another
    /// one. Returns the run and its launch.
    pub(crate) async fn exchange(
        &self,
        start_token: Vec<u8>,
        token: Vec<u8>,
    ) -> rusqlite::Result<Option<(i64, u64)>> {
        self.write(move |db| {
            let exchanged = db
                .query_row(
                    &format!(
                        "UPDATE runs SET worker_token = ?2
                         WHERE start_token = ?1 AND coalesce(worker_token, ?2) = ?2 AND {OPEN}
                         RETURNING id, launches"
                    ),
                    params![start_token, token],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional();
            match exchanged {
                // The worker of another run has this token.
                Err(error) if is_duplicate(&error) => Ok(None),
                other => other,
            }
        })
        .await
    }

    /// Whether this is the start token of an open run's job.
    pub(crate) async fn is_start_token(&self, start_token: Vec<u8>) -> rusqlite::Result<bool> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT EXISTS (SELECT 1 FROM runs WHERE start_token = ?1 AND {OPEN})"
            ))?
            .query_row([start_token], |row| row.get(0))
        })
        .await
    }

    /// Returns the name of the user who started the run, or of the project if that
    /// user was deleted.
    pub(crate) async fn owner_of(&self, run_id: i64) -> rusqlite::Result<String> {
        self.read(move |db| {
            db.query_row(
                "SELECT coalesce(users.name, projects.name)
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                     JOIN projects ON projects.id = project_id
                     LEFT JOIN users ON users.id = created_by WHERE runs.id = ?1",
                [run_id],
                |row| row.get(0),
            )
        })
        .await
    }

    /// Returns the runs that have a job.
    pub(crate) async fn launched(&self) -> rusqlite::Result<Vec<Launched>> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {LAUNCHED} FROM runs
                 WHERE {OPEN} AND job IS NOT NULL ORDER BY id"
            ))?
            .query_map([], launched)?
            .collect()
        })
        .await
    }

    /// Records that the server begins to stop. Workers that end from now on cost no
    /// attempt, even if only the next server notices.
    pub(crate) async fn note_stop(&self) -> rusqlite::Result<()> {
        self.write(|db| {
            let statement =
                format!("UPDATE runs SET stopped = 1 WHERE {OPEN} AND worker_token IS NOT NULL");
            db.execute(&statement, []).map(drop)
        })
        .await
    }

    /// Takes a run from the job of this launch, so that it waits for another job.
    /// Does nothing unless `still` returns true within the transaction. Returns
    /// whether the run was taken.
    pub(crate) async fn release(
        &self,
        held: (i64, u64),
        release: Release,
        still: impl FnOnce() -> bool + Send + 'static,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let changed = transaction.execute(
                &format!(
                    "UPDATE runs SET worker_token = NULL, start_token = NULL, job = NULL,
                         attempts = attempts - ?3, worked = worked + ?4
                     WHERE id = ?1 AND launches = ?2 AND job IS NOT NULL AND {OPEN}"
                ),
                params![
                    held.0,
                    held.1,
                    u32::from(!release.counts),
                    millis(release.worked)
                ],
            )?;
            if changed == 0 || !still() {
                return Ok(false);
            }
            if let Some((level, message)) = release.line {
                log(&transaction, held.0, level, message)?;
            }
            transaction.commit()?;
            Ok(true)
        })
        .await
    }

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
                outbox::announce(&transaction, run_id, RunEvent::Started)?;
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

    /// Stores a worker's checkpoint. Returns the contents that nothing refers to
    /// any more, or `None` if the worker no longer has the run.
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
            // A run that advances gets its attempts back.
            transaction.execute(
                "UPDATE runs SET attempts = 1 WHERE id = ?1 AND (?2, ?3) > (
                     SELECT coalesce(max(epoch), -1), coalesce(max(step), -1) FROM (
                         SELECT epoch, step FROM checkpoints WHERE run_id = ?1
                         ORDER BY epoch DESC, step DESC LIMIT 1))",
                params![run_id, checkpoint.epoch, checkpoint.step],
            )?;
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

    /// Stores a worker's model. Returns the content that nothing refers to any
    /// more, if there is one. The outer `None` means that the worker no longer has
    /// the run.
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

    /// Ends an open run, for the worker with `token` or, without one, for the
    /// server. Returns the contents that nothing refers to any more, or `None` if
    /// the run was not ended.
    pub(crate) async fn end_run(
        &self,
        run_id: i64,
        token: Option<Vec<u8>>,
        end: End,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let gone = end_in(&transaction, run_id, token, end)?;
            transaction.commit()?;
            Ok(gone)
        })
        .await
    }

    /// Ends a run on behalf of a user who may cancel it, unless it has ended.
    /// Returns what [`Database::end_run`] does.
    pub(crate) async fn cancel_run(
        &self,
        by: Identity,
        run_id: i64,
        end: End,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let Some(label) = by.check_own_run(&transaction, run_id)? else {
                return Ok(None);
            };
            let gone = end_in(&transaction, run_id, None, end)?;
            if gone.is_some() {
                by.note(&transaction, "run.cancel", &label)?;
            }
            transaction.commit()?;
            Ok(gone)
        })
        .await
    }
}

/// Like [`Database::end_run`], within the caller's transaction.
fn end_in(
    db: &Connection,
    run_id: i64,
    token: Option<Vec<u8>>,
    end: End,
) -> rusqlite::Result<Option<Vec<String>>> {
    let changed = db.execute(
        &format!(
            "UPDATE runs SET status = ?3, details = ?4, ended_at = ?5
                     WHERE id = ?1 AND coalesce(worker_token = ?2, ?2 IS NULL) AND {OPEN}"
        ),
        params![run_id, token, end.status.as_str(), end.details, now_ms()],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    // In the same transaction, so that a reader of the final status sees all lines.
    for (level, message) in end.lines {
        log(db, run_id, level, message)?;
    }
    // A failed run can be resumed.
    let keep_last = end.status != Status::Finished;
    let mut gone = checkpoints::thin(db, run_id, keep_last)?;
    let mut used = data_of(db, run_id)?;
    if end.status == Status::Finished {
        used.extend(begun_with(db, run_id)?);
        db.execute(
            "UPDATE runs SET first_checkpoint = NULL WHERE id = ?1",
            [run_id],
        )?;
    }
    gone.extend(checkpoints::orphans(db, used)?);
    let event = RunEvent::of_end(end.status == Status::Finished, &end.details);
    outbox::announce(db, run_id, event)?;
    Ok(Some(gone))
}

/// Returns the checkpoint that a run started from.
pub(super) fn begun_with(db: &Connection, run_id: i64) -> rusqlite::Result<Option<String>> {
    db.query_row(
        "SELECT first_checkpoint FROM runs WHERE id = ?1",
        [run_id],
        |row| row.get(0),
    )
}

/// Returns the contents of a run's data.
pub(super) fn data_of(db: &Connection, run_id: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT used.value FROM runs, json_each(data) AS used WHERE runs.id = ?1")?
        .query_map([run_id], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests;
