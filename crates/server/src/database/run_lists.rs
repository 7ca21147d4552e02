//! Lists of runs: filtered, sorted, in pages.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, params, params_from_iter};

use super::{
    Database,
    runs::{CANCELLED, RunRow, SELECT, run},
};

/// Which runs of an experiment are wanted, and in which order.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunFilter {
    /// With this status alone.
    pub(crate) status: Option<String>,
    /// Of those that failed: the ones that a user has cancelled, or the others.
    pub(crate) cancelled: Option<bool>,
    /// With this in their name or description alone, in capitals or not.
    pub(crate) text: Option<String>,
    pub(crate) newest_first: bool,
    /// Offset and limit; all of them where there is none.
    pub(crate) page: Option<(u64, u64)>,
}

/// The runs that a filter wants, of the experiment `?1`.
const WANTED: &str = "experiment_id = ?1 AND status = coalesce(?2, status)
    AND (?3 IS NULL OR instr(lower(name || char(10) || description), lower(?3)) > 0)
    AND (?4 IS NULL OR (instr(details, ?5) = 1) = ?4)";

/// What lists are sorted and filtered by, of one run.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) metrics: String,
    pub(crate) started_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
}

impl Database {
    /// The runs of an experiment, and how many there are in all.
    pub(crate) async fn runs(
        &self,
        experiment_id: i64,
        filter: RunFilter,
    ) -> rusqlite::Result<(Vec<RunRow>, u64)> {
        let (offset, limit) = super::bounds(filter.page);
        self.read(move |db| {
            let is_all =
                filter.status.is_none() && filter.text.is_none() && filter.cancelled.is_none();
            let wanted = match is_all {
                true => {
                    "experiment_id = ?1 AND ?2 IS NULL AND ?3 IS NULL AND ?4 IS NULL AND ?5 <> ''"
                }
                false => WANTED,
            };
            let RunFilter {
                status,
                text,
                cancelled,
                ..
            } = &filter;
            let values = params![experiment_id, status, text, cancelled, CANCELLED];
            let total: i64 = match is_all {
                true => db
                    .prepare_cached("SELECT runs FROM experiments WHERE id = ?1")?
                    .query_row([experiment_id], |row| row.get(0))
                    .optional()?
                    .unwrap_or_default(),
                false => db.query_row(
                    &format!("SELECT count(*) FROM runs WHERE {wanted}"),
                    values,
                    |row| row.get(0),
                )?,
            };
            let [order, reverse] = match filter.newest_first {
                true => ["DESC", "ASC"],
                false => ["ASC", "DESC"],
            };
            // A page far behind is found in the index, without its rows, and
            // from the end that is nearer.
            let (offset, limit, inner) = match limit >= 0 && offset > total / 2 {
                true => {
                    let left = (total - offset).clamp(0, limit);
                    ((total - offset - left).max(0), left, reverse)
                }
                false => (offset, limit, order),
            };
            let rows = db
                .prepare_cached(&format!(
                    "{SELECT} WHERE runs.id IN (
                         SELECT id FROM runs WHERE {wanted} ORDER BY id {inner} LIMIT ?6 OFFSET ?7)
                     ORDER BY runs.id {order}"
                ))?
                .query_map(
                    params![
                        experiment_id,
                        status,
                        text,
                        cancelled,
                        CANCELLED,
                        limit,
                        offset
                    ],
                    run,
                )?
                .collect::<Result<_, _>>()?;
            Ok((rows, u64::try_from(total).unwrap_or_default()))
        })
        .await
    }

    /// The outlines of all runs that a filter wants, oldest first, whatever page
    /// it names.
    pub(crate) async fn outlines(
        &self,
        experiment_id: i64,
        filter: RunFilter,
    ) -> rusqlite::Result<Vec<Outline>> {
        self.read(move |db| {
            let mut query = db.prepare_cached(&format!(
                "SELECT id, name, config, metrics, started_at, ended_at FROM runs
                 WHERE {WANTED} ORDER BY id"
            ))?;
            let values = params![
                experiment_id,
                filter.status,
                filter.text,
                filter.cancelled,
                CANCELLED
            ];
            let rows = query.query_map(values, |row| {
                Ok(Outline {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    config: row.get(2)?,
                    metrics: row.get(3)?,
                    started_at: row.get(4)?,
                    ended_at: row.get(5)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// The runs of these ids, in this order. One that has gone is left out.
    pub(crate) async fn runs_by_ids(&self, ids: Vec<i64>) -> rusqlite::Result<Vec<RunRow>> {
        self.read(move |db| {
            let mut query = db.prepare_cached(&format!("{SELECT} WHERE runs.id = ?1"))?;
            let found = ids.iter().map(|id| query.query_row([id], run).optional());
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Experiment and name of the project's runs that fill these artifacts, by the
    /// artifact's id.
    pub(crate) async fn makers(
        &self,
        project: String,
        artifacts: Vec<String>,
    ) -> rusqlite::Result<HashMap<String, (String, String)>> {
        self.read(move |db| {
            let places = vec!["?"; artifacts.len()].join(", ");
            let mut query = db.prepare(&format!(
                "SELECT artifact_id, experiments.name, runs.name
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                 WHERE artifact_id IN ({places}) AND project_id = ?"
            ))?;
            let values = artifacts.iter().chain([&project]);
            let rows = query.query_map(params_from_iter(values), |row| {
                Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))
            })?;
            rows.collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::{NewRunRow, in_memory, with_run},
        secret,
    };

    #[tokio::test]
    async fn lists_are_filtered_sorted_and_counted() {
        let db = in_memory();
        let first = with_run(&db, "a-1").await;
        let experiment = 1;
        for name in ["b-1", "a-2"] {
            let row = db.run_by_id(first).await.unwrap().unwrap();
            db.create_run(
                db.identity_of("u").await,
                NewRunRow {
                    experiment_id: experiment,
                    name: name.into(),
                    description: row.description,
                    config: row.config,
                    device: row.device,
                    cpus: row.cpus,
                    gpus: row.gpus,
                    task: row.task,
                    details: row.noted,
                    artifact_id: secret::new_id(),
                    idempotency_key: None,
                    keep_checkpoints: 0,
                    first_checkpoint: None,
                    data: row.data,
                },
                None,
            )
            .await
            .unwrap();
        }
        let names = async |filter: RunFilter| {
            let (runs, total) = db.runs(experiment, filter).await.unwrap();
            let names: Vec<String> = runs.into_iter().map(|run| run.name).collect();
            (names.join(" "), total)
        };
        let all = RunFilter::default();
        assert_eq!(names(all.clone()).await, ("a-1 b-1 a-2".into(), 3));
        let filter = RunFilter {
            text: Some("A-".into()),
            newest_first: true,
            ..all.clone()
        };
        assert_eq!(names(filter).await, ("a-2 a-1".into(), 2));
        let filter = RunFilter {
            page: Some((1, 1)),
            ..all.clone()
        };
        assert_eq!(names(filter).await, ("b-1".into(), 3));
        for (page, expected) in [((2, 1), "a-2"), ((2, 5), "a-2"), ((1, 2), "b-1 a-2")] {
            let filter = RunFilter {
                page: Some(page),
                ..all.clone()
            };
            assert_eq!(names(filter).await, (expected.into(), 3), "{page:?}");
        }
        for (page, expected) in [((2, 2), "a-1"), ((3, 2), ""), ((9, 2), "")] {
            let filter = RunFilter {
                page: Some(page),
                newest_first: true,
                ..all.clone()
            };
            assert_eq!(names(filter).await, (expected.into(), 3), "{page:?}");
        }
        let filter = RunFilter {
            status: Some("FAILED".into()),
            ..all.clone()
        };
        assert_eq!(names(filter).await, (String::new(), 0));
        db.disturb(
            "UPDATE runs SET status = 'FAILED', details = 'Run cancelled by u' WHERE name = 'b-1';
             UPDATE runs SET status = 'FAILED', details = 'why' WHERE name = 'a-1'",
        )
        .await;
        for (cancelled, expected) in [(None, "a-1 b-1"), (Some(true), "b-1"), (Some(false), "a-1")]
        {
            let filter = RunFilter {
                status: Some("FAILED".into()),
                cancelled,
                ..all.clone()
            };
            assert_eq!(names(filter.clone()).await.0, expected);
            let outlines = db.outlines(experiment, filter).await.unwrap();
            let names: Vec<&str> = outlines.iter().map(|o| o.name.as_str()).collect();
            assert_eq!(names.join(" "), expected);
        }
        db.disturb("UPDATE runs SET status = 'CREATED', details = ''")
            .await;
        let rows = db.runs_by_ids(vec![first + 1, 99, first]).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, [first + 1, first]);
        let wanted = vec![rows[1].artifact_id.clone(), "none".to_owned()];
        let makers = db
            .makers(rows[1].project_id.clone(), wanted.clone())
            .await
            .unwrap();
        assert_eq!(makers.len(), 1);
        assert_eq!(makers[&wanted[0]], ("e".to_owned(), "a-1".to_owned()));
        assert!(db.makers("other".into(), wanted).await.unwrap().is_empty());
        assert_eq!(db.ahead(first).await.unwrap(), 0);
        assert_eq!(db.ahead(first + 2).await.unwrap(), 2);
        db.delete_run(db.identity_of("u").await, first)
            .await
            .unwrap();
        assert_eq!(names(all).await, ("b-1 a-2".into(), 2));
    }
}
