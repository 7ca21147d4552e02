//! Links with which anybody can read a run's page until they expire. The address
//! contains a secret key; only its hash is stored.

use rusqlite::{OptionalExtension, Row, params};

use super::{Database, Identity, RunRow, run_rows, sql::NOW};
use crate::secret;

/// A link in a list.
#[derive(Clone, Debug)]
pub(crate) struct ShareRow {
    pub(crate) id: String,
    pub(crate) run_id: i64,
    /// Name of the user who created it.
    pub(crate) created_by: String,
    pub(crate) with_artifact: bool,
    pub(crate) created_at: String,
    pub(crate) expires_at: String,
    /// Number of times the page was opened, and the last time.
    pub(crate) opened: u64,
    pub(crate) opened_at: Option<String>,
}

/// A link to create.
#[derive(Clone, Debug)]
pub(crate) struct NewShare {
    pub(crate) days: u32,
    pub(crate) with_artifact: bool,
}

const COLUMNS: &str = "id, run_id,
    (SELECT users.name FROM users WHERE users.id = created_by), with_artifact, created_at, expires_at, opened,
    opened_at";

fn share(row: &Row<'_>) -> rusqlite::Result<ShareRow> {
    Ok(ShareRow {
        id: row.get(0)?,
        run_id: row.get(1)?,
        created_by: row.get(2)?,
        with_artifact: row.get(3)?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        opened: row.get(6)?,
        opened_at: row.get(7)?,
    })
}

