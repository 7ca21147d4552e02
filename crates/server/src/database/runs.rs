//! Runs.

use finetuner_protocol::Status;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Database, NOW};

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) id: i64,
    pub(crate) experiment: String,
    pub(crate) user_id: String,
    pub(crate) name: String,
    pub(crate) description: String,
    /// JSON, as the client sent it.
    pub(crate) config: String,
    pub(crate) device: String,
    pub(crate) task: String,
    pub(crate) status: String,
    pub(crate) details: String,
    pub(crate) created_at: String,
    pub(crate) artifact_id: String,
    pub(crate) idempotency_key: Option<String>,
}

impl RunRow {
    /// Where the run stands.
    pub(crate) fn status(&self) -> Status {
        Status::from(self.status.as_str())
    }
}

/// A run to create.
#[derive(Clone, Debug)]
pub(crate) struct NewRunRow {
    pub(crate) experiment_id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) config: String,
    pub(crate) device: String,
    pub(crate) task: String,
    pub(crate) details: String,
    pub(crate) artifact_id: String,
    pub(crate) idempotency_key: Option<String>,
}

const SELECT: &str = "SELECT runs.id, experiments.name, user_id, runs.name, runs.description,
    config, device, task, status, details, runs.created_at, artifact_id, runs.idempotency_key
    FROM runs JOIN experiments ON experiments.id = experiment_id";

fn run(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: row.get(0)?,
        experiment: row.get(1)?,
        user_id: row.get(2)?,
        name: row.get(3)?,
        description: row.get(4)?,
        config: row.get(5)?,
        device: row.get(6)?,
        task: row.get(7)?,
        status: row.get(8)?,
        details: row.get(9)?,
        created_at: row.get(10)?,
        artifact_id: row.get(11)?,
        idempotency_key: row.get(12)?,
    })
}

fn find(
    db: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Option<RunRow>> {
    db.query_row(&format!("{SELECT} WHERE {condition}"), values, run)
        .optional()
}

impl Database {
    /// Stores a new run; fails where the experiment has one of that name.
    pub(crate) async fn create_run(&self, new: NewRunRow) -> rusqlite::Result<()> {
        self.call(move |db| {
            db.execute(
                &format!(
                    "INSERT INTO runs (experiment_id, name, description, config, device, task,
                         status, details, created_at, artifact_id, idempotency_key)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'CREATED', ?7, {NOW}, ?8, ?9)"
                ),
                params![
                    new.experiment_id,
                    new.name,
                    new.description,
                    new.config,
                    new.device,
                    new.task,
                    new.details,
                    new.artifact_id,
                    new.idempotency_key
                ],
            )
            .map(drop)
        })
        .await
    }

    /// The run of that name in an experiment.
    pub(crate) async fn run(
        &self,
        experiment_id: i64,
        name: String,
    ) -> rusqlite::Result<Option<RunRow>> {
        self.call(move |db| {
            find(
                db,
                "experiment_id = ?1 AND runs.name = ?2",
                params![experiment_id, name],
            )
        })
        .await
    }

    /// The run that a worker's token was made for.
    pub(crate) async fn run_of_worker(&self, token: Vec<u8>) -> rusqlite::Result<Option<RunRow>> {
        self.call(move |db| find(db, "worker_token = ?1", [token]))
            .await
    }

    /// The run of that id.
    pub(crate) async fn run_by_id(&self, id: i64) -> rusqlite::Result<Option<RunRow>> {
        self.call(move |db| find(db, "runs.id = ?1", [id])).await
    }

    /// The runs of an experiment, oldest first; see
    /// [`Database::experiments`] for pages.
    pub(crate) async fn runs(
        &self,
        experiment_id: i64,
        page: Option<(u64, u64)>,
    ) -> rusqlite::Result<(Vec<RunRow>, u64)> {
        let (offset, limit) = super::bounds(page);
        self.call(move |db| {
            let total = db.query_row(
                "SELECT count(*) FROM runs WHERE experiment_id = ?1",
                [experiment_id],
                |row| row.get(0),
            )?;
            let rows = db
                .prepare_cached(&format!(
                    "{SELECT} WHERE experiment_id = ?1 ORDER BY runs.id LIMIT ?2 OFFSET ?3"
                ))?
                .query_map(params![experiment_id, limit, offset], run)?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }

    /// Deletes a run with its events.
    pub(crate) async fn delete_run(&self, id: i64) -> rusqlite::Result<()> {
        self.call(move |db| db.execute("DELETE FROM runs WHERE id = ?1", [id]).map(drop))
            .await
    }

    /// Takes the oldest run that waits, and notes the token that its worker
    /// will use.
    pub(crate) async fn launch_next(&self, token: Vec<u8>) -> rusqlite::Result<Option<i64>> {
        self.call(move |db| {
            db.query_row(
                "UPDATE runs SET worker_token = ?1 WHERE id = (
                     SELECT id FROM runs WHERE status = 'CREATED' AND worker_token IS NULL
                     ORDER BY id LIMIT 1)
                 RETURNING id",
                [token],
                |row| row.get(0),
            )
            .optional()
        })
        .await
    }

    /// The runs that were launched and have not ended.
    pub(crate) async fn launched(&self) -> rusqlite::Result<Vec<i64>> {
        self.call(|db| {
            db.prepare(
                "SELECT id FROM runs WHERE worker_token IS NOT NULL
                 AND status IN ('CREATED', 'STARTED')",
            )?
            .query_map([], |row| row.get(0))?
            .collect()
        })
        .await
    }

    /// Changes a run's status, unless it has ended before. Says whether it did.
    pub(crate) async fn set_status(
        &self,
        id: i64,
        status: Status,
        details: String,
    ) -> rusqlite::Result<bool> {
        self.call(move |db| {
            db.execute(
                "UPDATE runs SET status = ?2, details = ?3
                 WHERE id = ?1 AND status IN ('CREATED', 'STARTED')",
                params![id, status.as_str(), details],
            )
            .map(|changed| changed == 1)
        })
        .await
    }
}
