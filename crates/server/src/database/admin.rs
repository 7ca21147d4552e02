//! Queries and changes by admins: users, storage per project, and open runs.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Actor, Database, Identity, Refusal, run_rows::OPEN, sql::bounds, usage};

/// A user in the list for admins.
#[derive(Clone, Debug)]
pub(crate) struct AccountRow {
    pub(crate) name: String,
    pub(crate) is_admin: bool,
    pub(crate) is_disabled: bool,
    pub(crate) has_password: bool,
    pub(crate) created_at: String,
    /// Time when one of the user's tokens was last used.
    pub(crate) last_used_at: Option<String>,
    pub(crate) sessions: u64,
    pub(crate) tokens: u64,
    pub(crate) open_runs: u64,
    /// The user's own limit of open runs; `None` for the server's.
    pub(crate) max_open_runs: Option<u64>,
}

/// Storage of a project.
#[derive(Clone, Debug)]
pub(crate) struct StorageRow {
    pub(crate) name: String,
    pub(crate) is_personal: bool,
    pub(crate) members: u64,
    pub(crate) stored: u64,
    /// The project's own limit of stored bytes; `None` for the server's.
    pub(crate) max_stored: Option<u64>,
}

/// A waiting or training run.
#[derive(Clone, Debug)]
pub(crate) struct OpenRun {
    pub(crate) id: i64,
    pub(crate) project: String,
    pub(crate) experiment: String,
    pub(crate) run: String,
    /// Name of the user who started it; `None` if the user was deleted.
    pub(crate) person: Option<String>,
    pub(crate) created_at: String,
    /// Name of its job; `None` if it waits for one.
    pub(crate) job: Option<String>,
    pub(crate) has_worker: bool,
    pub(crate) attempts: u32,
    /// Milliseconds since 1970.
    pub(crate) started_at: Option<i64>,
}

/// Change of a user's account. `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccountChange {
    pub(crate) is_admin: Option<bool>,
    pub(crate) is_disabled: Option<bool>,
    /// The user's own limit of open runs; `Some(None)` for the server's.
    pub(crate) max_open_runs: Option<Option<u64>>,
    /// Whether to end all sessions.
    pub(crate) end_sessions: bool,
}

/// Author of a change of an account: an admin, or the operator on the command
/// line.
#[derive(Clone, Debug)]
pub(crate) enum Manager {
    Admin(Identity),
    Operator,
}

impl Manager {
    /// Fails if the author was an admin but is not one any more.
    pub(super) fn check(&self, db: &Connection) -> rusqlite::Result<Actor> {
        let Self::Admin(user) = self else {
            return Ok(Actor::operator());
        };
        match is_admin(db, user)? {
            true => Ok(Actor::user(&user.name, user.address)),
            false => Err(Refusal::NoAdmin.into()),
        }
    }
}

/// Whether a user is currently an admin.
pub(super) fn is_admin(db: &Connection, user: &Identity) -> rusqlite::Result<bool> {
    let admin: Option<bool> = db
        .prepare_cached("SELECT admin FROM users WHERE id = ?1 AND NOT disabled")?
        .query_row([&user.person], |row| row.get(0))
        .optional()?;
    Ok(admin.unwrap_or_default())
}

/// Fails if the change would leave the server without an admin. `goes` means that
/// the user is deleted. The only user may be deleted, since the next one becomes
/// an admin.
pub(super) fn check_not_last_admin(
    db: &Connection,
    name: &str,
    goes: bool,
) -> rusqlite::Result<()> {
    let last: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM users WHERE name = ?1 AND admin AND NOT disabled)
             AND NOT EXISTS (SELECT 1 FROM users WHERE name <> ?1 AND admin AND NOT disabled)
             AND (NOT ?2 OR EXISTS (SELECT 1 FROM users WHERE name <> ?1))",
        params![name, goes],
        |row| row.get(0),
    )?;
    match last {
        false => Ok(()),
        true => Err(Refusal::Conflict(format!(
            "`{name}` is the only admin of the server: make another user an admin first"
        ))
        .into()),
    }
}

fn no_user(name: &str) -> rusqlite::Error {
    Refusal::Missing(format!("there is no user `{name}`: check the name")).into()
}

