//! Experiments, which are groups of runs.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Database, Identity, Role,
    sql::{NOW, bounds},
};

/// An experiment.
#[derive(Clone, Debug)]
pub(crate) struct ExperimentRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) created_at: String,
    pub(crate) idempotency_key: Option<String>,
    /// Number of its runs.
    pub(crate) runs: u64,
}

const COLUMNS: &str = "id, name, description, created_at, idempotency_key, runs";

fn experiment(row: &Row<'_>) -> rusqlite::Result<ExperimentRow> {
    Ok(ExperimentRow {
        id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        created_at: row.get(3)?,
        idempotency_key: row.get(4)?,
        runs: row.get(5)?,
    })
}

/// Fails if the experiment is in the project and `by` may not delete it.
fn check_own_experiment(db: &Connection, by: &Identity, id: i64) -> rusqlite::Result<()> {
    by.check(db, Role::Member)?;
    let creator: Option<Option<String>> = db
        .prepare_cached("SELECT creator FROM experiments WHERE id = ?1 AND project_id = ?2")?
        .query_row(params![id, by.namespace], |row| row.get(0))
        .optional()?;
    match creator {
        Some(creator) => by.check_own(db, creator.as_deref()),
        // It was already deleted.
        None => Ok(()),
    }
}

impl Database {
    /// Creates an experiment. Fails if the project has one with this name.
    pub(crate) async fn create_experiment(
        &self,
        by: Identity,
        name: String,
        description: String,
        idempotency_key: Option<String>,
    ) -> rusqlite::Result<ExperimentRow> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Member)?;
            let created = transaction.query_row(
                &format!(
                    "INSERT INTO experiments (project_id, name, description, created_at,
                         idempotency_key, creator)
                     VALUES (?1, ?2, ?3, {NOW}, ?4, ?5) RETURNING {COLUMNS}"
                ),
                params![by.namespace, name, description, idempotency_key, by.person],
                experiment,
            )?;
            transaction.commit()?;
            Ok(created)
        })
        .await
    }

    /// Returns the project's experiment with this name.
    pub(crate) async fn experiment(
        &self,
        project: String,
        name: String,
    ) -> rusqlite::Result<Option<ExperimentRow>> {
        self.read(move |db| {
            db.query_row(
                &format!("SELECT {COLUMNS} FROM experiments WHERE project_id = ?1 AND name = ?2"),
                params![project, name],
                experiment,
            )
            .optional()
        })
        .await
    }

    /// Deletes an experiment that has no runs. Returns whether it is gone.
    pub(crate) async fn delete_experiment(&self, by: Identity, id: i64) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            check_own_experiment(&transaction, &by, id)?;
            let deleted: Option<String> = transaction
                .query_row(
                    "DELETE FROM experiments WHERE id = ?1 AND project_id = ?2
                     AND NOT EXISTS (SELECT 1 FROM runs WHERE experiment_id = ?1)
                     RETURNING name",
                    params![id, by.namespace],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(name) = deleted {
                by.note(&transaction, "experiment.delete", &name)?;
            }
            let gone = "SELECT NOT EXISTS (SELECT 1 FROM experiments WHERE id = ?1)";
            let gone = transaction.query_row(gone, [id], |row| row.get(0))?;
            transaction.commit()?;
            Ok(gone)
        })
        .await
    }

    /// Fails unless a member may delete an experiment with its runs: the member
    /// created all of them, or is an owner.
    pub(crate) async fn check_delete(&self, by: Identity, id: i64) -> rusqlite::Result<()> {
        self.read(move |db| {
            check_own_experiment(db, &by, id)?;
            let creators = db
                .prepare_cached("SELECT DISTINCT created_by FROM runs WHERE experiment_id = ?1")?
                .query_map([id], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<Option<String>>>>()?;
            let mut creators = creators.iter();
            creators.try_for_each(|creator| by.check_own(db, creator.as_deref()))
        })
        .await
    }

    /// Returns the project's experiments, oldest first: all, or `limit` of them
    /// from number `offset` on. Also returns the number of all.
    pub(crate) async fn experiments(
        &self,
        project: String,
        page: Option<(u64, u64)>,
    ) -> rusqlite::Result<(Vec<ExperimentRow>, u64)> {
        let (offset, limit) = bounds(page);
        self.read(move |db| {
            let total = db.query_row(
                "SELECT count(*) FROM experiments WHERE project_id = ?1",
                [&project],
                |row| row.get(0),
            )?;
            let rows = db
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM experiments WHERE project_id = ?1
                     ORDER BY id LIMIT ?2 OFFSET ?3"
                ))?
                .query_map(params![project, limit, offset], experiment)?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::{Refusal, Scope, Wanted, in_memory},
        secret,
    };

    #[tokio::test]
    async fn members_delete_the_experiments_that_they_created_themselves() {
        let db = in_memory();
        let (ada, bob) = (db.identity_of("ada").await, db.identity_of("bob").await);
        let team = "team".to_owned();
        let made = db.create_project(ada.clone(), team.clone(), None);
        made.await.unwrap();
        let added = db.set_member(ada, team.clone(), bob.name, Role::Member, None);
        added.await.unwrap();
        let in_team = async |name: &str| {
            let token = db.create_token(name.to_owned(), "t".to_owned(), Scope::All);
            let hash = secret::hash(&token.await.unwrap());
            let found = db.identify(hash, Wanted::Named("team".to_owned()), None);
            found.await.unwrap().unwrap()
        };
        let (ada, bob) = (in_team("ada").await, in_team("bob").await);
        let create = async |by: &Identity, name: &str| {
            let made = db.create_experiment(by.clone(), name.to_owned(), String::new(), None);
            made.await.unwrap().id
        };
        let (first, own) = (create(&ada, "first").await, create(&bob, "own").await);
        for refused in [
            db.check_delete(bob.clone(), first).await,
            db.delete_experiment(bob.clone(), first).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            let project = team.clone();
            assert_eq!(Refusal::of(&error), Some(&Refusal::NotOwn { project }));
        }
        db.check_delete(bob.clone(), own).await.unwrap();
        assert!(db.delete_experiment(bob.clone(), own).await.unwrap());
        // An owner deletes everything, also what a deleted user created.
        let left = create(&bob, "left").await;
        assert!(db.delete_user("bob".to_owned()).await.unwrap());
        for id in [first, left, left] {
            assert!(db.delete_experiment(ada.clone(), id).await.unwrap());
        }
    }
}
