//! Users, their passwords and their tokens.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Actor, Database, Identity, Manager, Refusal, Scope,
    admin::check_not_last_admin,
    projects::{check_name_is_free, check_owns_none_alone},
    sql::NOW,
};
use crate::secret;

/// A token in a list.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) scope: String,
    pub(crate) created_at: String,
    pub(crate) expires_at: Option<String>,
    pub(crate) last_used_at: Option<String>,
}

/// A token to create.
#[derive(Clone, Debug)]
pub(crate) struct NewToken {
    pub(crate) name: String,
    /// `personal`, or `session` for a token from a login.
    pub(crate) kind: &'static str,
    pub(crate) scope: Scope,
    /// Expiry; `None` if the token never expires.
    pub(crate) days: Option<u32>,
    /// Address of the client.
    pub(crate) address: Option<IpAddr>,
}

const TOKEN: &str = "name, kind, scope, created_at, expires_at, last_used_at";

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        name: row.get(0)?,
        kind: row.get(1)?,
        scope: row.get(2)?,
        created_at: row.get(3)?,
        expires_at: row.get(4)?,
        last_used_at: row.get(5)?,
    })
}

/// Creates a user with this name unless there is one. Returns whether it did.
fn add_user_if_missing(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    check_name_is_free(db, name)?;
    let added = db.execute(
        &format!(
            "INSERT INTO users (id, name, created_at) VALUES (?1, ?2, {NOW})
             ON CONFLICT (name) DO NOTHING"
        ),
        params![secret::new_id(), name],
    )?;
    Ok(added == 1)
}

/// Creates a token for an existing user.
fn give_token(
    db: &Connection,
    user: &str,
    token_name: &str,
    scope: Scope,
) -> rusqlite::Result<String> {
    let token = secret::new_token();
    db.execute(
        &format!(
            "INSERT INTO tokens (hash, user_id, name, created_at, scope)
             SELECT ?1, id, ?2, {NOW}, ?4 FROM users WHERE name = ?3"
        ),
        params![secret::hash(&token), token_name, user, scope.as_str()],
    )?;
    Ok(token)
}

impl Database {
    /// Whether the database has no users.
    pub(crate) async fn has_no_users(&self) -> rusqlite::Result<bool> {
        self.read(|db| db.query_row("SELECT NOT EXISTS (SELECT 1 FROM users)", [], |r| r.get(0)))
            .await
    }

