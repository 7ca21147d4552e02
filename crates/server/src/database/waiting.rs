//! The runs that wait and those that have a job, in the order of the queue, as far
//! as a user may see them.

use rusqlite::{Row, params};

use super::{Database, Identity, run_rows::OPEN};

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

/// Order of `placed`: users take turns, and each user's oldest run comes first.
const ORDER: &str = "round, turn, oldest";

/// SQL of the tables `waiting`, the first 1000 runs that wait, and `placed`, the
/// same runs with their places.
fn placed() -> String {
    format!(
        "waiting AS (
             SELECT id, experiment_id, coalesce(created_by, '') AS person FROM runs
             WHERE {OPEN} AND job IS NULL ORDER BY id LIMIT 1000),
         placed AS (
             SELECT waiting.id, experiment_id, person,
                 coalesce(turn, 9223372036854775807) AS turn,
                 row_number() OVER (PARTITION BY person ORDER BY waiting.id) AS round,
                 min(waiting.id) OVER (PARTITION BY person) AS oldest
             FROM waiting LEFT JOIN users ON users.id = person)"
    )
}

impl Database {
    /// Returns the first 1000 runs that wait, in the order in which they get a job
    /// if no others come.
    pub(crate) async fn waiting(&self, by: &Identity) -> rusqlite::Result<Vec<QueuedRow>> {
        let (project, person) = (by.namespace.clone(), by.person.clone());
        self.read(move |db| {
            db.prepare_cached(&format!(
                "WITH {}
                 SELECT placed.id, project_id = ?1, person = ?2
                 FROM placed JOIN experiments ON experiments.id = experiment_id ORDER BY {ORDER}",
                placed()
            ))?
            .query_map(params![project, person], queued)?
            .collect()
        })
        .await
    }

    /// Returns how many waiting runs come before this one, up to 1000.
    pub(crate) async fn ahead(&self, id: i64) -> rusqlite::Result<u64> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "WITH {}, ordered AS (
                     SELECT id, row_number() OVER (ORDER BY {ORDER}) - 1 AS ahead FROM placed)
                 SELECT coalesce((SELECT ahead FROM ordered WHERE id = ?1),
                                 (SELECT count(*) FROM waiting WHERE id < ?1))",
                placed()
            ))?
            .query_row([id], |row| row.get(0))
        })
        .await
    }

    /// Returns the runs that have a job, the oldest first.
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
