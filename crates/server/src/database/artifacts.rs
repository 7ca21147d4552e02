//! Artifacts: pushed data, and models from runs. Their bytes are in the store,
//! under the SHA-256 of the content.

use finetuner_protocol::{AnnotationChange, Annotations};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Annotated, Database, Identity, Refusal, Role, annotations,
    contents::has_content,
    run_rows::OPEN,
    sql::{NOW, bounds},
    usage,
};

/// An artifact.
#[derive(Clone, Debug)]
pub(crate) struct ArtifactRow {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) kind: String,
    pub(crate) public: bool,
    pub(crate) meta_data: String,
    pub(crate) content: String,
    pub(crate) size: u64,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) annotations: Annotations,
    /// User who pushed it or started its run; `None` if the user was deleted.
    pub(crate) created_by: Option<String>,
    /// Id of its project.
    pub(crate) project: String,
}

/// A change of an artifact's fields. `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArtifactChange {
    pub(crate) name: Option<String>,
    pub(crate) meta_data: Option<String>,
    pub(crate) public: Option<bool>,
    pub(crate) annotations: AnnotationChange,
}

/// Selects an artifact by its id or its name.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Id(String),
    Name(String),
}

/// An artifact to create or to overwrite.
#[derive(Clone, Debug)]
pub(crate) struct NewArtifact {
    pub(crate) id: String,
    pub(crate) project_id: String,
    /// User who pushed it or started its run.
    pub(crate) created_by: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) kind: String,
    pub(crate) public: bool,
    pub(crate) meta_data: String,
    pub(crate) content: String,
    pub(crate) size: u64,
}

/// Result of storing an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Artifact {
        id: String,
        /// Content that has lost its last reference.
        orphan: Option<String>,
    },
    /// Size that the project would have, and its limit, in bytes.
    OverQuota(u64, u64),
}

const COLUMNS: &str = "artifacts.id, artifacts.name, type, public, meta_data, content, size,
    artifacts.created_at, updated_at, artifacts.tags,
    artifacts.note, artifacts.created_by, project_id";

fn artifact(row: &Row<'_>) -> rusqlite::Result<ArtifactRow> {
    Ok(ArtifactRow {
        id: row.get(0)?,
        name: row.get(1)?,
        kind: row.get(2)?,
        public: row.get(3)?,
        meta_data: row.get(4)?,
        content: row.get(5)?,
        size: row.get(6)?,
        created_at: row.get(7)?,
        updated_at: row.get(8)?,
        annotations: annotations::annotations(row, 9, 10)?,
        created_by: row.get(11)?,
        project: row.get(12)?,
    })
}

/// Returns an artifact as members of a project see it. Only members of the
/// artifact's own project see tags and note, even if it is public.
fn seen_from(project: &str, mut artifact: ArtifactRow) -> ArtifactRow {
    if artifact.project != project {
        artifact.annotations = Annotations::default();
    }
    artifact
}

/// Returns the content of a changed or deleted row if it has no reference left.
fn orphan(db: &Connection, content: String) -> rusqlite::Result<Option<String>> {
    Ok((!has_content(db, &content)?).then_some(content))
}

