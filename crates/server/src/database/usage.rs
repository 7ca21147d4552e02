//! Usage of the server by users and projects, and their limits.

use rusqlite::{Connection, OptionalExtension};

use super::{Database, Identity, run_rows::OPEN};

/// Usage of the server by a user and a project, and their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// The user's runs that wait or train, in all projects.
    pub(crate) open_runs: u64,
    /// Size of the project's data, models and checkpoints, in bytes.
    pub(crate) stored: u64,
    /// Limit on the user's open runs; `None` if unlimited.
    pub(crate) max_open_runs: Option<u64>,
    /// Limit on the project's size, in bytes; `None` if unlimited.
    pub(crate) max_stored: Option<u64>,
}

/// Counts a user's runs that wait or train.
pub(super) fn open_runs(db: &Connection, person: &str) -> rusqlite::Result<u64> {
    db.prepare_cached(&format!(
        "SELECT count(*) FROM runs WHERE {OPEN} AND created_by = ?1"
    ))?
    .query_row([person], |row| row.get(0))
}

/// Returns the limit on a user's open runs: the user's own limit, or else `most`.
pub(super) fn max_open_runs(
    db: &Connection,
    person: &str,
    most: Option<u64>,
) -> rusqlite::Result<Option<u64>> {
    let own: Option<Option<u64>> = db
        .prepare_cached("SELECT max_open_runs FROM users WHERE id = ?1")?
        .query_row([person], |row| row.get(0))
        .optional()?;
    Ok(own.flatten().or(most))
}

/// Returns the limit on a project's size: its own limit, or else `most`.
pub(super) fn max_stored(
    db: &Connection,
    project: &str,
    most: Option<u64>,
) -> rusqlite::Result<Option<u64>> {
    let own: Option<Option<u64>> = db
        .prepare_cached("SELECT max_stored FROM projects WHERE id = ?1")?
        .query_row([project], |row| row.get(0))
        .optional()?;
    Ok(own.flatten().or(most))
}

/// SQL expression for the size of project `?1`, in bytes.
pub(super) const STORED: &str =
    "(SELECT coalesce(sum(size), 0) FROM artifacts WHERE project_id = ?1)
     + (SELECT coalesce(sum(checkpoints.size), 0) FROM checkpoints
         JOIN runs ON runs.id = run_id
         JOIN experiments ON experiments.id = experiment_id WHERE project_id = ?1)";

/// Sums the sizes of a project's artifacts and checkpoints, in bytes. A content
/// with two names counts twice.
pub(super) fn stored(db: &Connection, project: &str) -> rusqlite::Result<u64> {
    db.prepare_cached(&format!("SELECT {STORED}"))?
        .query_row([project], |row| row.get(0))
}

impl Database {
    /// Returns the usage of a user and the project. `most` is the server's limits on
    /// open runs and on stored bytes.
    pub(crate) async fn usage(
        &self,
        of: &Identity,
        most: (Option<u64>, Option<u64>),
    ) -> rusqlite::Result<Usage> {
        let (person, project) = (of.person.clone(), of.namespace.clone());
        self.read(move |db| {
            Ok(Usage {
                open_runs: open_runs(db, &person)?,
                stored: stored(db, &project)?,
                max_open_runs: max_open_runs(db, &person, most.0)?,
                max_stored: max_stored(db, &project, most.1)?,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{CheckpointRow, NewArtifact, in_memory, with_run};

    #[tokio::test]
    async fn open_runs_and_stored_bytes_are_counted_per_user() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let row = db.run_by_id(run).await.unwrap().unwrap();
        let empty = Usage {
            open_runs: 1,
            stored: 0,
            max_open_runs: None,
            max_stored: Some(9),
        };
        let owner = db.identity_of("u").await;
        assert_eq!(db.usage(&owner, (None, Some(9))).await.unwrap(), empty);
        let artifact = NewArtifact {
            id: "a".into(),
            project_id: row.project_id.clone(),
            created_by: row.created_by.clone(),
            name: None,
            kind: "model".into(),
            public: false,
            meta_data: String::new(),
            content: "c".into(),
            size: 7,
        };
        db.put_artifact(owner.clone(), artifact, None)
            .await
            .unwrap();
        let token = vec![1];
        let claimed = token.clone();
        db.write(move |db| {
            db.execute(
                "UPDATE runs SET job = 'j', worker_token = ?1, status = 'STARTED'",
                [claimed],
            )
        })
        .await
        .unwrap();
        let checkpoint = CheckpointRow {
            content: "d".into(),
            size: 5,
            ..CheckpointRow::default()
        };
        db.add_checkpoint(run, token, checkpoint)
            .await
            .unwrap()
            .unwrap();
        let used = db.usage(&owner, (None, None)).await.unwrap();
        assert_eq!((used.open_runs, used.stored), (1, 12));
        let other = db.identity_of("somebody else").await;
        let other = db.usage(&other, (None, None)).await.unwrap();
        assert_eq!((other.open_runs, other.stored), (0, 0));
    }
}
