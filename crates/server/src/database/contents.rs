//! References to contents of the store. After a change, the caller removes the
//! contents that have lost their last reference.

use rusqlite::Connection;

use super::{Database, run_rows::OPEN};

/// Whether a content has a reference. A run refers to the data that it was
/// created with until it has ended, even if the data is replaced.
pub(super) fn has_content(db: &Connection, content: &str) -> rusqlite::Result<bool> {
    db.prepare_cached(&format!(
        "SELECT EXISTS (SELECT 1 FROM artifacts WHERE content = ?1)
         OR EXISTS (SELECT 1 FROM checkpoints WHERE content = ?1)
         OR EXISTS (SELECT 1 FROM runs WHERE first_checkpoint = ?1)
         OR EXISTS (SELECT 1 FROM runs, json_each(runs.data) AS used
             WHERE {OPEN} AND used.value = ?1)"
    ))?
    .query_row([content], |row| row.get(0))
}

/// Returns those of the contents that have no reference.
pub(super) fn orphans(db: &Connection, contents: Vec<String>) -> rusqlite::Result<Vec<String>> {
    let mut orphans = Vec::new();
    for content in contents {
        if !has_content(db, &content)? {
            orphans.push(content);
        }
    }
    Ok(orphans)
}

/// Returns the checkpoint that a run started from.
pub(super) fn begun_with(db: &Connection, run_id: i64) -> rusqlite::Result<Option<String>> {
    db.query_row(
        "SELECT first_checkpoint FROM runs WHERE id = ?1",
        [run_id],
        |row| row.get(0),
    )
}

/// Returns the contents of a run's data.
pub(super) fn data_of(db: &Connection, run_id: i64) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT used.value FROM runs, json_each(data) AS used WHERE runs.id = ?1")?
        .query_map([run_id], |row| row.get(0))?
        .collect()
}

impl Database {
    /// Returns all contents with a reference, with their sizes if known, and what
    /// refers to them.
    pub(crate) async fn contents(&self) -> rusqlite::Result<Vec<(String, Option<u64>, String)>> {
        self.read(|db| {
            db.prepare(&format!(
                "SELECT content, size, 'artifact ' || id || coalesce(' (' || name || ')', '')
                     FROM artifacts
                 UNION ALL
                 SELECT content, size, 'checkpoint ' || number || ' of run ' || runs.name
                     FROM checkpoints JOIN runs ON runs.id = run_id
                 UNION ALL
                 SELECT first_checkpoint, NULL, 'the beginning of run ' || name
                     FROM runs WHERE first_checkpoint IS NOT NULL
                 UNION ALL
                 SELECT used.value, NULL, 'data of run ' || name
                     FROM runs, json_each(data) AS used WHERE {OPEN}"
            ))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect()
        })
        .await
    }

    /// Whether a content has a reference, including changes that were just
    /// committed. Waits for the writer.
    pub(crate) async fn is_wanted(&self, content: String) -> rusqlite::Result<bool> {
        self.write(move |db| has_content(db, &content)).await
    }

    /// Whether a content has a reference, without waiting for the writer. May
    /// miss changes in progress.
    pub(crate) async fn seems_wanted(&self, content: String) -> rusqlite::Result<bool> {
        self.read(move |db| has_content(db, &content)).await
    }
}
