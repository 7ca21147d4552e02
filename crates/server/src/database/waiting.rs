//! The queue as a user may see it: waiting runs in their order, and runs with a
//! job.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

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

/// The users who take turns, numbered in the order of their oldest runs.
#[derive(Default)]
struct Takers {
    numbers: HashMap<String, usize>,
    /// Runs of each so far.
    runs: Vec<u64>,
}

impl Takers {
    /// Counts a run. Returns the number of its taker, and the round in which it gets a
    /// job.
    fn next_round(&mut self, taker: String) -> (usize, u64) {
        let number = *self.numbers.entry(taker).or_insert(self.runs.len());
        if number == self.runs.len() {
            self.runs.push(0);
        }
        self.runs[number] += 1;
        (number, self.runs[number])
    }

    /// Returns the position of each taker within a round, by its number.
    fn positions(&self, db: &Connection) -> rusqlite::Result<Vec<usize>> {
        let mut query = db.prepare_cached(&format!("SELECT {TURN} FROM (SELECT ?1 AS taker)"))?;
        let mut turns = Vec::new();
        for (taker, number) in &self.numbers {
            let turn: Option<i64> = query.query_row([taker], |row| row.get(0))?;
            turns.push((turn, *number));
        }
        // The numbers are in the order of the oldest runs.
        turns.sort_unstable();
        let mut positions = vec![0; turns.len()];
        for (position, (_, number)) in turns.into_iter().enumerate() {
            positions[number] = position;
        }
        Ok(positions)
    }
}

impl Database {
    /// Returns the waiting runs in the order in which they will get a job, if no other
    /// run is submitted.
    ///
    /// One pass over the waiting runs, because window functions over a long queue take
    /// several times as long.
    pub(crate) async fn waiting(&self, by: &Identity) -> rusqlite::Result<Vec<QueuedRow>> {
        let (project, person) = (by.namespace.clone(), by.person.clone());
        self.read(move |db| {
            let transaction = db.transaction()?;
            let mut takers = Takers::default();
            let mut placed = Vec::new();
            {
                let mut query = transaction.prepare_cached(&format!(
                    "SELECT id, experiment_id IN (SELECT id FROM experiments WHERE project_id = ?1),
                         coalesce(created_by, '') = ?2, {TAKER}
                     FROM runs WHERE {OPEN} AND job IS NULL ORDER BY id"
                ))?;
                let mut rows = query.query(params![project, person])?;
                while let Some(row) = rows.next()? {
                    let (taker, round) = takers.next_round(row.get(3)?);
                    placed.push((round, taker, queued(row)?));
                }
            }
            let positions = takers.positions(&transaction)?;
            placed.sort_by_key(|(round, taker, _)| (*round, positions[*taker]));
            Ok(placed.into_iter().map(|(_, _, run)| run).collect())
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