impl Database {
    /// Returns `limit` users from number `offset` on, by name, and the number of
    /// all users.
    pub(crate) async fn accounts(
        &self,
        page: (u64, u64),
    ) -> rusqlite::Result<(Vec<AccountRow>, u64)> {
        let (offset, limit) = bounds(Some(page));
        self.read(move |db| {
            let total = db.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
            let rows = db
                .prepare_cached(&format!(
                    "SELECT name, admin, disabled, password IS NOT NULL, created_at,
                         (SELECT max(last_used_at) FROM tokens WHERE user_id = users.id),
                         (SELECT count(*) FROM tokens WHERE user_id = users.id
                             AND kind = 'session'),
                         (SELECT count(*) FROM tokens WHERE user_id = users.id
                             AND kind <> 'session'),
                         (SELECT count(*) FROM runs WHERE created_by = users.id AND {OPEN}),
                         max_open_runs
                     FROM users ORDER BY name LIMIT ?1 OFFSET ?2"
                ))?
                .query_map([limit, offset], |row| {
                    Ok(AccountRow {
                        name: row.get(0)?,
                        is_admin: row.get(1)?,
                        is_disabled: row.get(2)?,
                        has_password: row.get(3)?,
                        created_at: row.get(4)?,
                        last_used_at: row.get(5)?,
                        sessions: row.get(6)?,
                        tokens: row.get(7)?,
                        open_runs: row.get(8)?,
                        max_open_runs: row.get(9)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }

    /// Changes a user. Disabling ends the user's sessions.
    pub(crate) async fn change_account(
        &self,
        by: Manager,
        name: String,
        change: AccountChange,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let actor = by.check(&transaction)?;
            let id: Option<String> = transaction
                .query_row("SELECT id FROM users WHERE name = ?1", [&name], |row| {
                    row.get(0)
                })
                .optional()?;
            let id = id.ok_or_else(|| no_user(&name))?;
            if change.is_admin == Some(false) || change.is_disabled == Some(true) {
                check_not_last_admin(&transaction, &name, false)?;
            }
            if let Some(admin) = change.is_admin {
                transaction.execute(
                    "UPDATE users SET admin = ?2 WHERE id = ?1",
                    params![id, admin],
                )?;
                let action = if admin {
                    "user.admin"
                } else {
                    "user.admin.revoke"
                };
                actor.note(&transaction, action, &name)?;
            }
            if let Some(disabled) = change.is_disabled {
                transaction.execute(
                    "UPDATE users SET disabled = ?2 WHERE id = ?1",
                    params![id, disabled],
                )?;
                let action = if disabled {
                    "user.disable"
                } else {
                    "user.enable"
                };
                actor.note(&transaction, action, &name)?;
            }
            if let Some(most) = change.max_open_runs {
                transaction.execute(
                    "UPDATE users SET max_open_runs = ?2 WHERE id = ?1",
                    params![id, most],
                )?;
                let most = most.map_or("the server's limit".to_owned(), |most| most.to_string());
                let object = format!("{name}: open runs: {most}");
                actor.note(&transaction, "user.quota", &object)?;
            }
            if change.end_sessions || change.is_disabled == Some(true) {
                transaction.execute(
                    "DELETE FROM tokens WHERE user_id = ?1 AND kind = 'session'",
                    [&id],
                )?;
                actor.note(&transaction, "user.sessions.end", &name)?;
            }
            transaction.commit()
        })
        .await
    }

    /// Returns the storage of `limit` projects from number `offset` on, the largest
    /// first, and the number of all projects.
    pub(crate) async fn storage(
        &self,
        page: (u64, u64),
    ) -> rusqlite::Result<(Vec<StorageRow>, u64)> {
        let (offset, limit) = bounds(Some(page));
        self.read(move |db| {
            let total = db.query_row("SELECT count(*) FROM projects", [], |row| row.get(0))?;
            let rows = db
                .prepare_cached(&format!(
                    "SELECT name, user_id IS NOT NULL,
                         (SELECT count(*) FROM members WHERE project_id = projects.id),
                         {} AS stored, max_stored
                     FROM projects ORDER BY stored DESC, name LIMIT ?1 OFFSET ?2",
                    usage::STORED.replace("?1", "projects.id")
                ))?
                .query_map([limit, offset], |row| {
                    Ok(StorageRow {
                        name: row.get(0)?,
                        is_personal: row.get(1)?,
                        members: row.get(2)?,
                        stored: row.get(3)?,
                        max_stored: row.get(4)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }

    /// Sets a project's own limit of stored bytes; `None` for the server's.
    pub(crate) async fn set_max_stored(
        &self,
        by: Manager,
        project: String,
        most: Option<u64>,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let actor = by.check(&transaction)?;
            let changed = transaction.execute(
                "UPDATE projects SET max_stored = ?2 WHERE name = ?1",
                params![project, most],
            )?;
            if changed == 0 {
                let reason = format!("there is no project `{project}`: check the name");
                return Err(Refusal::Missing(reason).into());
            }
            let most = most.map_or("the server's limit".to_owned(), |most| {
                format!("{} MiB", most >> 20)
            });
            let object = format!("{project}: storage: {most}");
            actor.note(&transaction, "project.quota", &object)?;
            transaction.commit()
        })
        .await
    }

    /// Returns up to `limit` waiting and training runs of all users, oldest
    /// first, and the number of all such runs.
    pub(crate) async fn open_runs(&self, limit: u64) -> rusqlite::Result<(Vec<OpenRun>, u64)> {
        let (_, limit) = bounds(Some((0, limit)));
        self.read(move |db| {
            let count = format!("SELECT count(*) FROM runs WHERE {OPEN}");
            let total = db.query_row(&count, [], |row| row.get(0))?;
            let rows = db
                .prepare_cached(&format!(
                    "SELECT runs.id, projects.name, experiments.name, runs.name, users.name,
                         runs.created_at, job, worker_token IS NOT NULL, attempts, started_at
                     FROM runs JOIN experiments ON experiments.id = experiment_id
                         JOIN projects ON projects.id = project_id
                         LEFT JOIN users ON users.id = created_by
                     WHERE {OPEN} ORDER BY job IS NULL, runs.id LIMIT ?1"
                ))?
                .query_map([limit], |row| {
                    Ok(OpenRun {
                        id: row.get(0)?,
                        project: row.get(1)?,
                        experiment: row.get(2)?,
                        run: row.get(3)?,
                        person: row.get(4)?,
                        created_at: row.get(5)?,
                        job: row.get(6)?,
                        has_worker: row.get(7)?,
                        attempts: row.get(8)?,
                        started_at: row.get(9)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{NewToken, Scope, in_memory, with_run};

    fn reason<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> Refusal {
        Refusal::of(&result.unwrap_err()).unwrap().clone()
    }

    #[tokio::test]
    async fn admins_change_accounts_but_not_the_last_admin() {
        let db = in_memory();
        let (root, ada) = (db.identity_of("root").await, db.identity_of("ada").await);
        assert!(root.is_admin && !ada.is_admin, "the first user is an admin");
        let admin = |by: &Identity| Manager::Admin(by.clone());
        let change = |by: Manager, name: &str, change: AccountChange| {
            db.change_account(by, name.to_owned(), change)
        };
        let disable = |on| AccountChange {
            is_disabled: Some(on),
            ..AccountChange::default()
        };
        let refused = change(admin(&ada), "root", disable(true)).await;
        assert_eq!(reason(refused), Refusal::NoAdmin);
        for last in [
            disable(true),
            AccountChange {
                is_admin: Some(false),
                ..AccountChange::default()
            },
        ] {
            let refused = change(admin(&root), "root", last).await;
            assert!(matches!(reason(refused), Refusal::Conflict(_)));
        }
        let refused = change(admin(&root), "nobody", disable(true)).await;
        assert!(matches!(reason(refused), Refusal::Missing(_)));
        change(admin(&root), "ada", disable(true)).await.unwrap();
        assert!(
            !db.is_member(ada.namespace.clone(), ada.person.clone())
                .await
                .unwrap(),
            "a disabled user has lost access"
        );
        let new = NewToken {
            name: "late".into(),
            kind: "session",
            scope: Scope::All,
            days: None,
            address: None,
        };
        let refused = db.add_token(ada.person.clone(), new).await;
        assert_eq!(reason(refused), Refusal::Disabled("ada".into()));
        change(admin(&root), "ada", disable(false)).await.unwrap();
        let quota = AccountChange {
            is_admin: Some(true),
            max_open_runs: Some(Some(3)),
            end_sessions: true,
            ..AccountChange::default()
        };
        change(Manager::Operator, "ada", quota).await.unwrap();
        change(admin(&ada), "root", disable(true)).await.unwrap();
        let (rows, total) = db.accounts((0, 10)).await.unwrap();
        assert_eq!(total, 2);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.is_admin, row.is_disabled))
            .collect();
        assert_eq!(shown, [("ada", true, false), ("root", true, true)]);
        assert_eq!(rows[0].max_open_runs, Some(3));
    }

    #[tokio::test]
    async fn storage_and_open_runs_of_all_users_are_listed() {
        let db = in_memory();
        with_run(&db, "r").await;
        let root = db.identity_of("u").await;
        let alone = AccountChange {
            is_disabled: Some(true),
            ..AccountChange::default()
        };
        let refused = db.change_account(Manager::Admin(root.clone()), "u".into(), alone);
        assert!(matches!(reason(refused.await), Refusal::Conflict(_)));
        let set = db.set_max_stored(Manager::Admin(root.clone()), "u".into(), Some(5 << 20));
        set.await.unwrap();
        let refused = db.set_max_stored(Manager::Operator, "none".into(), None);
        assert!(matches!(reason(refused.await), Refusal::Missing(_)));
        let (rows, total) = db.storage((0, 10)).await.unwrap();
        assert_eq!((rows.len(), total), (1, 1));
        assert_eq!(
            (rows[0].stored, rows[0].max_stored, rows[0].members),
            (0, Some(5 << 20), 1)
        );
        let (runs, total) = db.open_runs(10).await.unwrap();
        assert_eq!((runs.len(), total), (1, 1));
        assert_eq!(
            (runs[0].run.as_str(), runs[0].person.as_deref()),
            ("r", Some("u"))
        );
        assert_eq!(db.open_runs(0).await.unwrap().1, 1);
    }
}
