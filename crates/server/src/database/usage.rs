//! Usage of the server by a user, for quotas.

use rusqlite::Connection;

use super::Database;

/// A user's usage of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Runs that wait or train.
    pub(crate) open_runs: u64,
    /// Size of data, models and checkpoints, in bytes.
    pub(crate) stored: u64,
}

/// Counts a user's runs that wait or train.
pub(super) fn open_runs(db: &Connection, user_id: &str) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "SELECT count(*) FROM runs JOIN experiments ON experiments.id = experiment_id
         WHERE status IN ('CREATED', 'STARTED') AND user_id = ?1",
    )?
    .query_row([user_id], |row| row.get(0))
}

/// Sums the sizes of a user's artifacts and checkpoints, in bytes. A content
/// with two names counts twice.
pub(super) fn stored(db: &Connection, user_id: &str) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "SELECT (SELECT coalesce(sum(size), 0) FROM artifacts WHERE user_id = ?1)
         + (SELECT coalesce(sum(checkpoints.size), 0) FROM checkpoints
             JOIN runs ON runs.id = run_id
             JOIN experiments ON experiments.id = experiment_id WHERE user_id = ?1)",
    )?
    .query_row([user_id], |row| row.get(0))
}

impl Database {
    /// Returns the usage of a user.
    pub(crate) async fn usage(&self, user_id: String) -> rusqlite::Result<Usage> {
        self.read(move |db| {
            Ok(Usage {
                open_runs: open_runs(db, &user_id)?,
                stored: stored(db, &user_id)?,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{CheckpointRow, NewArtifact, in_memory, runs::tests::with_run};

    #[tokio::test]
    async fn open_runs_and_stored_bytes_are_counted_for_each_user() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let row = db.run_by_id(run).await.unwrap().unwrap();
        let empty = Usage {
            open_runs: 1,
            stored: 0,
        };
        assert_eq!(db.usage(row.user_id.clone()).await.unwrap(), empty);
        let artifact = NewArtifact {
            id: "a".into(),
            user_id: row.user_id.clone(),
            name: None,
            kind: "model".into(),
            public: false,
            meta_data: String::new(),
            content: "c".into(),
            size: 7,
        };
        db.put_artifact(artifact, None).await.unwrap();
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
        let used = db.usage(row.user_id).await.unwrap();
        assert_eq!((used.open_runs, used.stored), (1, 12));
        let other = db.usage("somebody else".into()).await.unwrap();
        assert_eq!((other.open_runs, other.stored), (0, 0));
    }
}
