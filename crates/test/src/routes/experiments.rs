//! `/api/v1/experiments`

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::Bytes;
use finetuner_protocol::{ExperimentInfo, check_name};
use serde::Deserialize;

use super::{
    page::PageQuery,
    request::{key, read},
};
use crate::{
    answer::{CREATED_AT, Refusal, Result},
    state::{Experiment, Shared, State as Backend},
};

#[derive(Deserialize)]
struct New {
    name: String,
    #[serde(default)]
    description: Option<String>,
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<ExperimentInfo>)> {
    let new: New = read(&body)?;
    check_name("name", &new.name).map_err(|e| Refusal::unprocessable(e.to_string()))?;
    let key = key(&headers);
    shared.change(|state| {
        if let Some(there) = state.experiments.iter().find(|e| e.info.name == new.name) {
            return match key.is_some() && there.key == key {
                true => Ok((StatusCode::OK, Json(there.info.clone()))),
                false => Err(Refusal::conflict(format!(
                    "there is an experiment `{}` already",
                    new.name
                ))),
            };
        }
        let mut info = ExperimentInfo::new(new.name);
        info.description = new.description.unwrap_or_default();
        info.created_at = CREATED_AT.to_owned();
        let answer = Json(info.clone());
        state.experiments.push(Experiment { info, key });
        Ok((StatusCode::CREATED, answer))
    })
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(page): Query<PageQuery>,
) -> Response {
    let infos = |state: &Backend| state.experiments.iter().map(|e| e.info.clone()).collect();
    page.answer::<ExperimentInfo>(shared.look(infos))
}

fn find(state: &Backend, name: &str) -> Result<ExperimentInfo> {
    state.experiment(name).map(|e| e.info.clone())
}

pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<ExperimentInfo>> {
    shared.look(|state| find(state, &name)).map(Json)
}

/// Deletes an experiment with its runs.
fn remove(state: &mut Backend, name: &str) -> Result<ExperimentInfo> {
    let info = find(state, name)?;
    super::runs::delete_all_of(state, name)?;
    state.experiments.retain(|e| e.info.name != name);
    Ok(info)
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<ExperimentInfo>> {
    shared.change(|state| remove(state, &name)).map(Json)
}

pub(super) async fn delete_all(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<Vec<ExperimentInfo>>> {
    let removed: Result<Vec<ExperimentInfo>> = shared.change(|state| {
        let experiments = state.experiments.iter();
        let names: Vec<String> = experiments.map(|e| e.info.name.clone()).collect();
        names.iter().map(|name| remove(state, name)).collect()
    });
    removed.map(Json)
}