impl Database {
    /// Creates a link to a run that the user may change. Also returns the key for
    /// its address. `None` if the run already has `most` valid links.
    pub(crate) async fn add_share(
        &self,
        by: Identity,
        run_id: i64,
        new: NewShare,
        most: u64,
    ) -> rusqlite::Result<Option<(ShareRow, String)>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let Some(label) = by.check_own_run(&transaction, run_id)? else {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            };
            let key = secret::new_key();
            let made = transaction
                .query_row(
                    &format!(
                        "INSERT INTO shares (id, hash, run_id, created_by, with_artifact,
                             created_at, expires_at)
                         SELECT ?1, ?2, ?3, ?4, ?5, {NOW},
                             strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?6)
                         WHERE (SELECT count(*) FROM shares
                             WHERE run_id = ?3 AND expires_at > {NOW}) < ?7
                         RETURNING {COLUMNS}"
                    ),
                    params![
                        secret::new_id(),
                        secret::hash(&key),
                        run_id,
                        by.person,
                        new.with_artifact,
                        format!("+{} days", new.days),
                        most
                    ],
                    share,
                )
                .optional()?;
            if made.is_some() {
                by.note(&transaction, "share.create", &label)?;
            }
            transaction.commit()?;
            Ok(made.map(|made| (made, key)))
        })
        .await
    }

    /// Returns the valid links to a run, oldest first.
    pub(crate) async fn shares(&self, run_id: i64) -> rusqlite::Result<Vec<ShareRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM shares WHERE run_id = ?1 AND expires_at > {NOW}
                 ORDER BY created_at, rowid"
            ))?
            .query_map([run_id], share)?
            .collect()
        })
        .await
    }

    /// Revokes a link to a run that the user may change. Returns the link, if it
    /// existed.
    pub(crate) async fn delete_share(
        &self,
        by: Identity,
        run_id: i64,
        id: String,
    ) -> rusqlite::Result<Option<ShareRow>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let Some(label) = by.check_own_run(&transaction, run_id)? else {
                return Ok(None);
            };
            let deleted = transaction
                .query_row(
                    &format!(
                        "DELETE FROM shares WHERE run_id = ?1 AND id = ?2 AND expires_at > {NOW}
                         RETURNING {COLUMNS}"
                    ),
                    params![run_id, id],
                    share,
                )
                .optional()?;
            if deleted.is_some() {
                by.note(&transaction, "share.revoke", &label)?;
            }
            transaction.commit()?;
            Ok(deleted)
        })
        .await
    }

    /// Returns the link with this key, and its run. A link is valid as long as
    /// the user who created it is a member of the run's project and not disabled.
    pub(crate) async fn shared(&self, key: &str) -> rusqlite::Result<Option<(ShareRow, RunRow)>> {
        let hash = secret::hash(key);
        self.read(move |db| {
            let found = db
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM shares WHERE hash = ?1 AND expires_at > {NOW}
                         AND EXISTS (
                             SELECT 1 FROM runs
                                 JOIN experiments ON experiments.id = experiment_id
                                 JOIN members ON members.project_id = experiments.project_id
                                 JOIN users ON users.id = members.user_id
                             WHERE runs.id = shares.run_id
                                 AND users.id = shares.created_by AND NOT disabled)"
                ))?
                .query_row([hash], share)
                .optional()?;
            let Some(found) = found else {
                return Ok(None);
            };
            let run = db
                .prepare_cached(&format!("{} WHERE runs.id = ?1", run_rows::SELECT))?
                .query_row([found.run_id], run_rows::run)
                .optional()?;
            Ok(run.map(|run| (found, run)))
        })
        .await
    }

    /// Records that the page of a link was opened.
    pub(crate) async fn note_opened(&self, id: String) -> rusqlite::Result<()> {
        self.write(move |db| {
            db.execute(
                &format!("UPDATE shares SET opened = opened + 1, opened_at = {NOW} WHERE id = ?1"),
                [id],
            )
            .map(drop)
        })
        .await
    }

    /// Removes expired links.
    pub(crate) async fn drop_expired_shares(&self) -> rusqlite::Result<()> {
        self.write(|db| {
            db.execute(&format!("DELETE FROM shares WHERE expires_at <= {NOW}"), [])
                .map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{in_memory, with_run};

    #[tokio::test]
    async fn a_share_key_is_valid_until_it_expires_or_is_revoked() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let new = NewShare {
            days: 1,
            with_artifact: false,
        };
        let (owner, eve) = (db.identity_of("u").await, db.identity_of("eve").await);
        let make = || db.add_share(owner.clone(), run, new.clone(), 2);
        let refused = db.add_share(eve.clone(), run, new.clone(), 2).await;
        assert!(refused.is_err(), "the run belongs to another user");
        let (first, key) = make().await.unwrap().unwrap();
        let (second, other) = make().await.unwrap().unwrap();
        assert!(make().await.unwrap().is_none(), "two are allowed");
        db.note_opened(first.id.clone()).await.unwrap();
        let (found, row) = db.shared(&key).await.unwrap().unwrap();
        assert_eq!((found.id, found.opened, row.id), (first.id.clone(), 1, run));
        for wrong in ["", &key[1..], &first.id] {
            assert!(db.shared(wrong).await.unwrap().is_none(), "{wrong}");
        }
        let revoke = async |by: &Identity, run| {
            let gone = db.delete_share(by.clone(), run, second.id.clone()).await;
            gone.unwrap().is_some()
        };
        assert!(
            !revoke(&owner, run + 1).await,
            "the link belongs to another run"
        );
        assert!(!revoke(&eve, run).await);
        assert!(revoke(&owner, run).await);
        assert!(db.shared(&other).await.unwrap().is_none());
        // The link ends when its creator leaves the project.
        for (sql, back) in [
            (
                "UPDATE users SET disabled = 1",
                "UPDATE users SET disabled = 0",
            ),
            (
                "UPDATE members SET user_id = (SELECT id FROM users WHERE name = 'eve')
                     WHERE project_id = (SELECT id FROM users WHERE name = 'u')",
                "UPDATE members SET user_id = project_id",
            ),
        ] {
            db.disturb(sql).await;
            assert!(db.shared(&key).await.unwrap().is_none(), "{sql}");
            db.disturb(back).await;
            assert!(db.shared(&key).await.unwrap().is_some(), "{back}");
        }
        db.disturb("UPDATE shares SET expires_at = '2020-01-01T00:00:00.000Z'")
            .await;
        assert!(db.shared(&key).await.unwrap().is_none());
        assert!(db.shares(run).await.unwrap().is_empty());
        assert!(make().await.unwrap().is_some(), "expired ones don't count");
        db.drop_expired_shares().await.unwrap();
        let count = "SELECT count(*) FROM shares";
        let left = db.write(move |db| db.query_row(count, [], |row| row.get::<_, u64>(0)));
        assert_eq!(left.await.unwrap(), 1);
    }
}
