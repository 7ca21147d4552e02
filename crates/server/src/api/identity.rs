//! `/v2/rpc/user.identity.*`: who a token belongs to, and what the Hubble SDK
//! asks for at a login beside that.

use axum::Json;
use serde_json::{Value, json};

use super::auth::{Person, User};

pub(crate) async fn whoami(User(user): User) -> Json<Value> {
    success(json!({"_id": user.person, "name": user.name, "nickname": user.name}))
}

/// `POST dockerRegistry.listInternalRegistries`: registries whose images a token
/// is good for. There are none here; every login of the SDK asks.
pub(crate) async fn registries(Person(_): Person) -> Json<Value> {
    success(json!([]))
}

/// `GET /v2/.well-known/jwks.json`: keys of signed tokens. Tokens here are not
/// signed but known by their hash.
pub(crate) async fn signing_keys() -> Json<Value> {
    Json(json!({"keys": []}))
}

/// A Hubble answer that all went well.
pub(super) fn success(data: Value) -> Json<Value> {
    Json(json!({"code": 200, "status": 20000, "data": data}))
}
