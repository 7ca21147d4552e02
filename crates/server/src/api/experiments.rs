//! `/api/v1/experiments`

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use finetuner_protocol::{ExperimentInfo, check_name};
use serde::Deserialize;
use serde_json::Map;

use super::{auth::User, pages::PageQuery};
use crate::{
    app::App,
    database::{ExperimentRow, is_duplicate},
    error::{ApiError, Result},
};

#[derive(Deserialize)]
pub(crate) struct NewExperiment {
    name: String,
    #[serde(default)]
    description: Option<String>,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    User(user): User,
    Json(new): Json<NewExperiment>,
) -> Result<(StatusCode, Json<ExperimentInfo>)> {
    check_name("name", &new.name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    let (name, description) = (new.name.clone(), new.description.unwrap_or_default());
    let created = app
        .database
        .create_experiment(user.id, name, description)
        .await
        .map_err(|error| {
            if is_duplicate(&error) {
                ApiError::conflict(format!("there is an experiment `{}` already", new.name))
            } else {
                error.into()
            }
        })?;
    Ok((StatusCode::CREATED, Json(info(created))))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(name): Path<String>,
) -> Result<Json<ExperimentInfo>> {
    Ok(Json(info(find(&app, user.id, name).await?)))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Query(page): Query<PageQuery>,
) -> Result<Response> {
    let (rows, total) = app.database.experiments(user.id, page.bounds()).await?;
    Ok(page.answer(rows.into_iter().map(info).collect(), total))
}

/// The user's experiment of that name.
pub(super) async fn find(app: &App, user_id: String, name: String) -> Result<ExperimentRow> {
    let found = app.database.experiment(user_id, name.clone()).await?;
    found.ok_or_else(|| ApiError::not_found(format!("there is no experiment `{name}`")))
}

fn info(row: ExperimentRow) -> ExperimentInfo {
    ExperimentInfo {
        name: row.name,
        description: row.description,
        status: "ACTIVE".to_owned(),
        created_at: row.created_at,
        extra: Map::new(),
    }
}
