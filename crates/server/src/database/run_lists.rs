//! Lists of runs: filtered, sorted and paged.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row, params, params_from_iter, types::Value};

use super::{
    Database,
    run_rows::{CANCELLED, RunRow, SELECT, run},
    sql::bounds,
};

/// Range of a list.
#[derive(Clone, Debug)]
pub(crate) enum Among {
    /// Runs of an experiment, by its id.
    Experiment(i64),
    /// Runs of all experiments of a project, by its id.
    Project(String),
}

impl From<i64> for Among {
    fn from(experiment: i64) -> Self {
        Self::Experiment(experiment)
    }
}

impl Among {
    /// Returns the SQL condition of the range. `?1` is [`Among::value`].
    fn condition(&self) -> &'static str {
        match self {
            Self::Experiment(_) => "experiment_id = ?1",
            Self::Project(_) => {
                "experiment_id IN (SELECT id FROM experiments WHERE project_id = ?1)"
            }
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Experiment(id) => Value::Integer(*id),
            Self::Project(id) => Value::Text(id.clone()),
        }
    }

    /// Returns the SQL query for the number of runs. Triggers count the runs of
    /// each experiment.
    fn count(&self) -> &'static str {
        match self {
            Self::Experiment(_) => "SELECT coalesce(sum(runs), 0) FROM experiments WHERE id = ?1",
            Self::Project(_) => {
                "SELECT coalesce(sum(runs), 0) FROM experiments WHERE project_id = ?1"
            }
        }
    }
}

/// Filter of runs by their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Waiting for a worker, the first or another one.
    Waiting,
    /// Assigned to a worker.
    Running,
    Finished,
    Failed,
    /// Cancelled by a user.
    Cancelled,
}

impl Standing {
    /// Returns the SQL condition. `?4` is the start of the details of cancelled
    /// runs.
    fn condition(self) -> &'static str {
        match self {
            Self::Waiting => "(status = 'CREATED' OR status = 'STARTED' AND worker_token IS NULL)",
            Self::Running => "status = 'STARTED' AND worker_token IS NOT NULL",
            Self::Finished => "status = 'FINISHED'",
            Self::Failed => "status = 'FAILED' AND instr(details, ?4) <> 1",
            Self::Cancelled => "status = 'FAILED' AND instr(details, ?4) = 1",
        }
    }
}

/// Filter and order of a list of runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunFilter {
    pub(crate) standing: Option<Standing>,
    /// Only runs with this text in name, description or note, ignoring case.
    pub(crate) text: Option<String>,
    /// Only runs with this tag.
    pub(crate) tag: Option<String>,
    pub(crate) newest_first: bool,
    /// Offset and limit; `None` for all.
    pub(crate) page: Option<(u64, u64)>,
}

impl RunFilter {
    fn is_all(&self) -> bool {
        self.standing.is_none() && self.text.is_none() && self.tag.is_none()
    }

    /// Returns the SQL condition of the filter: `?2` is the text, `?3` the tag,
    /// `?4` the start of the details of cancelled runs.
    fn condition(&self, among: &Among) -> String {
        // A parameter that does not occur can't be bound, so unused ones are compared
        // with nothing.
        let mut all = format!("{} AND ?4 <> ''", among.condition());
        if let Some(standing) = self.standing {
            all.push_str(" AND ");
            all.push_str(standing.condition());
        }
        all.push_str(match self.text {
            Some(_) => {
                " AND instr(lower(name || char(10) || description || char(10) || note), lower(?2)) > 0"
            }
            None => " AND ?2 IS NULL",
        });
        all.push_str(match self.tag {
            Some(_) => " AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?3)",
            None => " AND ?3 IS NULL",
        });
        all
    }
}

/// Values of a run by which lists are sorted and filtered, and which CSV files
/// contain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    pub(crate) id: i64,
    pub(crate) experiment: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) status: String,
    pub(crate) noted: String,
    pub(crate) has_worker: bool,
    pub(crate) created_at: String,
    pub(crate) config: String,
    pub(crate) metrics: String,
    pub(crate) started_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    /// Tags as a JSON array.
    pub(crate) tags: String,
    pub(crate) note: String,
}

impl From<&RunRow> for Outline {
    fn from(run: &RunRow) -> Self {
        Self {
            id: run.id,
            experiment: run.experiment.clone(),
            name: run.name.clone(),
            description: run.description.clone(),
            status: run.status.clone(),
            noted: run.noted.clone(),
            has_worker: run.has_worker,
            created_at: run.created_at.clone(),
            config: run.config.clone(),
            metrics: run.metrics.clone(),
            started_at: run.started_at,
            ended_at: run.ended_at,
            tags: super::annotations::stored(&run.annotations.tags),
            note: run.annotations.note.clone(),
        }
    }
}

fn outline(row: &Row<'_>) -> rusqlite::Result<Outline> {
    Ok(Outline {
        id: row.get(0)?,
        experiment: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        status: row.get(4)?,
        noted: row.get(5)?,
        has_worker: row.get(6)?,
        created_at: row.get(7)?,
        config: row.get(8)?,
        metrics: row.get(9)?,
        started_at: row.get(10)?,
        ended_at: row.get(11)?,
        tags: row.get(12)?,
        note: row.get(13)?,
    })
}

