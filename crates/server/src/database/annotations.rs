//! Tags and notes of runs and artifacts. A change of several runs is atomic.

use finetuner_protocol::{AnnotationChange, Annotations, InvalidField};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Database, Identity};

/// Maximum number of tags offered for selection.
const OFFERED: usize = 200;

/// Result of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Annotated {
    /// The new annotations, one for each run or artifact.
    Done(Vec<Annotations>),
    /// A run or the artifact does not exist in the project.
    Missing,
    Invalid(InvalidField),
}

/// Parses annotations from the columns of tags and note.
pub(super) fn annotations(
    row: &Row<'_>,
    tags: usize,
    note: usize,
) -> rusqlite::Result<Annotations> {
    let mut annotations = Annotations::default();
    annotations.tags = serde_json::from_str(&row.get::<_, String>(tags)?).unwrap_or_default();
    annotations.note = row.get(note)?;
    Ok(annotations)
}

/// Encodes tags for their column.
pub(super) fn stored(tags: &[String]) -> String {
    serde_json::json!(tags).to_string()
}

/// Changes the annotations of one row. The query and the statement get its id as
/// `?1`; the statement also gets the tags as `?2` and the note as `?3`.
fn change_one(
    db: &Connection,
    [find, update]: [&str; 2],
    id: &dyn rusqlite::ToSql,
    change: &AnnotationChange,
) -> rusqlite::Result<Annotated> {
    let found = db
        .prepare_cached(find)?
        .query_row([id], |row| annotations(row, 0, 1))
        .optional()?;
    let Some(mut changed) = found else {
        return Ok(Annotated::Missing);
    };
    if let Err(error) = change.apply(&mut changed) {
        return Ok(Annotated::Invalid(error));
    }
    let values = params![id, stored(&changed.tags), changed.note];
    db.prepare_cached(update)?.execute(values)?;
    Ok(Annotated::Done(vec![changed]))
}

/// Like [`Database::annotate_runs`], for one artifact and within the caller's
/// transaction. The caller has checked the user's role.
pub(super) fn annotate_artifact(
    db: &Connection,
    by: &Identity,
    id: &str,
    change: &AnnotationChange,
) -> rusqlite::Result<Annotated> {
    let is_there: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM artifacts WHERE id = ?1 AND project_id = ?2)",
        )?
        .query_row(params![id, by.namespace], |row| row.get(0))?;
    if !is_there {
        return Ok(Annotated::Missing);
    }
    let statements = [
        "SELECT tags, note FROM artifacts WHERE id = ?1",
        "UPDATE artifacts SET tags = ?2, note = ?3 WHERE id = ?1",
    ];
    let annotated = change_one(db, statements, &id, change)?;
    if matches!(annotated, Annotated::Done(_)) && *change != AnnotationChange::default() {
        by.note(db, "data.annotate", id)?;
    }
    Ok(annotated)
}

impl Database {
    /// Changes tags and notes of runs of the project, in one transaction: all runs
    /// change, or none. Members may change only their own runs, owners all runs.
    pub(crate) async fn annotate_runs(
        &self,
        by: Identity,
        runs: Vec<i64>,
        change: AnnotationChange,
    ) -> rusqlite::Result<Annotated> {
        let statements = [
            "SELECT tags, note FROM runs WHERE id = ?1",
            "UPDATE runs SET tags = ?2, note = ?3 WHERE id = ?1",
        ];
        self.write(move |db| {
            let transaction = db.transaction()?;
            let mut all = Vec::new();
            for id in runs {
                let Some(label) = by.check_own_run(&transaction, id)? else {
                    return Ok(Annotated::Missing);
                };
                match change_one(&transaction, statements, &id, &change)? {
                    Annotated::Done(changed) => all.extend(changed),
                    refused => return Ok(refused),
                }
                by.note(&transaction, "run.annotate", &label)?;
            }
            transaction.commit()?;
            Ok(Annotated::Done(all))
        })
        .await
    }

    /// Returns up to 200 tags of the project's artifacts, in alphabetical order.
    pub(crate) async fn tags_of_artifacts(&self, project: String) -> rusqlite::Result<Vec<String>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT DISTINCT tag.value FROM artifacts, json_each(tags) AS tag
                 WHERE project_id = ?1 AND tags <> '[]' ORDER BY 1 LIMIT ?2",
            )?
            .query_map(params![project, OFFERED], |row| row.get(0))?
            .collect()
        })
        .await
    }

    /// Returns up to 200 tags of the project's runs, in alphabetical order.
    pub(crate) async fn tags_of_runs(&self, project: String) -> rusqlite::Result<Vec<String>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT DISTINCT tag.value FROM experiments
                     JOIN runs ON experiment_id = experiments.id, json_each(tags) AS tag
                 WHERE project_id = ?1 AND tags <> '[]' ORDER BY 1 LIMIT ?2",
            )?
            .query_map(params![project, OFFERED], |row| row.get(0))?
            .collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Refusal, in_memory, with_run};

    #[tokio::test]
    async fn only_the_owner_annotates_runs_and_in_one_transaction() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let owner = db.identity_of("u").await;
        let stranger = Identity {
            person: "x".into(),
            ..owner.clone()
        };
        let change = AnnotationChange::default().tags(["b", "a"]).note("n");
        let refused = db.annotate_runs(stranger.clone(), vec![run], change.clone());
        assert!(Refusal::of(&refused.await.unwrap_err()).is_some());
        // If one run is missing, none is changed.
        let some = db.annotate_runs(owner.clone(), vec![run, run + 1], change.clone());
        assert_eq!(some.await.unwrap(), Annotated::Missing);
        let own = async || db.run_by_id(run).await.unwrap().unwrap().annotations;
        assert_eq!(own().await, Annotations::default());
        let done = db.annotate_runs(owner.clone(), vec![run], change);
        assert_eq!(done.await.unwrap(), Annotated::Done(vec![own().await]));
        assert_eq!(
            (own().await.tags.join(" "), own().await.note),
            ("b a".into(), "n".into())
        );
        let wrong = AnnotationChange::default().note("m").add_tags(["x,y"]);
        let wrong = db.annotate_runs(owner.clone(), vec![run], wrong).await;
        assert!(matches!(wrong.unwrap(), Annotated::Invalid(_)));
        assert_eq!(own().await.note, "n");
        let tags = db.tags_of_runs(owner.namespace).await.unwrap();
        assert_eq!(tags, ["a", "b"]);
        assert!(db.tags_of_runs("x".into()).await.unwrap().is_empty());
    }
}
