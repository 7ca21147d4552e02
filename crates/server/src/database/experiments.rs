//! Experiments.

use rusqlite::{OptionalExtension, Row, params};

use super::{Database, NOW};

/// A group of runs.
#[derive(Clone, Debug)]
pub(crate) struct ExperimentRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) created_at: String,
    pub(crate) idempotency_key: Option<String>,
    /// How many runs it has.
    pub(crate) runs: u64,
}

const COLUMNS: &str = "id, name, description, created_at, idempotency_key, runs";

fn experiment(row: &Row<'_>) -> rusqlite::Result<ExperimentRow> {
    Ok(ExperimentRow {
        id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        created_at: row.get(3)?,
        idempotency_key: row.get(4)?,
        runs: row.get(5)?,
    })
}

impl Database {
    /// Creates an experiment; fails where the user has one of that name.
    pub(crate) async fn create_experiment(
        &self,
        user_id: String,
        name: String,
        description: String,
        idempotency_key: Option<String>,
    ) -> rusqlite::Result<ExperimentRow> {
        self.write(move |db| {
            db.query_row(
                &format!(
                    "INSERT INTO experiments (user_id, name, description, created_at,
                         idempotency_key)
                     VALUES (?1, ?2, ?3, {NOW}, ?4) RETURNING {COLUMNS}"
                ),
                params![user_id, name, description, idempotency_key],
                experiment,
            )
        })
        .await
    }

    /// The user's experiment of that name.
    pub(crate) async fn experiment(
        &self,
        user_id: String,
        name: String,
    ) -> rusqlite::Result<Option<ExperimentRow>> {
        self.read(move |db| {
            db.query_row(
                &format!("SELECT {COLUMNS} FROM experiments WHERE user_id = ?1 AND name = ?2"),
                params![user_id, name],
                experiment,
            )
            .optional()
        })
        .await
    }

    /// Deletes an experiment that has no runs. Returns whether it is gone.
    pub(crate) async fn delete_experiment(&self, id: i64) -> rusqlite::Result<bool> {
        self.write(move |db| {
            db.execute(
                "DELETE FROM experiments WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM runs WHERE experiment_id = ?1)",
                [id],
            )?;
            let gone = "SELECT NOT EXISTS (SELECT 1 FROM experiments WHERE id = ?1)";
            db.query_row(gone, [id], |row| row.get(0))
        })
        .await
    }

    /// The user's experiments, oldest first: all, or `limit` of them from
    /// number `offset` on. Beside them, how many there are.
    pub(crate) async fn experiments(
        &self,
        user_id: String,
        page: Option<(u64, u64)>,
    ) -> rusqlite::Result<(Vec<ExperimentRow>, u64)> {
        let (offset, limit) = super::bounds(page);
        self.read(move |db| {
            let total = db.query_row(
                "SELECT count(*) FROM experiments WHERE user_id = ?1",
                [&user_id],
                |row| row.get(0),
            )?;
            let rows = db
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM experiments WHERE user_id = ?1
                     ORDER BY id LIMIT ?2 OFFSET ?3"
                ))?
                .query_map(params![user_id, limit, offset], experiment)?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }
}