impl Database {
    /// Returns a page of the matching runs, and the number of all that match.
    pub(crate) async fn runs(
        &self,
        among: impl Into<Among>,
        filter: RunFilter,
    ) -> rusqlite::Result<(Vec<RunRow>, u64)> {
        let among = among.into();
        let (offset, limit) = bounds(filter.page);
        self.read(move |db| {
            let wanted = filter.condition(&among);
            let value = among.value();
            let total: i64 = match filter.is_all() {
                true => db
                    .prepare_cached(among.count())?
                    .query_row([&value], |row| row.get(0))?,
                false => db
                    .prepare_cached(&format!("SELECT count(*) FROM runs WHERE {wanted}"))?
                    .query_row(params![value, filter.text, filter.tag, CANCELLED], |row| {
                        row.get(0)
                    })?,
            };
            let [order, reverse] = match filter.newest_first {
                true => ["DESC", "ASC"],
                false => ["ASC", "DESC"],
            };
            // For a late page, only the index is read up to the offset, from the
            // nearer end.
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
                         SELECT id FROM runs WHERE {wanted} ORDER BY id {inner} LIMIT ?5 OFFSET ?6)
                     ORDER BY runs.id {order}"
                ))?
                .query_map(
                    params![value, filter.text, filter.tag, CANCELLED, limit, offset],
                    run,
                )?
                .collect::<Result<_, _>>()?;
            Ok((rows, u64::try_from(total).unwrap_or_default()))
        })
        .await
    }

    /// Returns the ids of all matching runs, oldest first, at most `most`; ignores the
    /// page.
    pub(crate) async fn run_ids(
        &self,
        among: impl Into<Among>,
        filter: RunFilter,
        most: u64,
    ) -> rusqlite::Result<Vec<i64>> {
        let among = among.into();
        let (_, most) = bounds(Some((0, most)));
        self.read(move |db| {
            let wanted = filter.condition(&among);
            let values = params![among.value(), filter.text, filter.tag, CANCELLED, most];
            db.prepare_cached(&format!(
                "SELECT id FROM runs WHERE {wanted} ORDER BY id LIMIT ?5"
            ))?
            .query_map(values, |row| row.get(0))?
            .collect()
        })
        .await
    }

    /// Returns the outlines of the runs with these ids, in this order. Skips deleted runs.
    /// Without `details`, configurations and metrics are empty; they take most of the
    /// memory.
    pub(crate) async fn outlines(
        &self,
        ids: Vec<i64>,
        details: bool,
    ) -> rusqlite::Result<Vec<Outline>> {
        self.read(move |db| {
            let details = match details {
                true => "config, metrics",
                false => "'', ''",
            };
            let mut query = db.prepare_cached(&format!(
                "SELECT runs.id, experiments.name, runs.name, runs.description, status,
                     runs.details, worker_token IS NOT NULL, runs.created_at, {details},
                     started_at, ended_at, runs.tags, runs.note
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                 WHERE runs.id = ?1"
            ))?;
            let found = ids
                .iter()
                .map(|id| query.query_row([id], outline).optional());
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Returns the runs with these ids in the same order. Skips deleted runs.
    pub(crate) async fn runs_by_ids(&self, ids: Vec<i64>) -> rusqlite::Result<Vec<RunRow>> {
        self.read(move |db| {
            let mut query = db.prepare_cached(&format!("{SELECT} WHERE runs.id = ?1"))?;
            let found = ids.iter().map(|id| query.query_row([id], run).optional());
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Returns experiment and name of the runs that created these artifacts, by
    /// artifact id.
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
    use crate::database::{in_memory, with_run};

    #[tokio::test]
    async fn lists_are_filtered_sorted_and_counted() {
        let db = in_memory();
        let first = with_run(&db, "a-1").await;
        let experiment = 1;
        for name in ["b-1", "a-2"] {
            with_run(&db, name).await;
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
        let standing = |standing| RunFilter {
            standing: Some(standing),
            ..all.clone()
        };
        assert_eq!(names(standing(Standing::Failed)).await, (String::new(), 0));
        db.disturb(
            "UPDATE runs SET status = 'FAILED', details = 'Run cancelled by u' WHERE name = 'b-1';
             UPDATE runs SET status = 'FAILED', details = 'why', tags = '[\"x\"]' WHERE name = 'a-1';
             UPDATE runs SET status = 'STARTED' WHERE name = 'a-2'",
        )
        .await;
        let owner = db.identity_of("u").await.namespace;
        for (wanted, expected) in [
            (Standing::Failed, "a-1"),
            (Standing::Cancelled, "b-1"),
            (Standing::Waiting, "a-2"),
            (Standing::Running, ""),
            (Standing::Finished, ""),
        ] {
            assert_eq!(names(standing(wanted)).await.0, expected);
            for among in [Among::Experiment(1), Among::Project(owner.clone())] {
                let ids = db.run_ids(among, standing(wanted), 9).await.unwrap();
                let outlines = db.outlines(ids, false).await.unwrap();
                let names: Vec<&str> = outlines.iter().map(|o| o.name.as_str()).collect();
                assert_eq!(names.join(" "), expected);
            }
        }
        let tagged = RunFilter {
            tag: Some("x".into()),
            ..all.clone()
        };
        assert_eq!(names(tagged).await, ("a-1".into(), 1));
        let (_, total) = db.runs(Among::Project(owner), all.clone()).await.unwrap();
        assert_eq!(total, 3);
        let (none, total) = db
            .runs(Among::Project("x".into()), all.clone())
            .await
            .unwrap();
        assert_eq!((none.len(), total), (0, 0));
        db.disturb("UPDATE runs SET status = 'CREATED', details = ''")
            .await;
        let rows = db.runs_by_ids(vec![first + 1, 99, first]).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, [first + 1, first]);
        let outlines = db.outlines(vec![first + 1, 99, first], true).await.unwrap();
        let found: Vec<(i64, &str)> = outlines.iter().map(|o| (o.id, &*o.config)).collect();
        assert_eq!(found, [(first + 1, "{}"), (first, "{}")]);
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
