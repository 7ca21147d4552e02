//! Shared projects and their members. A personal project is created and deleted
//! with its user, and has no other members.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Database, Identity, Refusal, Role, access::role_of, admin::is_admin, sql::NOW};
use crate::secret;

/// A project in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectRow {
    pub(crate) name: String,
    pub(crate) is_personal: bool,
    /// Role of the requesting user; `None` for an admin who is not a member.
    pub(crate) role: Option<Role>,
    pub(crate) created_at: String,
    pub(crate) members: u64,
}

/// A member of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberRow {
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// A project to read or manage.
struct Found {
    id: String,
    is_personal: bool,
    role: Option<Role>,
}

const ROW: &str = "projects.name, projects.user_id IS NOT NULL,
    (SELECT role FROM members WHERE project_id = projects.id AND user_id = ?1),
    projects.created_at, (SELECT count(*) FROM members WHERE project_id = projects.id)";

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ProjectRow> {
    let role: Option<String> = row.get(2)?;
    Ok(ProjectRow {
        name: row.get(0)?,
        is_personal: row.get(1)?,
        role: role.as_deref().and_then(Role::parse),
        created_at: row.get(3)?,
        members: row.get(4)?,
    })
}

fn missing(project: &str) -> rusqlite::Error {
    Refusal::NotMember {
        project: project.to_owned(),
    }
    .into()
}

fn conflict(reason: String) -> rusqlite::Error {
    Refusal::Conflict(reason).into()
}

/// Returns a project that `by` is a member of. An admin finds every project.
fn find(db: &Connection, by: &Identity, name: &str) -> rusqlite::Result<Found> {
    let found: Option<(String, bool)> = db
        .prepare_cached("SELECT id, user_id IS NOT NULL FROM projects WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (id, is_personal) = found.ok_or_else(|| missing(name))?;
    match role_of(db, &id, &by.person)? {
        None if !is_admin(db, by)? => Err(missing(name)),
        role => Ok(Found {
            id,
            is_personal,
            role,
        }),
    }
}

/// Returns a shared project that `by` may manage, as an owner or an admin.
fn managed(db: &Connection, by: &Identity, name: &str) -> rusqlite::Result<Found> {
    let found = find(db, by, name)?;
    if found.is_personal {
        return Err(conflict(format!(
            "`{name}` is a personal project, which has one member: create a project to share data \
             and runs"
        )));
    }
    match found.role {
        Some(has) if has < Role::Owner && !is_admin(db, by)? => Err(Refusal::Role {
            project: name.to_owned(),
            has,
            needs: Role::Owner,
        }
        .into()),
        _ => Ok(found),
    }
}

/// Fails if a user has reached the limit of created or owned shared projects.
/// Does not count the project `except`. Created projects count even if they were
/// given to another owner.
fn check_owned(
    db: &Connection,
    (person, name): (&str, &str),
    most: Option<u64>,
    except: Option<&str>,
) -> rusqlite::Result<()> {
    let Some(most) = most else { return Ok(()) };
    let owned: u64 = db
        .prepare_cached(
            "SELECT count(*) FROM projects
             WHERE user_id IS NULL AND id <> coalesce(?2, '') AND (creator_id = ?1
                 OR id IN (SELECT project_id FROM members WHERE user_id = ?1 AND role = 'owner'))",
        )?
        .query_row(params![person, except], |row| row.get(0))?;
    match owned >= most {
        false => Ok(()),
        true => Err(Refusal::Limit(format!(
            "projects: `{name}` has created or owns {owned}, and the limit is {most}: delete one, \
             or ask the operator for a higher `--max-projects`"
        ))
        .into()),
    }
}

/// Returns the role of a member, even of a disabled user.
fn member_role(db: &Connection, project: &str, person: &str) -> rusqlite::Result<Option<Role>> {
    let role: Option<String> = db
        .prepare_cached("SELECT role FROM members WHERE project_id = ?1 AND user_id = ?2")?
        .query_row([project, person], |row| row.get(0))
        .optional()?;
    Ok(role.as_deref().and_then(Role::parse))
}

/// Fails if the change would leave the project without an owner who is not
/// disabled.
fn check_not_last(
    db: &Connection,
    project: &str,
    (person, name): (&str, &str),
) -> rusqlite::Result<()> {
    let others: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM members JOIN users ON users.id = user_id
                 WHERE project_id = ?1 AND user_id <> ?2 AND role = 'owner' AND NOT disabled)",
        )?
        .query_row([project, person], |row| row.get(0))?;
    match others {
        true => Ok(()),
        false => Err(conflict(format!(
            "`{name}` is the only owner of the project: make somebody else an owner first"
        ))),
    }
}

