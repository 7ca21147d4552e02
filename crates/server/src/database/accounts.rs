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

/// A token, as a list shows it.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) created_at: String,
    pub(crate) expires_at: Option<String>,
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

    /// Gives a user another token, which ends after so many days. None where the
    /// user has one of that name.
    pub(crate) async fn create_personal_token(
        &self,
        user_id: String,
        name: String,
        days: Option<u32>,
    ) -> rusqlite::Result<Option<String>> {
        self.call(move |db| {
            let token = secret::new_token();
            let ends = days.map(|days| format!("+{days} days"));
            let created = db.execute(
                &format!(
                    "INSERT INTO tokens (hash, user_id, name, created_at, expires_at)
                     SELECT ?1, ?2, ?3, {NOW},
                         CASE WHEN ?4 IS NULL THEN NULL
                         ELSE strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4) END
                     WHERE NOT EXISTS (
                         SELECT 1 FROM tokens WHERE user_id = ?2 AND name = ?3)"
                ),
                params![secret::hash(&token), user_id, name, ends],
            )?;
            Ok((created == 1).then_some(token))
        })
        .await
    }

    /// A user's tokens, oldest first.
    pub(crate) async fn tokens(&self, user_id: String) -> rusqlite::Result<Vec<TokenRow>> {
        self.call(move |db| {
            db.prepare_cached(
                "SELECT name, kind, created_at, expires_at FROM tokens WHERE user_id = ?1
                 ORDER BY rowid",
            )?
            .query_map([user_id], |row| {
                Ok(TokenRow {
                    name: row.get(0)?,
                    kind: row.get(1)?,
                    created_at: row.get(2)?,
                    expires_at: row.get(3)?,
                })
            })?
            .collect()
        })
        .await
    }

    /// Makes a user's token of that name void. Says whether there was one.
    pub(crate) async fn delete_token(
        &self,
        user_id: String,
        name: String,
    ) -> rusqlite::Result<bool> {
        self.call(move |db| {
            let deleted = db.execute(
                "DELETE FROM tokens WHERE user_id = ?1 AND name = ?2",
                params![user_id, name],
            )?;
            Ok(deleted > 0)
        })
        .await
    }

    /// Whose token this is.
    pub(crate) async fn user_of_token(&self, token: &str) -> rusqlite::Result<Option<UserRow>> {
        let hash = secret::hash(token);
        self.call(move |db| {
            db.query_row(
                "SELECT users.id, users.name FROM tokens JOIN users ON users.id = user_id
                 WHERE hash = ?1 AND (expires_at IS NULL
                     OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
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