    /// Creates a token for a user, who is created if necessary.
    pub(crate) async fn create_token(
        &self,
        user: String,
        token_name: String,
        scope: Scope,
    ) -> rusqlite::Result<String> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            add_user_if_missing(&transaction, &user)?;
            let token = give_token(&transaction, &user, &token_name, scope)?;
            let object = format!("{user}: {token_name}");
            Actor::operator().note(&transaction, "token.create", &object)?;
            transaction.commit()?;
            Ok(token)
        })
        .await
    }

    /// Creates a user. Returns the user's first token.
    pub(crate) async fn add_user(&self, by: Manager, name: String) -> rusqlite::Result<String> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let actor = by.check(&transaction)?;
            if !add_user_if_missing(&transaction, &name)? {
                let reason = format!("the user `{name}` exists already: choose another name");
                return Err(Refusal::Conflict(reason).into());
            }
            let token = give_token(&transaction, &name, "first", Scope::All)?;
            actor.note(&transaction, "user.add", &name)?;
            transaction.commit()?;
            Ok(token)
        })
        .await
    }

    /// Deletes a user and the user's personal project. Data and runs in other
    /// projects stay. Returns whether the user existed.
    pub(crate) async fn delete_user(&self, name: String) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            check_owns_none_alone(&transaction, &name)?;
            check_not_last_admin(&transaction, &name, true)?;
            let deleted = transaction.execute("DELETE FROM users WHERE name = ?1", [&name])?;
            if deleted == 1 {
                Actor::operator().note(&transaction, "user.delete", &name)?;
            }
            transaction.commit()?;
            Ok(deleted == 1)
        })
        .await
    }

    /// Whether there is a user with this name.
    pub(crate) async fn has_user(&self, name: String) -> rusqlite::Result<bool> {
        self.read(move |db| {
            let query = "SELECT EXISTS (SELECT 1 FROM users WHERE name = ?1)";
            db.query_row(query, [name], |row| row.get(0))
        })
        .await
    }

    /// Sets a user's password, given by its argon2 hash, and ends all of the
    /// user's sessions. Returns whether the user exists.
    pub(crate) async fn set_password(
        &self,
        by: Actor,
        user: String,
        password: String,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let changed = transaction.execute(
                "UPDATE users SET password = ?2 WHERE name = ?1",
                params![user, password],
            )?;
            transaction.execute(
                "DELETE FROM tokens WHERE kind = 'session'
                 AND user_id = (SELECT id FROM users WHERE name = ?1)",
                [&user],
            )?;
            if changed == 1 {
                by.note(&transaction, "user.password", &user)?;
            }
            transaction.commit()?;
            Ok(changed == 1)
        })
        .await
    }

    /// Returns the id and the password hash of a user who is not disabled.
    pub(crate) async fn password(
        &self,
        user: String,
    ) -> rusqlite::Result<Option<(String, Option<String>)>> {
        self.read(move |db| {
            db.query_row(
                "SELECT id, password FROM users WHERE name = ?1 AND NOT disabled",
                [user],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
        })
        .await
    }

    /// Creates another token for a user who is not disabled. `None` if the user
    /// has a token with this name.
    pub(crate) async fn add_token(
        &self,
        user_id: String,
        new: NewToken,
    ) -> rusqlite::Result<Option<String>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let (person, is_disabled): (String, bool) = transaction.query_row(
                "SELECT name, disabled FROM users WHERE id = ?1",
                [&user_id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if is_disabled {
                return Err(Refusal::Disabled(person).into());
            }
            let token = secret::new_token();
            let ends = new.days.map(|days| format!("+{days} days"));
            let created = transaction.execute(
                &format!(
                    "INSERT INTO tokens (hash, user_id, name, kind, scope, created_at, expires_at)
                     SELECT ?1, ?2, ?3, ?4, ?5, {NOW},
                         CASE WHEN ?6 IS NULL THEN NULL
                         ELSE strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?6) END
                     WHERE NOT EXISTS (
                         SELECT 1 FROM tokens WHERE user_id = ?2 AND name = ?3)"
                ),
                params![
                    secret::hash(&token),
                    user_id,
                    new.name,
                    new.kind,
                    new.scope.as_str(),
                    ends
                ],
            )?;
            if created == 0 {
                return Ok(None);
            }
            let action = match new.kind {
                "session" => "signin",
                _ => "token.create",
            };
            Actor::user(&person, new.address).note(&transaction, action, &new.name)?;
            transaction.commit()?;
            Ok(Some(token))
        })
        .await
    }

    /// Returns a user's tokens, oldest first.
    pub(crate) async fn tokens(&self, user_id: String) -> rusqlite::Result<Vec<TokenRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {TOKEN} FROM tokens WHERE user_id = ?1 ORDER BY created_at, rowid"
            ))?
            .query_map([user_id], token)?
            .collect()
        })
        .await
    }

    /// Returns the token with this hash.
    pub(crate) async fn token_of_hash(&self, hash: Vec<u8>) -> rusqlite::Result<Option<TokenRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!("SELECT {TOKEN} FROM tokens WHERE hash = ?1"))?
                .query_row([hash], token)
                .optional()
        })
        .await
    }

    /// Revokes the user's token with this name. Returns whether there was one.
    pub(crate) async fn delete_token(&self, by: Identity, name: String) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let deleted = transaction.execute(
                "DELETE FROM tokens WHERE user_id = ?1 AND name = ?2",
                params![by.person, name],
            )?;
            if deleted > 0 {
                Actor::user(&by.name, by.address).note(&transaction, "token.delete", &name)?;
            }
            transaction.commit()?;
            Ok(deleted > 0)
        })
        .await
    }

    /// Revokes the token with this hash if it belongs to a session.
    pub(crate) async fn end_session(
        &self,
        hash: Vec<u8>,
        address: Option<IpAddr>,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let ended: Option<(String, String)> = transaction
                .query_row(
                    "DELETE FROM tokens WHERE hash = ?1 AND kind = 'session'
                     RETURNING name, (SELECT name FROM users WHERE id = user_id)",
                    [hash],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            if let Some((name, person)) = ended {
                Actor::user(&person, address).note(&transaction, "signout", &name)?;
            }
            transaction.commit()
        })
        .await
    }

    /// Records that tokens were just used.
    pub(crate) async fn touch_tokens(&self, hashes: Vec<Vec<u8>>) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            for hash in hashes {
                transaction.execute(
                    &format!("UPDATE tokens SET last_used_at = {NOW} WHERE hash = ?1"),
                    [hash],
                )?;
            }
            transaction.commit()
        })
        .await
    }

    /// Removes expired tokens.
    pub(crate) async fn drop_expired_tokens(&self) -> rusqlite::Result<()> {
        self.write(|db| {
            db.execute(&format!("DELETE FROM tokens WHERE expires_at <= {NOW}"), [])
                .map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Wanted, in_memory};

    #[tokio::test]
    async fn tokens_expire_have_scopes_and_are_stored_as_hashes() {
        let db = in_memory();
        let create = |scope| db.create_token("ada".into(), "t".into(), scope);
        let (all, read) = (
            create(Scope::All).await.unwrap(),
            create(Scope::Read).await.unwrap(),
        );
        let scope = async |token: &str| {
            let user = db.identify(secret::hash(token), Wanted::Personal, None);
            user.await.unwrap().map(|user| user.scope)
        };
        assert_eq!(scope(&all).await, Some(Scope::All));
        assert_eq!(scope(&read).await, Some(Scope::Read));
        assert_eq!(scope("ft_other").await, None);
        let user = db.identify(secret::hash(&all), Wanted::Personal, None);
        let person = user.await.unwrap().unwrap().person;
        let new = NewToken {
            name: "short".into(),
            kind: "session",
            scope: Scope::All,
            days: Some(1),
            address: None,
        };
        let token = db.add_token(person.clone(), new.clone()).await.unwrap();
        let token = token.unwrap();
        let again = db.add_token(person.clone(), new).await.unwrap();
        assert!(again.is_none(), "the name is taken");
        assert_eq!(scope(&token).await, Some(Scope::All));
        db.touch_tokens(vec![secret::hash(&token)]).await.unwrap();
        let used = db.tokens(person.clone()).await.unwrap();
        let used = used.iter().filter(|t| t.last_used_at.is_some());
        assert_eq!(used.count(), 1);
        let ended = db.write(|db| {
            db.execute(
                "UPDATE tokens SET expires_at = '2020-01-01T00:00:00.000Z' WHERE name = 'short'",
                [],
            )
        });
        ended.await.unwrap();
        assert_eq!(scope(&token).await, None);
        db.drop_expired_tokens().await.unwrap();
        assert_eq!(db.tokens(person).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_new_password_ends_sessions() {
        let db = in_memory();
        let add = || db.add_user(Manager::Operator, "ada".into());
        add().await.unwrap();
        assert!(add().await.is_err(), "the name is taken");
        let (id, password) = db.password("ada".into()).await.unwrap().unwrap();
        assert_eq!(password, None);
        let new = NewToken {
            name: "console".into(),
            kind: "session",
            scope: Scope::All,
            days: None,
            address: None,
        };
        db.add_token(id.clone(), new).await.unwrap().unwrap();
        assert!(
            db.set_password(Actor::operator(), "ada".into(), "hash".into())
                .await
                .unwrap()
        );
        assert!(
            !db.set_password(Actor::operator(), "bob".into(), "hash".into())
                .await
                .unwrap()
        );
        let left = db.tokens(id).await.unwrap();
        assert_eq!((left.len(), left[0].kind.as_str()), (1, "personal"));
        let (users, _) = db.accounts((0, 9)).await.unwrap();
        assert!(users.len() == 1 && users[0].has_password);
    }
}
