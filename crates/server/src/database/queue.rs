//! Assignment of runs to jobs and workers.
//!
//! A job's worker exchanges the job's start token for a token of its own.

use std::time::Duration;

use finetuner_protocol::Level;
use rusqlite::{OptionalExtension, Row, params};

use super::{
    Database, events,
    run_rows::OPEN,
    sql::{is_duplicate, millis},
    waiting::{TAKER, TURN},
};

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

impl Database {
    /// Assigns a job to the next waiting run.
    ///
    /// Users take turns, and each user's oldest run goes first. The deleted users of a
    /// project count as one user. The job's name is stored before the job is
    /// submitted, so that the job can be found after a crash.
    pub(crate) async fn claim(&self, claim: Claim) -> rusqlite::Result<Option<Launched>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let delayed = serde_json::json!(claim.delayed).to_string();
            let next: Option<(i64, String)> = transaction
                .prepare_cached(&format!(
                    "SELECT oldest, taker FROM (
                         SELECT min(id) AS oldest, {TAKER} AS taker FROM runs
                         WHERE {OPEN} AND job IS NULL
                             AND id NOT IN (SELECT value FROM json_each(?1))
                         GROUP BY taker)
                     ORDER BY {TURN}, oldest LIMIT 1"
                ))?
                .query_row([delayed], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, taker)) = next else {
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
            let turn: i64 = transaction.query_row(
                "SELECT 1 + max((SELECT max(turn) FROM users), (SELECT max(turn) FROM projects))",
                [],
                |row| row.get(0),
            )?;
            // A personal project has the id of its user. Its own turn is never read.
            for table in ["users", "projects"] {
                let statement = format!("UPDATE {table} SET turn = ?2 WHERE id = ?1");
                transaction.execute(&statement, params![taker, turn])?;
            }
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
                events::log(&transaction, held.0, level, message)?;
            }
            transaction.commit()?;
            Ok(true)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
