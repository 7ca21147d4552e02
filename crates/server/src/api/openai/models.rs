//! `/v1/models`: the finished models that a user may use, and the lookup of a
//! model by its name.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use finetuner_protocol::{RunTask, Status};
use serde::Serialize;

use super::{
    caller::Caller,
    error::{OpenAiError, Result},
};
use crate::{
    app::App,
    database::{ArtifactRow, ModelRow, RunRow},
    error::ApiError,
    store::Hold,
};

/// Maximum number of models in a list, the newest first.
const MAX_LISTED: u64 = 1000;
/// Maximum number of runs with the same name that an error lists.
const NAMED: u64 = 10;
/// Maximum length of a model's name, in bytes.
const MAX_NAME: usize = 1024;
/// Type of artifacts that contain a model.
const MODEL: &str = "model";

/// A finished model.
pub(crate) struct Served {
    /// `experiment/run`, or the id of the artifact.
    pub(super) label: String,
    pub(super) artifact: ArtifactRow,
    /// Protects its content from removal until this is dropped.
    pub(super) hold: Hold,
}

/// Finds a model by name: `experiment/run`, the name of a run if it is unique
/// among the experiments, or the id of an artifact.
pub(super) async fn find(app: &App, project: &str, name: &str) -> Result<Served> {
    if name.len() > MAX_NAME {
        let reason = format!(
            "it has {} bytes: at most {MAX_NAME} are allowed",
            name.len()
        );
        return Err(OpenAiError::invalid("model", reason));
    }
    let (experiment, run) = match name.split_once('/') {
        Some((experiment, run)) => (Some(experiment.to_owned()), run),
        None => (None, name),
    };
    let namespace = project.to_owned();
    let named = app
        .database
        .runs_named(namespace, experiment, run.to_owned(), NAMED);
    let mut named = named.await.map_err(ApiError::from)?;
    if named.len() > 1 {
        let names: Vec<String> = named
            .iter()
            .map(|run| format!("`{}`", run.label()))
            .collect();
        let reason = format!(
            "you have several runs `{name}`: name one of {}",
            names.join(", ")
        );
        return Err(OpenAiError::invalid("model", reason));
    }
    let (label, id) = match named.pop() {
        Some(run) => {
            check_finished(&run)?;
            (run.label(), run.artifact_id)
        }
        None => (name.to_owned(), name.to_owned()),
    };
    let find = || app.database.artifact(project.to_owned(), id.clone());
    let found = app.held(find, |artifact| &artifact.content).await?;
    match found {
        Some((artifact, hold)) if artifact.kind == MODEL => Ok(Served {
            label,
            artifact,
            hold,
        }),
        _ => Err(missing(name)),
    }
}

fn check_finished(run: &RunRow) -> Result<()> {
    let status = run.status();
    let reason = if run.task != RunTask::Training.as_str() {
        "it creates training data and has no model".to_owned()
    } else if status == Status::Finished {
        return Ok(());
    } else if status.is_final() {
        format!("its status is {status}, so it has no model")
    } else {
        format!("its status is {status}: its model can be used once it is FINISHED")
    };
    let error = ApiError::bad_request(format!("`model`: run `{}`: {reason}", run.label()));
    Err(OpenAiError::model(error, Some("model_not_ready")))
}

fn missing(name: &str) -> OpenAiError {
    let error = ApiError::not_found(format!(
        "`model`: you have no finished run and no artifact `{name}`: give `experiment/run` as \
         `/v1/models` lists them"
    ));
    OpenAiError::model(error, Some("model_not_found"))
}

#[derive(Serialize)]
struct About {
    id: String,
    object: &'static str,
    /// Seconds since 1970.
    created: i64,
    owned_by: String,
}

impl About {
    fn of(model: &ModelRow, owner: &str) -> Self {
        Self {
            id: format!("{}/{}", model.experiment, model.run),
            object: "model",
            created: model.created,
            owned_by: owner.to_owned(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct List {
    object: &'static str,
    data: Vec<About>,
}

pub(crate) async fn list(State(app): State<Arc<App>>, Caller(user): Caller) -> Result<Json<List>> {
    let models = app.database.models(user.namespace, MAX_LISTED).await;
    let models = models.map_err(ApiError::from)?;
    let data = models.iter().map(|model| About::of(model, &user.project));
    Ok(Json(List {
        object: "list",
        data: data.collect(),
    }))
}

pub(crate) async fn one(
    app: State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<impl Serialize>> {
    described(app, caller, name).await
}

/// Like [`one`], for clients that do not encode the slash of `experiment/run`.
pub(crate) async fn one_of_experiment(
    app: State<Arc<App>>,
    caller: Caller,
    Path((experiment, run)): Path<(String, String)>,
) -> Result<Json<impl Serialize>> {
    described(app, caller, format!("{experiment}/{run}")).await
}

async fn described(
    State(app): State<Arc<App>>,
    Caller(user): Caller,
    name: String,
) -> Result<Json<About>> {
    let Served {
        label, artifact, ..
    } = find(&app, &user.namespace, &name).await?;
    let created = app.database.created(artifact.id).await;
    Ok(Json(About {
        id: label,
        object: "model",
        created: created.map_err(ApiError::from)?,
        owned_by: user.project,
    }))
}