/// Fails if the artifact is in the project and `by` may not change it.
fn check_owner(
    db: &Connection,
    by: &Identity,
    id: Option<&str>,
    name: Option<&str>,
) -> rusqlite::Result<()> {
    let creators = db
        .prepare_cached(
            "SELECT created_by FROM artifacts WHERE project_id = ?1 AND (id = ?2 OR name = ?3)",
        )?
        .query_map(params![by.namespace, id, name], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<Option<String>>>>()?;
    let mut creators = creators.iter();
    creators.try_for_each(|creator| by.check_own(db, creator.as_deref()))
}

/// Fails if an open run has reserved this name for the data that it creates. Such a
/// name ends with the id of the run's artifact.
fn check_not_reserved(db: &Connection, project: &str, name: Option<&str>) -> rusqlite::Result<()> {
    let Some((_, id)) = name.and_then(|name| name.rsplit_once('-')) else {
        return Ok(());
    };
    let run: Option<String> = db
        .prepare_cached(&format!(
            "SELECT experiments.name || '/' || runs.name
             FROM runs JOIN experiments ON experiments.id = experiment_id
             WHERE {OPEN} AND project_id = ?1 AND artifact_id = ?2"
        ))?
        .query_row([project, id], |row| row.get(0))
        .optional()?;
    match run {
        None => Ok(()),
        Some(run) => Err(Refusal::Conflict(format!(
            "`name`: the run `{run}` has reserved this name for its data: use another name, \
             or wait until the run has ended"
        ))
        .into()),
    }
}

/// Like [`Database::put_artifact`], within the caller's transaction.
pub(super) fn put(db: &Connection, new: NewArtifact) -> rusqlite::Result<(String, Option<String>)> {
    let before: Option<(String, String)> = db
        .query_row(
            "SELECT id, content FROM artifacts WHERE project_id = ?1 AND (id = ?2 OR name = ?3)",
            params![new.project_id, new.id, new.name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let id = before.as_ref().map_or(&new.id, |(id, _)| id).clone();
    let written = db.execute(
        &format!(
            "INSERT INTO artifacts (id, project_id, name, type, public, meta_data, content,
                 size, created_by, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, {NOW}, {NOW})
             ON CONFLICT (id) DO UPDATE SET name = coalesce(excluded.name, name),
                 type = excluded.type, public = excluded.public,
                 meta_data = excluded.meta_data, content = excluded.content,
                 size = excluded.size, updated_at = excluded.updated_at
             WHERE project_id = excluded.project_id"
        ),
        params![
            id,
            new.project_id,
            new.name,
            new.kind,
            new.public,
            new.meta_data,
            new.content,
            new.size,
            new.created_by
        ],
    )?;
    if written == 0 {
        // The id belongs to an artifact of another project.
        return Err(rusqlite::Error::QueryReturnedNoRows);
    }
    let orphan = match before {
        Some((_, content)) => orphan(db, content)?,
        None => None,
    };
    Ok((id, orphan))
}

/// Like [`Database::put_artifact`], within the caller's transaction. The caller commits
/// if an artifact was stored.
fn put_for_member(
    db: &Connection,
    by: &Identity,
    new: NewArtifact,
    most: Option<u64>,
) -> rusqlite::Result<Put> {
    by.check(db, Role::Member)?;
    check_owner(db, by, Some(&new.id), new.name.as_deref())?;
    check_not_reserved(db, &new.project_id, new.name.as_deref())?;
    let (project_id, public) = (new.project_id.clone(), new.public);
    let object = new.name.clone().unwrap_or_else(|| new.id.clone());
    let was_public: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM artifacts
             WHERE project_id = ?1 AND (id = ?2 OR name = ?3) AND public)",
        params![project_id, new.id, new.name],
        |row| row.get(0),
    )?;
    let (id, orphan) = put(db, new)?;
    if let Some(most) = usage::max_stored(db, &project_id, most)? {
        let stored = usage::stored(db, &project_id)?;
        if stored > most {
            return Ok(Put::OverQuota(stored, most));
        }
    }
    match (was_public, public) {
        (false, true) => by.note(db, "data.publish", &object)?,
        (true, false) => by.note(db, "data.unpublish", &object)?,
        _ => {}
    }
    Ok(Put::Artifact { id, orphan })
}

/// Filter and order of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArtifactList {
    /// Only artifacts of this type.
    pub(crate) kind: Option<String>,
    /// Only artifacts whose names contain this.
    pub(crate) name: Option<String>,
    /// Only artifacts with this tag.
    pub(crate) tag: Option<String>,
    /// Descending order: the newest, or the last name, first.
    pub(crate) newest_first: bool,
    /// Order by name instead of by creation time.
    pub(crate) by_name: bool,
    /// Offset and limit.
    pub(crate) page: (u64, u64),
}

