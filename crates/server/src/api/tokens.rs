//! `/v2/rpc/user.pat.*` and `user.session.dismiss`: tokens of a user.

use std::sync::Arc;

use axum::{Form, Json, extract::State};
use finetuner_protocol::check_name;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{auth::User, identity::success};
use crate::{
    app::App,
    error::{ApiError, Result},
};

/// The longest that a token may last.
const MAX_DAYS: u32 = 3650;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewToken {
    name: String,
    #[serde(default)]
    expiration_days: Option<u32>,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    User(user): User,
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
    let name = new.name.clone();
    let created = app
        .database
        .create_personal_token(user.id, new.name, new.expiration_days)
        .await?;
    let token = created.ok_or_else(|| {
        ApiError::conflict(format!(
            "there is a token `{name}` already; choose another name, or delete it"
        ))
    })?;
    Ok(success(json!({"token": token})))
}

pub(crate) async fn list(State(app): State<Arc<App>>, User(user): User) -> Result<Json<Value>> {
    let tokens = app.database.tokens(user.id).await?;
    let tokens: Vec<Value> = tokens
        .into_iter()
        .map(|token| {
            json!({
                "name": token.name,
                "type": token.kind,
                "createdAt": token.created_at,
                "updatedAt": token.created_at,
                "expireAt": token.expires_at,
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
    User(user): User,
    Form(TokenName { name }): Form<TokenName>,
) -> Result<Json<Value>> {
    if !app.database.delete_token(user.id, name.clone()).await? {
        return Err(ApiError::not_found(format!("there is no token `{name}`")));
    }
    Ok(success(json!({})))
}

/// Tokens of this server are not sessions: one that is no longer wanted is
/// deleted by its name.
pub(crate) async fn dismiss(User(_): User) -> Json<Value> {
    success(json!({}))
}
