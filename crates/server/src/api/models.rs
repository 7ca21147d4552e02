//! `/api/v1/models`: what a model compares, by its name.

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

/// The most bytes of a model's name.
const MAX_NAME: usize = 1024;

#[derive(Deserialize)]
pub(crate) struct Asked {
    name: String,
}

/// Tells what a model compares, as its files say. It decides what the columns of a
/// CSV file are.
pub(crate) async fn task(
    State(app): State<Arc<App>>,
    User(user): User,
    Query(Asked { name }): Query<Asked>,
) -> Result<Json<Value>> {
    check_length("name", Some(&name), MAX_NAME)?;
    let (local, asked) = (app.settings.local_models.clone(), name.clone());
    // Folders are read, and the model hub may be asked.
    let look = move || ModelSource::resolve(&asked, &local)?.kind(&HubRules::default());
    let kind = app.gates.submissions.run(&user.person, look).await?;
    let task = kind.map_err(|e| ApiError::engine(&e))?.task();
    Ok(Json(json!({"name": name, "task": task})))
}
