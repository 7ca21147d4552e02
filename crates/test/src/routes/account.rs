//! `/v2/rpc/user.*`: the user and tokens.

use std::sync::Arc;

use axum::{Form, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    answer::{CREATED_AT, Refusal, Result, success},
    state::Shared,
};

pub(super) async fn whoami() -> Json<Value> {
    success(json!({"_id": "test-user", "name": "tester", "nickname": "tester"}))
}

#[derive(Deserialize)]
pub(super) struct TokenName {
    name: String,
}

pub(super) async fn create_token(
    State(shared): State<Arc<Shared>>,
    Form(TokenName { name }): Form<TokenName>,
) -> Result<Json<Value>> {
    shared.change(|state| {
        if state.tokens.contains_key(&name) {
            return Err(Refusal::conflict(format!(
                "there is a token `{name}` already; choose another name, or delete it"
            )));
        }
        let token = format!("token-{}", state.new_id());
        state.tokens.insert(name, token.clone());
        Ok(success(json!({"token": token})))
    })
}

pub(super) async fn list_tokens(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let tokens: Vec<Value> = shared.look(|state| {
        let about = |name| json!({"name": name, "type": "personal", "createdAt": CREATED_AT});
        state.tokens.keys().map(about).collect()
    });
    success(json!({"personal_access_tokens": tokens}))
}

pub(super) async fn delete_token(
    State(shared): State<Arc<Shared>>,
    Form(TokenName { name }): Form<TokenName>,
) -> Result<Json<Value>> {
    match shared.change(|state| state.tokens.remove(&name)) {
        Some(_) => Ok(success(json!({}))),
        None => Err(Refusal::not_found(format!("there is no token `{name}`"))),
    }
}

/// Accepts a logout; personal tokens have no session.
pub(super) async fn dismiss() -> Json<Value> {
    success(json!({}))
}
