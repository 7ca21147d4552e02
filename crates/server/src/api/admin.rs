//! `/api/v1/admin`: users, storage limits, open runs and the audit log. Only
//! admins of the server may call it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use finetuner_protocol::check_name;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Admin;
use crate::{
    app::App,
    checks::check_open_runs,
    database::{AccountChange, AccountRow, AuditFilter, Entry, Manager, OpenRun, StorageRow},
    error::{ApiError, Result},
    json::JsonObject,
};

/// Default and maximum number of items on a page.
const PAGE: u64 = 100;
const MAX_LISTED: u64 = 1000;

/// Query of a page: where it starts and how many items it has.
#[derive(Deserialize)]
pub(crate) struct Part {
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
}

impl Part {
    fn bounds(&self) -> Result<(u64, u64)> {
        Ok((self.offset, checked(self.limit)?))
    }
}

fn checked(limit: Option<u64>) -> Result<u64> {
    match limit.unwrap_or(PAGE) {
        limit if (1..=MAX_LISTED).contains(&limit) => Ok(limit),
        limit => Err(ApiError::unprocessable(format!(
            "`limit` is {limit}: 1 to {MAX_LISTED} are allowed"
        ))),
    }
}

pub(crate) async fn users(
    State(app): State<Arc<App>>,
    Admin(_): Admin,
    Query(part): Query<Part>,
) -> Result<Json<Value>> {
    let (users, total) = app.database.accounts(part.bounds()?).await?;
    let items: Vec<Value> = users.iter().map(user_json).collect();
    Ok(Json(json!({"items": items, "total": total})))
}

fn user_json(user: &AccountRow) -> Value {
    json!({
        "name": user.name,
        "admin": user.is_admin,
        "disabled": user.is_disabled,
        "password": user.has_password,
        "created_at": user.created_at,
        "last_used_at": user.last_used_at,
        "sessions": user.sessions,
        "tokens": user.tokens,
        "open_runs": user.open_runs,
        "max_open_runs": user.max_open_runs,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    name: String,
}

/// Adds a user. Answers with the user's first token.
pub(crate) async fn add_user(
    State(app): State<Arc<App>>,
    Admin(admin): Admin,
    JsonObject(NewUser { name }): JsonObject<NewUser>,
) -> Result<(StatusCode, Json<Value>)> {
    check_name("name", &name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    let manager = Manager::Admin(admin);
    let token = app.database.add_user(manager, name.clone()).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({"name": name, "token": token})),
    ))
}

/// Changes to a user. A missing member leaves its field unchanged; `null` for
/// `max_open_runs` restores the server's limit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    admin: Option<bool>,
    disabled: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    max_open_runs: Option<Option<u64>>,
    #[serde(default)]
    end_sessions: bool,
}

/// Distinguishes a `null` member (`Some(None)`) from a missing one (`None`).
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

pub(crate) async fn change_user(
    State(app): State<Arc<App>>,
    Admin(admin): Admin,
    Path(name): Path<String>,
    JsonObject(change): JsonObject<Change>,
) -> Result<Json<Value>> {
    if let Some(Some(most)) = change.max_open_runs {
        check_open_runs(most)?;
    }
    let change = AccountChange {
        is_admin: change.admin,
        is_disabled: change.disabled,
        max_open_runs: change.max_open_runs,
        end_sessions: change.end_sessions,
    };
    let manager = Manager::Admin(admin);
    app.change_account(manager, name.clone(), change).await?;
    Ok(Json(json!({"name": name})))
}

pub(crate) async fn storage(
    State(app): State<Arc<App>>,
    Admin(_): Admin,
    Query(part): Query<Part>,
) -> Result<Json<Value>> {
    let (projects, total) = app.database.storage(part.bounds()?).await?;
    let about = |project: &StorageRow| {
        json!({
            "name": project.name,
            "personal": project.is_personal,
            "member_count": project.members,
            "stored": project.stored,
            "max_stored": project.max_stored,
        })
    };
    let items: Vec<Value> = projects.iter().map(about).collect();
    Ok(Json(json!({"items": items, "total": total})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    /// Maximum in bytes; `null` for the server's limit. A missing member is an
    /// error, so that a misspelt name does not remove a limit.
    #[serde(deserialize_with = "Option::deserialize")]
    max_stored: Option<u64>,
}

pub(crate) async fn set_storage(
    State(app): State<Arc<App>>,
    Admin(admin): Admin,
    Path(project): Path<String>,
    JsonObject(Limit { max_stored }): JsonObject<Limit>,
) -> Result<Json<Value>> {
    if let Some(most) = max_stored.filter(|most| i64::try_from(*most).is_err()) {
        return Err(ApiError::unprocessable(format!(
            "`max_stored` is {most}: at most {} bytes are allowed",
            i64::MAX
        )));
    }
    let set = app
        .database
        .set_max_stored(Manager::Admin(admin), project.clone(), max_stored);
    set.await?;
    Ok(Json(json!({"name": project, "max_stored": max_stored})))
}

/// Lists the waiting and training runs of all users. Runs with a job come first.
pub(crate) async fn runs(
    State(app): State<Arc<App>>,
    Admin(_): Admin,
    Query(part): Query<Part>,
) -> Result<Json<Value>> {
    let (_, limit) = part.bounds()?;
    let (runs, total) = app.database.open_runs(limit).await?;
    let about = |run: &OpenRun| {
        json!({
            "project": run.project,
            "experiment": run.experiment,
            "run": run.run,
            "person": run.person,
            "created_at": run.created_at,
            "job": run.job,
            "connected": run.has_worker,
            "attempts": run.attempts,
            "waits": app.waits.of(run.id),
        })
    };
    let items: Vec<Value> = runs.iter().map(about).collect();
    Ok(Json(json!({"items": items, "total": total})))
}

#[derive(Deserialize)]
pub(crate) struct AuditQuery {
    person: Option<String>,
    project: Option<String>,
    action: Option<String>,
    before: Option<i64>,
    limit: Option<u64>,
}

/// Lists the entries of the audit log, newest first. `before` is the `id` of the
/// previous page's last entry.
pub(crate) async fn audit(
    State(app): State<Arc<App>>,
    Admin(_): Admin,
    Query(asked): Query<AuditQuery>,
) -> Result<Json<Vec<Value>>> {
    let filter = AuditFilter {
        person: asked.person,
        project: asked.project,
        action: asked.action,
        before: asked.before,
        limit: checked(asked.limit)?,
    };
    let entries = app.database.audit(filter).await?;
    let about = |entry: &Entry| {
        json!({
            "id": entry.id,
            "at": entry.at,
            "person": entry.person,
            "project": entry.project,
            "action": entry.action,
            "object": entry.object,
            "address": entry.address,
        })
    };
    Ok(Json(entries.iter().map(about).collect()))
}
