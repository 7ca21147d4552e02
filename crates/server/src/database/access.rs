//! User, project and role of a request. Every change of a project's data checks
//! the role again in its own transaction, so a removed member can't change
//! anything.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Actor, Database, Refusal, Role, Scope, sql::NOW};

/// The user of a request and the project that the request is about.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Id of the user. Per-user limits and turns are counted by it.
    pub(crate) person: String,
    /// Name of the user.
    pub(crate) name: String,
    pub(crate) is_admin: bool,
    /// Scope of the token.
    pub(crate) scope: Scope,
    /// Id of the project. Experiments, data and models are looked up by it, and
    /// storage is counted by it.
    pub(crate) namespace: String,
    /// Name of the project.
    pub(crate) project: String,
    pub(crate) is_personal: bool,
    pub(crate) role: Role,
    /// Hash of the request's token.
    pub(crate) token: Vec<u8>,
    /// Address of the client.
    pub(crate) address: Option<IpAddr>,
}

/// Project that a request asks for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Personal,
    /// The project that the console session shows.
    OfSession,
    Named(String),
}

/// Returns the role of a user in a project; `None` for a disabled user.
pub(super) fn role_of(
    db: &Connection,
    project: &str,
    person: &str,
) -> rusqlite::Result<Option<Role>> {
    let role: Option<String> = db
        .prepare_cached(
            "SELECT role FROM members JOIN users ON users.id = user_id
             WHERE project_id = ?1 AND user_id = ?2 AND NOT disabled",
        )?
        .query_row([project, person], |row| row.get(0))
        .optional()?;
    Ok(role.as_deref().and_then(Role::parse))
}

impl Identity {
    /// Fails unless the user had at least this role when the request began.
    pub(crate) fn may(&self, needs: Role) -> Result<(), rusqlite::Error> {
        match self.role >= needs {
            true => Ok(()),
            false => Err(Refusal::Role {
                project: self.project.clone(),
                has: self.role,
                needs,
            }
            .into()),
        }
    }

    /// Fails unless the user still has at least this role in the project.
    pub(super) fn check(&self, db: &Connection, needs: Role) -> rusqlite::Result<Role> {
        let project = self.project.clone();
        match role_of(db, &self.namespace, &self.person)? {
            None => Err(Refusal::NotMember { project }.into()),
            Some(has) if has < needs => Err(Refusal::Role {
                project,
                has,
                needs,
            }
            .into()),
            Some(has) => Ok(has),
        }
    }

    /// Fails unless the user may change what `creator` has added.
    pub(super) fn check_own(&self, db: &Connection, creator: Option<&str>) -> rusqlite::Result<()> {
        let role = self.check(db, Role::Member)?;
        match role == Role::Owner || creator == Some(&self.person) {
            true => Ok(()),
            false => Err(Refusal::NotOwn {
                project: self.project.clone(),
            }
            .into()),
        }
    }

