//! `/api/v1/models`: the kind of items that a model compares.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use finetuner_engine::source::{HubRules, ModelSource};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::User;
use crate::{
    app::App,
    checks::check_length,
    error::{ApiError, Result},
};

/// Maximum length of a model's name, in bytes.
const MAX_NAME: usize = 1024;

#[derive(Deserialize)]
pub(crate) struct TaskQuery {
    name: String,
}

/// Answers with the kind of items that a model compares, from its files. It
/// decides how the columns of a CSV file are read.
pub(crate) async fn task(
    State(app): State<Arc<App>>,
    User(user): User,
    Query(TaskQuery { name }): Query<TaskQuery>,
) -> Result<Json<Value>> {
    check_length("name", Some(&name), MAX_NAME)?;
    let (local, asked) = (app.settings.local_models.clone(), name.clone());
    // Reads folders, and may access the model hub.
    let look = move || ModelSource::resolve(&asked, &local)?.kind(&HubRules::default());
    let kind = app.gates.submissions.run(&user.person, look).await?;
    let task = kind.map_err(|e| ApiError::engine(&e))?.task();
    Ok(Json(json!({"name": name, "task": task})))
}
