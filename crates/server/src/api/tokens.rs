//! `/v2/rpc/user.pat.*` and `user.session.*`: a user's tokens.

use std::sync::Arc;

use axum::{Form, Json, extract::State, http::HeaderMap};
use finetuner_protocol::check_name;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    auth::{self, Person, PersonWriter},
    identity::success,
};
use crate::{
    app::App,
    database::Scope,
    error::{ApiError, Result},
    secret,
};

/// Maximum validity of a token, in days.
const MAX_DAYS: u32 = 3650;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewToken {
    name: String,
    #[serde(default)]
    expiration_days: Option<u32>,
    /// Scope: `all` (the default) or `read`. The Python clients never send it.
    #[serde(default)]
    scope: Option<String>,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    PersonWriter(user): PersonWriter,
    Form(new): Form<NewToken>,
) -> Result<Json<Value>> {
    check_name("name", &new.name).map_err(|e| ApiError::bad_request(e.to_string()))?;
    if let Some(days) = new.expiration_days
        && !(1..=MAX_DAYS).contains(&days)
    {
        return Err(ApiError::bad_request(format!(
            "`expirationDays` is {days}: 1 to {MAX_DAYS} are allowed"
        )));
    }
    let scope = match new.scope.as_deref() {
        None => Scope::All,
        Some(scope) => Scope::parse(scope).ok_or_else(|| {
            ApiError::bad_request(format!("`scope` is `{scope}`: give `all` or `read`"))
        })?,
    };
    let name = new.name.clone();
    let new = crate::database::NewToken {
        name: new.name,
        kind: "personal",
        scope,
        days: new.expiration_days,
        address: user.address,
    };
    let created = app.database.add_token(user.person, new).await?;
    let token = created.ok_or_else(|| {
        ApiError::conflict(format!(
            "there is a token `{name}` already; choose another name, or delete it"
        ))
    })?;
    Ok(success(json!({"token": token})))
}

pub(crate) async fn list(State(app): State<Arc<App>>, Person(user): Person) -> Result<Json<Value>> {
    let tokens = app.database.tokens(user.person).await?;
    let tokens: Vec<Value> = tokens
        .into_iter()
        .map(|token| {
            json!({
                "name": token.name,
                "type": token.kind,
                "createdAt": token.created_at,
                // The SDK displays this as the time when the token was last used.
                "updatedAt": token.last_used_at.as_ref().unwrap_or(&token.created_at),
                "expireAt": token.expires_at,
                "lastUsedAt": token.last_used_at,
                "scope": token.scope,
            })
        })
        .collect();
    Ok(success(json!({"personal_access_tokens": tokens})))
}

#[derive(Deserialize)]
pub(crate) struct TokenName {
    name: String,
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    PersonWriter(user): PersonWriter,
    Form(TokenName { name }): Form<TokenName>,
) -> Result<Json<Value>> {
    if !app.database.delete_token(user, name.clone()).await? {
        return Err(ApiError::not_found(format!("there is no token `{name}`")));
    }
    // Wakes the token's streams, which then end.
    app.changes.notify_all();
    Ok(success(json!({})))
}

/// `POST user.session.getRaw`: the token of the request and its owner.
pub(crate) async fn session(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Person(user): Person,
) -> Result<Json<Value>> {
    let hash = auth::token(&headers).map(secret::hash);
    let hash = hash.ok_or_else(ApiError::unauthorized)?;
    let token = app.database.token_of_hash(hash).await?;
    let token = token.ok_or_else(ApiError::unauthorized)?;
    Ok(success(json!({
        "user": {"_id": user.person, "name": user.name, "nickname": user.name},
        "name": token.name,
        "type": token.kind,
        "scope": token.scope,
        "createdAt": token.created_at,
        "expireAt": token.expires_at,
    })))
}

/// Ends the session of the token. A personal token stays valid until it is
/// deleted by name.
pub(crate) async fn dismiss(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Person(user): Person,
) -> Result<Json<Value>> {
    if let Some(token) = auth::token(&headers) {
        app.database
            .end_session(secret::hash(token), user.address)
            .await?;
        app.changes.notify_all();
    }
    Ok(success(json!({})))
}