impl Database {
    /// Stores an artifact for a member of its project. Overwrites an artifact
    /// with the same name or id, which keeps its id. Stores nothing if the
    /// project would exceed its limit: its own, or `most` if it has none.
    pub(crate) async fn put_artifact(
        &self,
        by: Identity,
        new: NewArtifact,
        most: Option<u64>,
    ) -> rusqlite::Result<Put> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let put = put_for_member(&transaction, &by, new, most)?;
            if matches!(put, Put::Artifact { .. }) {
                transaction.commit()?;
            }
            Ok(put)
        })
        .await
    }

    /// Like [`Database::put_artifact`], unless the project has an artifact of that
    /// name, which stays: then it returns none.
    pub(crate) async fn add_artifact(
        &self,
        by: Identity,
        new: NewArtifact,
        most: Option<u64>,
    ) -> rusqlite::Result<Option<Put>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Member)?;
            let is_taken: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM artifacts WHERE project_id = ?1 AND name = ?2)",
                params![new.project_id, new.name],
                |row| row.get(0),
            )?;
            if is_taken {
                return Ok(None);
            }
            let put = put_for_member(&transaction, &by, new, most)?;
            if matches!(put, Put::Artifact { .. }) {
                transaction.commit()?;
            }
            Ok(Some(put))
        })
        .await
    }

    /// Returns the artifact with this id if it is the project's own or public.
    pub(crate) async fn artifact(
        &self,
        project: String,
        id: String,
    ) -> rusqlite::Result<Option<ArtifactRow>> {
        self.read(move |db| {
            db.query_row(
                &format!(
                    "SELECT {COLUMNS} FROM artifacts WHERE id = ?1 AND (project_id = ?2 OR public)"
                ),
                params![id, project],
                |row| Ok(seen_from(&project, artifact(row)?)),
            )
            .optional()
        })
        .await
    }

    /// Returns the artifact with this name: the project's own, or a public one of
    /// another project as `project/name`.
    pub(crate) async fn artifact_by_name(
        &self,
        project: String,
        name: String,
    ) -> rusqlite::Result<Option<ArtifactRow>> {
        self.read(move |db| {
            let (owner, name) = match name.split_once('/') {
                Some((owner, name)) => (Some(owner), name),
                None => (None, name.as_str()),
            };
            db.query_row(
                &format!(
                    "SELECT {COLUMNS} FROM artifacts JOIN projects ON projects.id = project_id
                     WHERE artifacts.name = ?1
                     AND (project_id = ?2 AND coalesce(?3 = projects.name, 1)
                          OR projects.name = ?3 AND public)"
                ),
                params![name, project, owner],
                |row| Ok(seen_from(&project, artifact(row)?)),
            )
            .optional()
        })
        .await
    }

    /// Returns an artifact if it is the project's own or public.
    pub(crate) async fn find_artifact(
        &self,
        project: String,
        which: Which,
    ) -> rusqlite::Result<Option<ArtifactRow>> {
        match which {
            Which::Id(id) => self.artifact(project, id).await,
            Which::Name(name) => self.artifact_by_name(project, name).await,
        }
    }

    /// Returns a page of the project's artifacts, and the number of all that
    /// match.
    pub(crate) async fn artifacts(
        &self,
        project: String,
        list: ArtifactList,
    ) -> rusqlite::Result<(Vec<ArtifactRow>, u64)> {
        let (offset, limit) = bounds(Some(list.page));
        self.read(move |db| {
            let wanted = "project_id = ?1 AND type = coalesce(?2, type)
                 AND (?3 IS NULL OR instr(name, ?3) > 0)
                 AND (?4 IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?4))";
            let total = db.query_row(
                &format!("SELECT count(*) FROM artifacts WHERE {wanted}"),
                params![project, list.kind, list.name, list.tag],
                |row| row.get(0),
            )?;
            let order = match (list.by_name, list.newest_first) {
                (false, false) => "created_at, rowid",
                (false, true) => "created_at DESC, rowid DESC",
                (true, false) => "name, id",
                (true, true) => "name DESC, id DESC",
            };
            let rows = db
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM artifacts WHERE {wanted}
                     ORDER BY {order} LIMIT ?5 OFFSET ?6"
                ))?
                .query_map(
                    params![project, list.kind, list.name, list.tag, limit, offset],
                    artifact,
                )?
                .collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }

    /// Deletes an artifact of the project. Returns whether it existed, and the
    /// content that has lost its last reference.
    pub(crate) async fn delete_artifact(
        &self,
        by: Identity,
        which: Which,
    ) -> rusqlite::Result<(bool, Option<String>)> {
        self.write(move |db| {
            let (id, name) = match which {
                Which::Id(id) => (Some(id), None),
                Which::Name(name) => (None, Some(name)),
            };
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Member)?;
            check_owner(&transaction, &by, id.as_deref(), name.as_deref())?;
            let deleted: Option<(String, String)> = transaction
                .query_row(
                    "DELETE FROM artifacts WHERE project_id = ?1 AND (id = ?2 OR name = ?3)
                     RETURNING content, coalesce(name, id)",
                    params![by.namespace, id, name],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let Some((content, object)) = deleted else {
                return Ok((false, None));
            };
            let orphan = orphan(&transaction, content)?;
            by.note(&transaction, "data.delete", &object)?;
            transaction.commit()?;
            Ok((true, orphan))
        })
        .await
    }

    /// Changes fields of an artifact of the project in one transaction.
    pub(crate) async fn update_artifact(
        &self,
        by: Identity,
        id: String,
        change: ArtifactChange,
    ) -> rusqlite::Result<Annotated> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Member)?;
            check_owner(&transaction, &by, Some(&id), None)?;
            check_not_reserved(&transaction, &by.namespace, change.name.as_deref())?;
            let was_public: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM artifacts
                     WHERE project_id = ?1 AND id = ?2 AND public)",
                [&by.namespace, &id],
                |row| row.get(0),
            )?;
            let annotated =
                annotations::annotate_artifact(&transaction, &by, &id, &change.annotations)?;
            if !matches!(annotated, Annotated::Done(_)) {
                return Ok(annotated);
            }
            // Tags and note do not change the time of the last update.
            let is_more = change.name.is_some() || change.meta_data.is_some();
            if is_more || change.public.is_some() {
                transaction.execute(
                    &format!(
                        "UPDATE artifacts SET name = coalesce(?3, name),
                             meta_data = coalesce(?4, meta_data), public = coalesce(?5, public),
                             updated_at = {NOW}
                         WHERE project_id = ?1 AND id = ?2"
                    ),
                    params![
                        by.namespace,
                        id,
                        change.name,
                        change.meta_data,
                        change.public
                    ],
                )?;
            }
            if let Some(public) = change.public.filter(|public| *public != was_public) {
                let action = if public {
                    "data.publish"
                } else {
                    "data.unpublish"
                };
                by.note(&transaction, action, &id)?;
            }
            transaction.commit()?;
            Ok(annotated)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
