//! Checkpoints: states from which a run can resume.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Database, contents::orphans, sql::NOW};

/// A checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckpointRow {
    /// Number in the run, from 1.
    pub(crate) number: u64,
    /// Number of finished epochs.
    pub(crate) epoch: u64,
    /// Number of finished steps of the next epoch.
    pub(crate) step: u64,
    pub(crate) content: String,
    pub(crate) size: u64,
    pub(crate) created_at: String,
}

const SELECT: &str =
    "SELECT number, epoch, step, content, size, created_at FROM checkpoints WHERE run_id = ?1";

fn checkpoint(row: &Row<'_>) -> rusqlite::Result<CheckpointRow> {
    Ok(CheckpointRow {
        number: row.get(0)?,
        epoch: row.get(1)?,
        step: row.get(2)?,
        content: row.get(3)?,
        size: row.get(4)?,
        created_at: row.get(5)?,
    })
}

/// Adds a checkpoint. Returns its number.
pub(super) fn insert(db: &Connection, run_id: i64, new: &CheckpointRow) -> rusqlite::Result<u64> {
    db.query_row(
        &format!(
            "INSERT INTO checkpoints (run_id, number, epoch, step, content, size, created_at)
             SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, {NOW}
             FROM checkpoints WHERE run_id = ?1
             RETURNING number"
        ),
        params![run_id, new.epoch, new.step, new.content, new.size],
        |row| row.get(0),
    )
}

/// Removes checkpoints that are no longer needed. Keeps as many ends of epochs as
/// the run asks for, and with `keep_last` the last checkpoint. Returns the
/// contents that have lost their last reference.
pub(super) fn thin(db: &Connection, run_id: i64, keep_last: bool) -> rusqlite::Result<Vec<String>> {
    let contents: Vec<String> = db
        .prepare_cached(
            "DELETE FROM checkpoints WHERE run_id = ?1
             AND (NOT ?2 OR number < (SELECT max(number) FROM checkpoints WHERE run_id = ?1))
             AND number NOT IN (
                 SELECT number FROM checkpoints WHERE run_id = ?1 AND step = 0
                 ORDER BY number DESC
                 LIMIT (SELECT keep_checkpoints FROM runs WHERE id = ?1))
             RETURNING content",
        )?
        .query_map(params![run_id, keep_last], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    orphans(db, contents)
}

impl Database {
    /// Returns the checkpoints of a run, oldest first.
    pub(crate) async fn checkpoints(&self, run_id: i64) -> rusqlite::Result<Vec<CheckpointRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!("{SELECT} ORDER BY number"))?
                .query_map([run_id], checkpoint)?
                .collect()
        })
        .await
    }

    /// Returns the checkpoint with this number.
    pub(crate) async fn checkpoint(
        &self,
        run_id: i64,
        number: u64,
    ) -> rusqlite::Result<Option<CheckpointRow>> {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.read(move |db| {
            db.query_row(
                &format!("{SELECT} AND number = ?2"),
                params![run_id, number],
                checkpoint,
            )
            .optional()
        })
        .await
    }

    /// Returns the content that a run's worker starts with: the run's last
    /// checkpoint, or else the checkpoint that the run was created from.
    pub(crate) async fn last_checkpoint(&self, run_id: i64) -> rusqlite::Result<Option<String>> {
        self.read(move |db| {
            db.query_row(
                "SELECT coalesce(
                     (SELECT content FROM checkpoints WHERE run_id = ?1
                      ORDER BY number DESC LIMIT 1),
                     first_checkpoint)
                 FROM runs WHERE id = ?1",
                [run_id],
                |row| row.get(0),
            )
            .optional()
            .map(Option::flatten)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{in_memory, with_run};

    #[tokio::test]
    async fn the_latest_checkpoint_and_those_of_the_last_epochs_are_kept() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let thinned = db.write(move |db| {
            db.execute("UPDATE runs SET keep_checkpoints = 2", [])?;
            for (epoch, step) in [(0, 5), (1, 0), (1, 5), (2, 0), (3, 0), (3, 5)] {
                let new = CheckpointRow {
                    epoch,
                    step,
                    content: format!("{epoch}-{step}"),
                    ..CheckpointRow::default()
                };
                insert(db, run, &new)?;
            }
            thin(db, run, true)
        });
        let mut removed = thinned.await.unwrap();
        removed.sort();
        assert_eq!(removed, ["0-5", "1-0", "1-5"]);
        let left = db.checkpoints(run).await.unwrap();
        let left: Vec<u64> = left.iter().map(|c| c.number).collect();
        assert_eq!(left, [4, 5, 6]);
        assert_eq!(db.last_checkpoint(run).await.unwrap().unwrap(), "3-5");
        let removed = db.write(move |db| thin(db, run, false)).await.unwrap();
        assert_eq!(removed, ["3-5"]);
        assert_eq!(db.last_checkpoint(run).await.unwrap().unwrap(), "3-0");
        assert!(db.checkpoint(run, 6).await.unwrap().is_none());
    }
}
