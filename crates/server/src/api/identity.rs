//! `/v2/rpc/user.identity.*`: the owner of a token, and the other calls that the
//! Hubble SDK makes at a login.

use axum::Json;
use serde_json::{Value, json};

use super::auth::{Person, User};

pub(crate) async fn whoami(User(user): User) -> Json<Value> {
    success(json!({"_id": user.person, "name": user.name, "nickname": user.name}))
}

/// `POST dockerRegistry.listInternalRegistries`: container registries for which a
/// token is valid. Always empty here, but every login of the SDK calls it.
pub(crate) async fn registries(Person(_): Person) -> Json<Value> {
    success(json!([]))
}

/// `GET /v2/.well-known/jwks.json`: keys of signed tokens. Always empty, because
/// tokens of this server are not signed; it looks up their hash.
pub(crate) async fn signing_keys() -> Json<Value> {
    Json(json!({"keys": []}))
}

/// Wraps data in a successful answer of the Hubble API.
pub(super) fn success(data: Value) -> Json<Value> {
    Json(json!({"code": 200, "status": 20000, "data": data}))
}
