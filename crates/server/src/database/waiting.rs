//! The runs that wait and those that have a job, in the order of the queue, as far
//! as a user may see them.

use rusqlite::{Row, params};

use super::{Database, Identity};

/// A run in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedRow {
    pub(crate) id: i64,
    /// Whether it is in the project that the user looks at.
    pub(crate) is_visible: bool,
    /// Whether the user has started it.
    pub(crate) is_own: bool,
}

fn queued(row: &Row<'_>) -> rusqlite::Result<QueuedRow> {
    Ok(QueuedRow {
        id: row.get(0)?,
        is_visible: row.get(1)?,
        is_own: row.get(2)?,
    })
}

impl Database {
    /// Returns the first 1000 runs that wait, in the order in which they get a job
    /// if no others come.
    pub(crate) async fn waiting(&self, by: &Identity) -> rusqlite::Result<Vec<QueuedRow>> {
        let (project, person) = (by.namespace.clone(), by.person.clone());
        self.read(move |db| {
            db.prepare_cached(
                "WITH waiting AS (
                     SELECT id, experiment_id, coalesce(created_by, '') AS person FROM runs
                     WHERE status IN ('CREATED', 'STARTED') AND job IS NULL
                     ORDER BY id LIMIT 1000),
                 placed AS (
                     SELECT waiting.id, experiment_id, person,
                         coalesce(turn, 9223372036854775807) AS turn,
                         row_number() OVER (PARTITION BY person ORDER BY waiting.id) AS round,
                         min(waiting.id) OVER (PARTITION BY person) AS oldest
                     FROM waiting LEFT JOIN users ON users.id = person)
                 SELECT placed.id, project_id = ?1, person = ?2
                 FROM placed JOIN experiments ON experiments.id = experiment_id
                 ORDER BY round, turn, oldest",
            )?
            .query_map(params![project, person], queued)?
            .collect()
        })
        .await
    }

    /// Returns the runs that have a job, the oldest first.
    pub(crate) async fn with_job(&self, by: &Identity) -> rusqlite::Result<Vec<QueuedRow>> {
        let (project, person) = (by.namespace.clone(), by.person.clone());
        self.read(move |db| {
            db.prepare_cached(
                "SELECT runs.id, project_id = ?1, coalesce(runs.created_by, '') = ?2
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                 WHERE status IN ('CREATED', 'STARTED') AND job IS NOT NULL ORDER BY runs.id",
            )?
            .query_map(params![project, person], queued)?
            .collect()
        })
        .await
    }
}
