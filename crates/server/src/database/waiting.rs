//! The queue as a user may see it: waiting runs in their order, and runs with a
//! job.

use rusqlite::{Row, params};

use super::{Database, Identity, run_rows::OPEN};

/// A run in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedRow {
    pub(crate) id: i64,
    /// Whether it belongs to the project that the user views.
    pub(crate) is_visible: bool,
    /// Whether the user started it.
    pub(crate) is_own: bool,
}

fn queued(row: &Row<'_>) -> rusqlite::Result<QueuedRow> {
    Ok(QueuedRow {
        id: row.get(0)?,
        is_visible: row.get(1)?,
        is_own: row.get(2)?,
    })
}

/// Expression for who takes a turn for a run: its user, or its project if that user
/// was deleted.
pub(super) const TAKER: &str = "coalesce(created_by,
    (SELECT project_id FROM experiments WHERE experiments.id = experiment_id))";

/// SQL expression for the last turn of a `taker`.
pub(super) const TURN: &str = "coalesce((SELECT turn FROM users WHERE id = taker),
    (SELECT turn FROM projects WHERE id = taker))";

/// SQL for the first tables of a query: the waiting runs, and the users who take
/// turns with their positions within a round. In each round, each user's oldest
/// remaining run gets a job.
fn tables() -> String {
    format!(
        "WITH waiting AS (
             SELECT id, experiment_id, created_by, {TAKER} AS taker FROM runs
             WHERE {OPEN} AND job IS NULL),
         takers AS (
             SELECT taker, count(*) AS runs,
                 row_number() OVER (ORDER BY {TURN}, min(id)) AS position
             FROM waiting GROUP BY taker)"
    )
}

impl Database {
    /// Returns the waiting runs in the order in which they will get a job, if no other
    /// run is submitted.
    pub(crate) async fn waiting(&self, by: &Identity) -> rusqlite::Result<Vec<QueuedRow>> {
        let (project, person) = (by.namespace.clone(), by.person.clone());
        self.read(move |db| {
            db.prepare_cached(&format!(
                "{},
                 placed AS (
                     SELECT waiting.*,
                         row_number() OVER (PARTITION BY taker ORDER BY id) AS round
                     FROM waiting)
                 SELECT placed.id, project_id = ?1, coalesce(created_by, '') = ?2
                 FROM placed JOIN takers USING (taker)
                     JOIN experiments ON experiments.id = experiment_id
                 ORDER BY round, position",
                tables()
            ))?
            .query_map(params![project, person], queued)?
            .collect()
        })
        .await
    }

    /// Returns the number of runs that will get a job before this one, if no other run
    /// is submitted.
    pub(crate) async fn ahead(&self, id: i64) -> rusqlite::Result<u64> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "{},
                 own AS (
                     SELECT position, (SELECT count(*) FROM waiting
                         WHERE waiting.taker = takers.taker AND waiting.id <= ?1) AS round
                     FROM takers WHERE taker = (SELECT taker FROM waiting WHERE id = ?1))
                 SELECT coalesce(
                     sum(min(runs, round - (takers.position >= own.position))), 0)
                 FROM takers, own",
                tables()
            ))?
            .query_row([id], |row| row.get(0))
        })
        .await
    }

    /// Returns the runs with a job, oldest first.
    pub(crate) async fn with_job(&self, by: &Identity) -> rusqlite::Result<Vec<QueuedRow>> {
        let (project, person) = (by.namespace.clone(), by.person.clone());
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT runs.id, project_id = ?1, coalesce(runs.created_by, '') = ?2
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                 WHERE {OPEN} AND job IS NOT NULL ORDER BY runs.id"
            ))?
            .query_map(params![project, person], queued)?
            .collect()
        })
        .await
    }
}