    /// Fails if the run is in the project, and the user may not change it. Returns
    /// its label (`experiment/run`), or `None` if the project has no such run.
    pub(super) fn check_own_run(
        &self,
        db: &Connection,
        id: i64,
    ) -> rusqlite::Result<Option<String>> {
        self.check(db, Role::Member)?;
        let found: Option<(String, Option<String>)> = db
            .prepare_cached(
                "SELECT experiments.name || '/' || runs.name, created_by
                 FROM runs JOIN experiments ON experiments.id = experiment_id
                 WHERE runs.id = ?1 AND project_id = ?2",
            )?
            .query_row(params![id, self.namespace], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((label, creator)) = found else {
            return Ok(None);
        };
        self.check_own(db, creator.as_deref())?;
        Ok(Some(label))
    }

    /// Returns the same user, for audit log entries about another project.
    pub(super) fn about(&self, project: &str) -> Self {
        Self {
            project: project.to_owned(),
            ..self.clone()
        }
    }

    /// Appends an entry about the project to the audit log.
    pub(super) fn note(
        &self,
        db: &Connection,
        action: &'static str,
        object: &str,
    ) -> rusqlite::Result<()> {
        Actor::from(self).note(db, action, object)
    }
}

impl From<&Identity> for Actor {
    fn from(user: &Identity) -> Self {
        Self {
            person: Some(user.name.clone()),
            project: Some(user.project.clone()),
            address: user.address,
        }
    }
}

impl Database {
    /// Returns the user of a token and the wanted project. `None` if the token is
    /// invalid. Fails with a [`Refusal`] if the user is not a member of the
    /// project.
    pub(crate) async fn identify(
        &self,
        hash: Vec<u8>,
        wanted: Wanted,
        address: Option<IpAddr>,
    ) -> rusqlite::Result<Option<Identity>> {
        self.read(move |db| {
            let found = db
                .prepare_cached(&format!(
                    "SELECT users.id, users.name, admin, scope, project_id
                     FROM tokens JOIN users ON users.id = user_id
                     WHERE hash = ?1 AND NOT disabled
                         AND (expires_at IS NULL OR expires_at > {NOW})"
                ))?
                .query_row([&hash], |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, bool>(2)?,
                        row.get::<_, String>(3)?,
                        row.get::<_, Option<String>>(4)?,
                    ))
                })
                .optional()?;
            let Some((person, name, is_admin, scope, shown)) = found else {
                return Ok(None);
            };
            let in_project = |condition: &str, value: &str| {
                db.prepare_cached(&format!(
                    "SELECT id, name, projects.user_id IS NOT NULL, role
                     FROM projects JOIN members ON project_id = id
                     WHERE {condition} AND members.user_id = ?2"
                ))?
                .query_row([value, &person], |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, bool>(2)?,
                        row.get::<_, String>(3)?,
                    ))
                })
                .optional()
            };
            let found = match (&wanted, shown) {
                (Wanted::Named(name), _) => in_project("name = ?1", name)?,
                // A user who was removed from the project sees the personal one.
                (Wanted::OfSession, Some(id)) => match in_project("id = ?1", &id)? {
                    None => in_project("id = ?1", &person)?,
                    found => found,
                },
                _ => in_project("id = ?1", &person)?,
            };
            let Some((namespace, project, is_personal, role)) = found else {
                let project = match wanted {
                    Wanted::Named(name) => name,
                    _ => name,
                };
                return Err(Refusal::NotMember { project }.into());
            };
            Ok(Some(Identity {
                person,
                name,
                is_admin,
                // An unknown scope or role, written by a newer version, gives the
                // fewest rights.
                scope: Scope::parse(&scope).unwrap_or(Scope::Read),
                namespace,
                project,
                is_personal,
                role: Role::parse(&role).unwrap_or(Role::Viewer),
                token: hash,
                address,
            }))
        })
        .await
    }

    /// Whether a user is a member of a project.
    pub(crate) async fn is_member(
        &self,
        project: String,
        person: String,
    ) -> rusqlite::Result<bool> {
        self.read(move |db| Ok(role_of(db, &project, &person)?.is_some()))
            .await
    }

    /// Whether the user of a long request still has access to its project: the
    /// token is valid, and the user is a member.
    pub(crate) async fn has_access(&self, user: &Identity) -> rusqlite::Result<bool> {
        let user = user.clone();
        self.read(move |db| {
            let is_good: bool = db
                .prepare_cached(&format!(
                    "SELECT EXISTS (SELECT 1 FROM tokens WHERE hash = ?1
                         AND (expires_at IS NULL OR expires_at > {NOW}))"
                ))?
                .query_row([&user.token], |row| row.get(0))?;
            Ok(is_good && role_of(db, &user.namespace, &user.person)?.is_some())
        })
        .await
    }

    /// Selects the project that a console session shows. Returns whether the user
    /// is a member of it.
    pub(crate) async fn show_project(
        &self,
        hash: Vec<u8>,
        project: String,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let changed = db.execute(
                "UPDATE tokens SET project_id = projects.id FROM projects, members
                 WHERE hash = ?1 AND projects.name = ?2 AND members.project_id = projects.id
                     AND members.user_id = tokens.user_id",
                params![hash, project],
            )?;
            Ok(changed == 1)
        })
        .await
    }
}
