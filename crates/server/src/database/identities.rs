//! Accounts at the sign-in provider, and the users they are linked to.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Actor, Database, Identity, Refusal,
    projects::check_name_is_free,
    sql::{NOW, is_duplicate},
};
use crate::{oidc::Subject, secret};

/// Result of creating or linking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    Yes,
    /// The user name is taken.
    NameTaken,
    /// The provider's account is linked to another user.
    Already,
}

/// Links a provider's account to a user. Returns false if it is already linked.
fn link(db: &Connection, user_id: &str, who: &Subject) -> rusqlite::Result<bool> {
    let linked = db.execute(
        &format!(
            "INSERT INTO identities (issuer, subject, user_id, created_at)
             VALUES (?1, ?2, ?3, {NOW}) ON CONFLICT DO NOTHING"
        ),
        params![who.issuer, who.subject, user_id],
    )?;
    Ok(linked == 1)
}

/// Appends an entry about a user's own account to the audit log.
fn note(
    db: &Connection,
    user_id: &str,
    action: &'static str,
    who: &Subject,
    address: Option<IpAddr>,
) -> rusqlite::Result<()> {
    let name: String = db.query_row("SELECT name FROM users WHERE id = ?1", [user_id], |row| {
        row.get(0)
    })?;
    let object = format!("{} {}", who.issuer, who.subject);
    Actor::user(&name, address).note(db, action, &object)
}

impl Database {
    /// Returns the id of the user linked to a provider's account, and whether the
    /// user is disabled.
    pub(crate) async fn user_of_identity(
        &self,
        who: &Subject,
    ) -> rusqlite::Result<Option<(String, bool)>> {
        let who = who.clone();
        self.read(move |db| {
            db.prepare_cached(
                "SELECT users.id, disabled FROM identities JOIN users ON users.id = user_id
                 WHERE issuer = ?1 AND subject = ?2",
            )?
            .query_row([who.issuer, who.subject], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
        })
        .await
    }

    /// Makes a user an admin, as a member of one of the provider's admin groups.
    pub(crate) async fn admit_admin(
        &self,
        user_id: String,
        who: &Subject,
        from: Option<IpAddr>,
    ) -> rusqlite::Result<()> {
        let who = who.clone();
        self.write(move |db| {
            let transaction = db.transaction()?;
            let changed = transaction.execute(
                "UPDATE users SET admin = 1 WHERE id = ?1 AND NOT admin",
                [&user_id],
            )?;
            if changed == 1 {
                note(&transaction, &user_id, "user.admin", &who, from)?;
            }
            transaction.commit()
        })
        .await
    }

    /// Creates a user for a provider's account. Returns the user's id.
    pub(crate) async fn add_user_of_identity(
        &self,
        name: String,
        who: &Subject,
        from: Option<IpAddr>,
    ) -> rusqlite::Result<(Linked, String)> {
        let who = who.clone();
        self.write(move |db| {
            let transaction = db.transaction()?;
            let id = secret::new_id();
            if let Err(error) = check_name_is_free(&transaction, &name) {
                return match Refusal::of(&error) {
                    // A project has this name, so the user must choose another
                    // one.
                    Some(_) => Ok((Linked::NameTaken, id)),
                    None => Err(error),
                };
            }
            let added = transaction.execute(
                &format!("INSERT INTO users (id, name, created_at) VALUES (?1, ?2, {NOW})"),
                params![id, name],
            );
            match added {
                Err(error) if is_duplicate(&error) => return Ok((Linked::NameTaken, id)),
                added => added?,
            };
            if !link(&transaction, &id, &who)? {
                return Ok((Linked::Already, id));
            }
            note(&transaction, &id, "user.add", &who, from)?;
            transaction.commit()?;
            Ok((Linked::Yes, id))
        })
        .await
    }

    /// Links a provider's account to a user who has just entered the correct
    /// password.
    pub(crate) async fn link_identity(
        &self,
        user_id: String,
        who: &Subject,
        from: Option<IpAddr>,
    ) -> rusqlite::Result<Linked> {
        let who = who.clone();
        self.write(move |db| {
            let transaction = db.transaction()?;
            if !link(&transaction, &user_id, &who)? {
                return Ok(Linked::Already);
            }
            note(&transaction, &user_id, "user.link", &who, from)?;
            transaction.commit()?;
            Ok(Linked::Yes)
        })
        .await
    }

    /// Returns the times at which a user's accounts of the provider were linked.
    pub(crate) async fn identities(&self, user_id: String) -> rusqlite::Result<Vec<String>> {
        self.read(move |db| {
            db.prepare_cached("SELECT created_at FROM identities WHERE user_id = ?1 ORDER BY 1")?
                .query_map([user_id], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Unlinks a user's accounts of the provider.
    pub(crate) async fn unlink_identities(&self, by: Identity) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let ended =
                transaction.execute("DELETE FROM identities WHERE user_id = ?1", [&by.person])?;
            if ended > 0 {
                by.note(&transaction, "user.unlink", &by.name)?;
            }
            transaction.commit()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::in_memory;

    fn who(subject: &str) -> Subject {
        Subject {
            issuer: "https://login.example".into(),
            subject: subject.into(),
            names: Vec::new(),
            is_admin: false,
        }
    }

    #[tokio::test]
    async fn a_provider_account_belongs_to_one_user() {
        let db = in_memory();
        let own = db.identity_of("ada").await;
        let taken = db.add_user_of_identity("ada".into(), &who("a"), None).await;
        assert_eq!(taken.unwrap().0, Linked::NameTaken);
        assert_eq!(db.user_of_identity(&who("a")).await.unwrap(), None);
        // The name of a project is taken too.
        db.disturb("INSERT INTO projects (id, name, created_at) VALUES ('p', 'team', '')")
            .await;
        let taken = db
            .add_user_of_identity("team".into(), &who("a"), None)
            .await;
        assert_eq!(taken.unwrap().0, Linked::NameTaken);
        let (linked, eve) = db
            .add_user_of_identity("eve".into(), &who("e"), None)
            .await
            .unwrap();
        assert_eq!(linked, Linked::Yes);
        assert_eq!(
            db.user_of_identity(&who("e")).await.unwrap(),
            Some((eve, false))
        );
        // The identity can't be linked to another user, and a failed attempt creates no user.
        let (ada, _) = db.password("ada".into()).await.unwrap().unwrap();
        let again = db
            .link_identity(ada.clone(), &who("e"), None)
            .await
            .unwrap();
        assert_eq!(again, Linked::Already);
        let again = db
            .add_user_of_identity("mallory".into(), &who("e"), None)
            .await;
        assert_eq!(again.unwrap().0, Linked::Already);
        assert!(db.password("mallory".into()).await.unwrap().is_none());
        let linked = db
            .link_identity(ada.clone(), &who("a"), None)
            .await
            .unwrap();
        assert_eq!(linked, Linked::Yes);
        assert_eq!(db.identities(ada.clone()).await.unwrap().len(), 1);
        db.unlink_identities(own).await.unwrap();
        assert_eq!(db.user_of_identity(&who("a")).await.unwrap(), None);
    }
}
