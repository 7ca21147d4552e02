//! Lineage: the runs that used a data set or a model.

use rusqlite::params;

use super::{Database, sql::bounds};

/// A run that used a data set or a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UseRow {
    pub(crate) experiment: String,
    pub(crate) run: String,
    pub(crate) created_at: String,
    /// Whether it used the current content and not an earlier one of the same
    /// name.
    pub(crate) is_current: bool,
}

impl Database {
    /// Returns the project's last runs that used a data set, at most `most`.
    pub(crate) async fn runs_over(
        &self,
        project: String,
        name: Option<String>,
        content: String,
        most: u64,
    ) -> rusqlite::Result<Vec<UseRow>> {
        let (_, limit) = bounds(Some((0, most)));
        self.read(move |db| {
            // The text search excludes most rows before JSON is parsed, which
            // takes longer.
            db.prepare_cached(
                "SELECT experiments.name, runs.name, runs.created_at, max(used.value = ?3)
                 FROM runs JOIN experiments ON experiments.id = experiment_id,
                     json_each(runs.data) AS used
                 WHERE project_id = ?1
                     AND (instr(runs.data, ?3) > 0 OR instr(runs.data, json_quote(?2)) > 0)
                     AND (used.value = ?3 OR used.key = ?2)
                 GROUP BY runs.id ORDER BY runs.id DESC LIMIT ?4",
            )?
            .query_map(params![project, name, content, limit], |row| {
                Ok(UseRow {
                    experiment: row.get(0)?,
                    run: row.get(1)?,
                    created_at: row.get(2)?,
                    is_current: row.get(3)?,
                })
            })?
            .collect()
        })
        .await
    }

    /// Returns the project's last runs that started from a model, at most `most`.
    pub(crate) async fn runs_from(
        &self,
        project: String,
        id: String,
        name: Option<String>,
        most: u64,
    ) -> rusqlite::Result<Vec<UseRow>> {
        let (_, limit) = bounds(Some((0, most)));
        self.read(move |db| {
            db.prepare_cached(
                "SELECT experiments.name, runs.name, runs.created_at
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                 WHERE project_id = ?1
                     AND (instr(config, json_quote(?2)) > 0 OR instr(config, json_quote(?3)) > 0)
                     AND json_extract(config, '$.model.artifact') IN (?2, ?3)
                 ORDER BY runs.id DESC LIMIT ?4",
            )?
            .query_map(params![project, id, name, limit], |row| {
                Ok(UseRow {
                    experiment: row.get(0)?,
                    run: row.get(1)?,
                    created_at: row.get(2)?,
                    is_current: true,
                })
            })?
            .collect()
        })
        .await
    }
}