/// Returns the id of a user.
fn user(db: &Connection, name: &str) -> rusqlite::Result<String> {
    let found = db
        .prepare_cached("SELECT id FROM users WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    found.ok_or_else(|| {
        Refusal::Missing(format!(
            "there is no user `{name}` on this server: check the name, or ask an admin to add the \
             user"
        ))
        .into()
    })
}

/// Fails if a shared project has this name, because no user can have the same
/// name.
pub(super) fn check_name_is_free(db: &Connection, user: &str) -> rusqlite::Result<()> {
    let taken: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM projects WHERE name = ?1 AND user_id IS NULL)",
        )?
        .query_row([user], |row| row.get(0))?;
    match taken {
        false => Ok(()),
        true => Err(conflict(format!(
            "`{user}` is the name of a project: choose another name for the user"
        ))),
    }
}

/// Fails if a user is the only owner of a shared project.
pub(super) fn check_owns_none_alone(db: &Connection, user: &str) -> rusqlite::Result<()> {
    let alone: Option<String> = db
        .query_row(
            "SELECT projects.name FROM members
                 JOIN projects ON projects.id = project_id
                 JOIN users ON users.id = members.user_id
             WHERE users.name = ?1 AND role = 'owner' AND projects.user_id IS NULL
                 AND NOT EXISTS (SELECT 1 FROM members AS others
                      JOIN users AS owners ON owners.id = others.user_id
                      WHERE others.project_id = projects.id AND others.role = 'owner'
                          AND others.user_id <> members.user_id AND NOT owners.disabled)
             ORDER BY projects.name LIMIT 1",
            [user],
            |row| row.get(0),
        )
        .optional()?;
    match alone {
        None => Ok(()),
        Some(project) => Err(conflict(format!(
            "`{user}` is the only owner of project `{project}`: make somebody else an owner, or \
             delete the project first"
        ))),
    }
}

