//! Creation, lookup, counting and deletion of runs.

use finetuner_protocol::Annotations;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Database, Identity, Role, RunRow, annotations,
    contents::{begun_with, data_of, orphans},
    run_rows::{SELECT, run},
    sql::NOW,
    usage::{max_open_runs, open_runs},
};

/// A run to create.
#[derive(Clone, Debug)]
pub(crate) struct NewRunRow {
    pub(crate) experiment_id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) config: String,
    pub(crate) device: String,
    pub(crate) cpus: Option<u32>,
    pub(crate) gpus: Option<u32>,
    pub(crate) task: String,
    pub(crate) details: String,
    pub(crate) artifact_id: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) keep_checkpoints: u32,
    /// Content of another run's checkpoint that this run starts from.
    pub(crate) first_checkpoint: Option<String>,
    /// JSON: the content of each data set by its name.
    pub(crate) data: String,
    pub(crate) annotations: Annotations,
}

/// Result of creating a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    Run,
    /// Number of the user's open runs, and the limit.
    TooManyOpen(u64, u64),
}

fn find(
    db: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Option<RunRow>> {
    db.prepare_cached(&format!("{SELECT} WHERE {condition}"))?
        .query_row(values, run)
        .optional()
}

impl Database {
    /// Creates a run of a member, unless the user has reached the limit of open
    /// runs: the user's own, or else `most`. Fails if the experiment has a run
    /// with this name.
    pub(crate) async fn create_run(
        &self,
        by: Identity,
        new: NewRunRow,
        most: Option<u64>,
    ) -> rusqlite::Result<Created> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Member)?;
            let experiment: String = transaction.query_row(
                "SELECT name FROM experiments WHERE id = ?1 AND project_id = ?2",
                params![new.experiment_id, by.namespace],
                |row| row.get(0),
            )?;
            if let Some(most) = max_open_runs(&transaction, &by.person, most)? {
                let open = open_runs(&transaction, &by.person)?;
                if open >= most {
                    return Ok(Created::TooManyOpen(open, most));
                }
            }
            transaction.execute(
                &format!(
                    "INSERT INTO runs (id, experiment_id, name, description, config, device,
                         task, status, details, created_at, artifact_id, idempotency_key,
                         keep_checkpoints, first_checkpoint, data, cpus, gpus, created_by,
                         tags, note)
                     VALUES ((SELECT id + 1 FROM last_run), ?1, ?2, ?3, ?4, ?5, ?6, 'CREATED',
                         ?7, {NOW}, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)"
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
                    new.idempotency_key,
                    new.keep_checkpoints,
                    new.first_checkpoint,
                    new.data,
                    new.cpus,
                    new.gpus,
                    by.person,
                    annotations::stored(&new.annotations.tags),
                    new.annotations.note
                ],
            )?;
            by.note(
                &transaction,
                "run.start",
                &format!("{experiment}/{}", new.name),
            )?;
            transaction.commit()?;
            Ok(Created::Run)
        })
        .await
    }

    /// Returns the run with this name in an experiment.
    pub(crate) async fn run(
        &self,
        experiment_id: i64,
        name: String,
    ) -> rusqlite::Result<Option<RunRow>> {
        self.read(move |db| {
            find(
                db,
                "experiment_id = ?1 AND runs.name = ?2",
                params![experiment_id, name],
            )
        })
        .await
    }

    /// Returns the run of a worker's token.
    pub(crate) async fn run_of_worker(&self, token: Vec<u8>) -> rusqlite::Result<Option<RunRow>> {
        self.read(move |db| find(db, "worker_token = ?1", [token]))
            .await
    }

    /// Returns the run with this id.
    pub(crate) async fn run_by_id(&self, id: i64) -> rusqlite::Result<Option<RunRow>> {
        self.read(move |db| find(db, "runs.id = ?1", [id])).await
    }

    /// Returns the number of runs with each status.
    pub(crate) async fn count_runs(&self) -> rusqlite::Result<Vec<(String, u64)>> {
        self.read(|db| {
            db.prepare_cached("SELECT status, count(*) FROM runs GROUP BY status ORDER BY status")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Deletes a run of the project with its events, checkpoints and artifacts.
    /// Returns the contents that have lost their last reference.
    pub(crate) async fn delete_run(&self, by: Identity, id: i64) -> rusqlite::Result<Vec<String>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let Some(label) = by.check_own_run(&transaction, id)? else {
                return Ok(Vec::new());
            };
            by.note(&transaction, "run.delete", &label)?;
            let mut contents = data_of(&transaction, id)?;
            let own: Vec<String> = transaction
                .prepare("SELECT content FROM checkpoints WHERE run_id = ?1")?
                .query_map([id], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            contents.extend(begun_with(&transaction, id)?);
            contents.extend(own);
            let made: Option<String> = transaction
                .query_row(
                    "DELETE FROM artifacts WHERE project_id = ?2
                         AND id = (SELECT artifact_id FROM runs WHERE id = ?1)
                     RETURNING content",
                    params![id, by.namespace],
                    |row| row.get(0),
                )
                .optional()?;
            contents.extend(made);
            transaction.execute("DELETE FROM runs WHERE id = ?1", [id])?;
            let orphans = orphans(&transaction, contents)?;
            transaction.commit()?;
            Ok(orphans)
        })
        .await
    }
}
