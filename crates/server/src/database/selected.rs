//! Runs that a user has selected by name, without their configurations and results.

use finetuner_protocol::Status;
use rusqlite::{OptionalExtension, params};

use super::Database;

/// The values of a run that are needed to list, tag, cancel or delete it.
///
/// Configuration, results and data of a run can have megabytes, and a user may select
/// many runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SelectedRun {
    pub(crate) id: i64,
    pub(crate) experiment: String,
    pub(crate) name: String,
    /// Id of the user who started it; `None` if the user was deleted.
    pub(crate) created_by: Option<String>,
    status: String,
}

impl SelectedRun {
    /// Returns `experiment/run`.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.experiment, self.name)
    }

    /// Returns the run's status.
    pub(crate) fn status(&self) -> Status {
        Status::from(self.status.as_str())
    }
}

impl Database {
    /// Returns the project's runs with these experiments and names, in the same order.
    /// A run that does not exist is `None`.
    pub(crate) async fn selected_runs(
        &self,
        project: String,
        places: Vec<(String, String)>,
    ) -> rusqlite::Result<Vec<Option<SelectedRun>>> {
        self.read(move |db| {
            let mut query = db.prepare_cached(
                "SELECT runs.id, experiments.name, runs.name, created_by, status
                 FROM experiments JOIN runs ON experiment_id = experiments.id
                 WHERE project_id = ?1 AND experiments.name = ?2 AND runs.name = ?3",
            )?;
            let found = places.iter().map(|(experiment, name)| {
                let row = query.query_row(params![project, experiment, name], |row| {
                    Ok(SelectedRun {
                        id: row.get(0)?,
                        experiment: row.get(1)?,
                        name: row.get(2)?,
                        created_by: row.get(3)?,
                        status: row.get(4)?,
                    })
                });
                row.optional()
            });
            found.collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::database::{in_memory, with_run};

    #[tokio::test]
    async fn selected_runs_are_found_by_name_in_their_project() {
        let db = in_memory();
        let first = with_run(&db, "a").await;
        let second = with_run(&db, "b").await;
        let user = db.identity_of("u").await;
        let place = |experiment: &str, name: &str| (experiment.to_owned(), name.to_owned());
        let places = vec![
            place("e", "b"),
            place("e", "none"),
            place("none", "a"),
            place("e", "a"),
        ];
        let found = db.selected_runs(user.namespace.clone(), places.clone());
        let found = found.await.unwrap();
        let ids: Vec<Option<i64>> = found
            .iter()
            .map(|run| run.as_ref().map(|run| run.id))
            .collect();
        assert_eq!(ids, [Some(second), None, None, Some(first)]);
        let run = found[0].as_ref().unwrap();
        assert_eq!(run.label(), "e/b");
        assert_eq!(run.created_by.as_deref(), Some(user.person.as_str()));
        assert!(!run.status().is_final());
        let foreign = db.selected_runs("other".into(), places).await.unwrap();
        assert!(foreign.iter().all(Option::is_none));
    }
}