impl Database {
    /// Creates a shared project owned by `by`. `most` is the limit of projects
    /// per user.
    pub(crate) async fn create_project(
        &self,
        by: Identity,
        name: String,
        most: Option<u64>,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            check_owned(&transaction, (&by.person, &by.name), most, None)?;
            let id = secret::new_id();
            let created = transaction.execute(
                &format!(
                    "INSERT INTO projects (id, name, creator_id, created_at)
                     VALUES (?1, ?2, ?3, {NOW}) ON CONFLICT (name) DO NOTHING"
                ),
                params![id, name, by.person],
            )?;
            if created == 0 {
                return Err(conflict(format!(
                    "`name`: a project or a user `{name}` exists already: choose another name"
                )));
            }
            transaction.execute(
                "INSERT INTO members (project_id, user_id, role) VALUES (?1, ?2, 'owner')",
                params![id, by.person],
            )?;
            by.about(&name)
                .note(&transaction, "project.create", &name)?;
            transaction.commit()
        })
        .await
    }

    /// Returns the projects that `by` is a member of, the personal one first. An
    /// admin may request all projects of the server.
    pub(crate) async fn projects(
        &self,
        by: &Identity,
        all: bool,
    ) -> rusqlite::Result<Vec<ProjectRow>> {
        let (person, all) = (by.person.clone(), all && by.is_admin);
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {ROW} FROM projects WHERE ?2 OR id IN (
                     SELECT project_id FROM members WHERE user_id = ?1)
                 ORDER BY id <> ?1, projects.name"
            ))?
            .query_map(params![person, all], row)?
            .collect()
        })
        .await
    }

    /// Returns a project and its members, if `by` is a member of it or an admin.
    pub(crate) async fn project(
        &self,
        by: &Identity,
        name: String,
    ) -> rusqlite::Result<(ProjectRow, Vec<MemberRow>)> {
        let by = by.clone();
        self.read(move |db| {
            let found = find(db, &by, &name)?;
            let project = db
                .prepare_cached(&format!("SELECT {ROW} FROM projects WHERE id = ?2"))?
                .query_row([&by.person, &found.id], row)?;
            let members = db
                .prepare_cached(
                    "SELECT name, role FROM members JOIN users ON users.id = user_id
                     WHERE project_id = ?1 ORDER BY name",
                )?
                .query_map([&found.id], |row| {
                    let role: String = row.get(1)?;
                    Ok(MemberRow {
                        name: row.get(0)?,
                        role: Role::parse(&role).unwrap_or(Role::Viewer),
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok((project, members))
        })
        .await
    }

    /// Adds a user to a shared project, or changes the user's role.
    pub(crate) async fn set_member(
        &self,
        by: Identity,
        project: String,
        name: String,
        role: Role,
        most: Option<u64>,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let found = managed(&transaction, &by, &project)?;
            let person = user(&transaction, &name)?;
            match (member_role(&transaction, &found.id, &person)?, role) {
                (Some(had), wanted) if had == wanted => return Ok(()),
                (_, Role::Owner) => {
                    check_owned(&transaction, (&person, &name), most, Some(&found.id))?;
                }
                (Some(Role::Owner), _) => {
                    check_not_last(&transaction, &found.id, (&person, &name))?;
                }
                _ => {}
            }
            transaction.execute(
                "INSERT INTO members (project_id, user_id, role) VALUES (?1, ?2, ?3)
                 ON CONFLICT (project_id, user_id) DO UPDATE SET role = excluded.role",
                params![found.id, person, role.as_str()],
            )?;
            let object = format!("{name}: {}", role.as_str());
            by.about(&project)
                .note(&transaction, "member.set", &object)?;
            transaction.commit()
        })
        .await
    }

    /// Removes a user from a shared project. Members may remove themselves.
    pub(crate) async fn remove_member(
        &self,
        by: Identity,
        project: String,
        name: String,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let found = match by.name == name {
                true => find(&transaction, &by, &project)?,
                false => managed(&transaction, &by, &project)?,
            };
            if found.is_personal {
                return Err(conflict(format!(
                    "`{project}` is a personal project: its user can't leave it"
                )));
            }
            let person = user(&transaction, &name)?;
            match member_role(&transaction, &found.id, &person)? {
                None => {
                    let reason = format!("`{name}` is not a member of project `{project}`");
                    return Err(Refusal::Missing(reason).into());
                }
                Some(Role::Owner) => check_not_last(&transaction, &found.id, (&person, &name))?,
                Some(_) => {}
            }
            transaction.execute(
                "DELETE FROM members WHERE project_id = ?1 AND user_id = ?2",
                params![found.id, person],
            )?;
            by.about(&project)
                .note(&transaction, "member.remove", &name)?;
            transaction.commit()
        })
        .await
    }

    /// Deletes a shared project that has no experiments and artifacts.
    pub(crate) async fn delete_project(
        &self,
        by: Identity,
        project: String,
    ) -> rusqlite::Result<()> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let found = managed(&transaction, &by, &project)?;
            let (experiments, artifacts): (u64, u64) = transaction.query_row(
                "SELECT (SELECT count(*) FROM experiments WHERE project_id = ?1),
                     (SELECT count(*) FROM artifacts WHERE project_id = ?1)",
                [&found.id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if experiments + artifacts > 0 {
                return Err(conflict(format!(
                    "project `{project}` is not empty: it has {experiments} experiments and \
                     {artifacts} data sets and models. Delete them first"
                )));
            }
            transaction.execute("DELETE FROM projects WHERE id = ?1", [&found.id])?;
            by.about(&project)
                .note(&transaction, "project.delete", &project)?;
            transaction.commit()
        })
        .await
    }
}

#[cfg(test)]
mod tests;
