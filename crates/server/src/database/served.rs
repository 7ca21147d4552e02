//! Lookups of runs by name, and the list of finished models, for the inference API.

use finetuner_protocol::RunTask;
use rusqlite::params;

use super::{
    Database,
    run_rows::{RunRow, SELECT, run},
};

/// A finished model in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelRow {
    pub(crate) experiment: String,
    pub(crate) run: String,
    /// Creation time in seconds since 1970.
    pub(crate) created: i64,
}

impl Database {
    /// Returns up to `most` runs of the project with this name, in one experiment or
    /// in all.
    pub(crate) async fn runs_named(
        &self,
        project: String,
        experiment: Option<String>,
        name: String,
        most: u64,
    ) -> rusqlite::Result<Vec<RunRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "{SELECT} WHERE project_id = ?1 AND runs.name = ?2
                 AND experiments.name = coalesce(?3, experiments.name)
                 ORDER BY runs.id LIMIT ?4"
            ))?
            .query_map(params![project, name, experiment, most], run)?
            .collect()
        })
        .await
    }

    /// Returns up to `most` finished models of the project, newest first.
    pub(crate) async fn models(
        &self,
        project: String,
        most: u64,
    ) -> rusqlite::Result<Vec<ModelRow>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT experiments.name, runs.name, unixepoch(artifacts.created_at)
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                     JOIN artifacts ON artifacts.id = artifact_id
                 WHERE experiments.project_id = ?1 AND artifacts.project_id = ?1
                     AND status = 'FINISHED' AND task = ?2
                 ORDER BY runs.id DESC LIMIT ?3",
            )?
            .query_map(params![project, RunTask::Training.as_str(), most], |row| {
                Ok(ModelRow {
                    experiment: row.get(0)?,
                    run: row.get(1)?,
                    created: row.get(2)?,
                })
            })?
            .collect()
        })
        .await
    }

    /// Returns the creation time of an artifact in seconds since 1970.
    pub(crate) async fn created(&self, artifact: String) -> rusqlite::Result<i64> {
        self.read(move |db| {
            db.query_row(
                "SELECT unixepoch(created_at) FROM artifacts WHERE id = ?1",
                [artifact],
                |row| row.get(0),
            )
        })
        .await
    }
}
