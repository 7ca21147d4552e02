//! Users and their tokens.

use rusqlite::{OptionalExtension, params};

use super::{Database, NOW};
use crate::secret;

/// Somebody who may use the server.
#[derive(Clone, Debug)]
pub(crate) struct UserRow {
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Database {
    /// Whether there is no user yet.
    pub(crate) async fn has_no_users(&self) -> rusqlite::Result<bool> {
        self.call(|db| db.query_row("SELECT NOT EXISTS (SELECT 1 FROM users)", [], |r| r.get(0)))
            .await
    }

    /// Gives a token to a user, who is created where there is none of that name.
    pub(crate) async fn create_token(
        &self,
        user: String,
        token_name: String,
    ) -> rusqlite::Result<String> {
        self.call(move |db| {
            let token = secret::new_token();
            let transaction = db.transaction()?;
            transaction.execute(
                &format!(
                    "INSERT INTO users (id, name, created_at) VALUES (?1, ?2, {NOW})
                     ON CONFLICT (name) DO NOTHING"
                ),
                params![secret::new_id(), user],
            )?;
            transaction.execute(
                &format!(
                    "INSERT INTO tokens (hash, user_id, name, created_at)
                     SELECT ?1, id, ?2, {NOW} FROM users WHERE name = ?3"
                ),
                params![secret::hash(&token), token_name, user],
            )?;
            transaction.commit()?;
            Ok(token)
        })
        .await
    }

    /// Whose token this is.
    pub(crate) async fn user_of_token(&self, token: &str) -> rusqlite::Result<Option<UserRow>> {
        let hash = secret::hash(token);
        self.call(move |db| {
            db.query_row(
                "SELECT users.id, users.name FROM tokens JOIN users ON users.id = user_id
                 WHERE hash = ?1",
                [hash],
                |row| {
                    Ok(UserRow {
                        id: row.get(0)?,
                        name: row.get(1)?,
                    })
                },
            )
            .optional()
        })
        .await
    }
}
