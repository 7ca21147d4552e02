//! `/v2/rpc/user.identity.*`: who a token belongs to.

use axum::Json;
use serde_json::{Value, json};

use super::auth::User;

pub(crate) async fn whoami(User(user): User) -> Json<Value> {
    success(json!({"_id": user.id, "name": user.name, "nickname": user.name}))
}

/// A Hubble answer that all went well.
pub(super) fn success(data: Value) -> Json<Value> {
    Json(json!({"code": 200, "status": 20000, "data": data}))
}
