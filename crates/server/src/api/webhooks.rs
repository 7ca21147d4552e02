//! `/api/v1/webhooks`: addresses that the server calls when something happens to
//! a run.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{User, Writer};
use crate::{
    app::App,
    database::{Identity, MessageRow, Role, RunEvent, Scope, WebhookRow},
    error::{ApiError, Result},
    json::JsonObject,
    outbox,
};

/// Maximum number of deliveries in an answer.
const DELIVERIES: u64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWebhook {
    url: String,
    #[serde(default)]
    events: Option<Vec<String>>,
}

/// Events of a webhook if the request names none.
fn default_events() -> Vec<String> {
    let ends = RunEvent::ALL.iter().filter(|e| **e != RunEvent::Started);
    ends.map(|event| event.as_str().to_owned()).collect()
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    JsonObject(new): JsonObject<NewWebhook>,
) -> Result<(StatusCode, Json<Value>)> {
    let events = new.events.unwrap_or_else(default_events);
    let (made, secret) = outbox::create(&app, user, &new.url, &events).await?;
    let mut answer = info(&made, true);
    answer["secret"] = secret.into();
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(crate) async fn list(State(app): State<Arc<App>>, User(user): User) -> Result<Json<Value>> {
    let to_owner = owns(&user);
    let rows = app.database.webhooks(user.namespace).await?;
    Ok(Json(rows.iter().map(|row| info(row, to_owner)).collect()))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let to_owner = owns(&user);
    let row = find(&app, user.namespace, id).await?;
    Ok(Json(info(&row, to_owner)))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let row = find(&app, user.namespace.clone(), id.clone()).await?;
    match app.database.delete_webhook(user, id).await? {
        true => Ok(Json(info(&row, true))),
        false => Err(none(&row.id)),
    }
}

/// Sends a test message to the webhook.
pub(crate) async fn test(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let made = app.database.test_webhook(user, id.clone()).await?;
    app.outgoing.notify_one();
    Ok(Json(delivery(&made.ok_or_else(|| none(&id))?)))
}

/// Lists the last deliveries, newest first.
pub(crate) async fn deliveries(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    let row = find(&app, user.namespace.clone(), id).await?;
    let rows = app.database.deliveries(user.namespace, row.id, DELIVERIES);
    Ok(Json(rows.await?.iter().map(delivery).collect()))
}

/// Sends a delivery's message again.
pub(crate) async fn redeliver(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Path((id, name)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let again = app.database.send_again(user, id.clone(), name.clone());
    let again = again.await?.ok_or_else(|| {
        ApiError::not_found(format!("there is no delivery `{name}` of a webhook `{id}`"))
    })?;
    app.outgoing.notify_one();
    Ok(Json(delivery(&again)))
}

/// Whether a user may see complete addresses, which may contain secrets.
fn owns(user: &Identity) -> bool {
    user.scope == Scope::All && user.role == Role::Owner
}

async fn find(app: &App, project: String, id: String) -> Result<WebhookRow> {
    let found = app.database.webhook(project, id.clone()).await?;
    found.ok_or_else(|| none(&id))
}

fn none(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no webhook `{id}`"))
}

/// Returns a webhook as JSON, with its complete address if `to_owner`.
fn info(row: &WebhookRow, to_owner: bool) -> Value {
    let events: Vec<&str> = row.events.iter().map(|event| event.as_str()).collect();
    json!({
        "id": row.id,
        "url": row.shown(to_owner),
        "events": events,
        "created_at": row.created_at,
    })
}

fn delivery(row: &MessageRow) -> Value {
    json!({
        "id": row.name,
        "event": row.event,
        "state": row.state(),
        "outcome": row.outcome,
        "attempts": row.attempts,
        "created_at": row.created_at,
        "tried_at": row.tried_at,
        "next_at": row.due_at,
    })
}
