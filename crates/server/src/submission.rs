//! Whether the data of a new run is there, and of the shape that it needs.

use std::collections::HashMap;

use finetuner_engine::{data, plan::Plan};
use finetuner_protocol::{Callback, DocumentArray, RunConfig};

use crate::{
    app::App,
    error::{ApiError, Result},
};

/// Checks all data sets of a run.
pub(crate) async fn check_data(
    app: &App,
    user_id: &str,
    plan: Plan,
    config: &RunConfig,
) -> Result<()> {
    let mut arrays = HashMap::new();
    for name in plan.data_names() {
        let artifact = app
            .database
            .artifact_by_name(user_id.to_owned(), name.clone())
            .await?;
        let artifact = artifact.ok_or_else(|| {
            ApiError::unprocessable(format!(
                "`{}`: there is no data named `{name}`; push it first, or check the name",
                field_of(config, &name)
            ))
        })?;
        let bytes = app.store.read(&artifact.content).await?;
        arrays.insert(name, bytes);
    }
    let callbacks = config.callbacks.clone();
    let check = move || -> Result<()> {
        let mut read = HashMap::new();
        for (name, bytes) in arrays {
            let array = DocumentArray::from_bytes(&bytes)
                .map_err(|e| ApiError::unprocessable(format!("`{name}`: {e}")))?;
            read.insert(name, array);
        }
        check_shapes(&plan, &callbacks, &read)
    };
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| ApiError::internal(&e))?
}

fn check_shapes(
    plan: &Plan,
    callbacks: &[Callback],
    arrays: &HashMap<String, DocumentArray>,
) -> Result<()> {
    let modalities = &plan.modalities;
    for name in plan.pair_data_names() {
        if let Some(array) = arrays.get(&name) {
            data::pairs(array, modalities, &name).map_err(|e| ApiError::engine(&e))?;
        }
    }
    for callback in callbacks {
        let Callback::EvaluationCallback(evaluation) = callback else {
            continue;
        };
        let index = evaluation.index_data.as_ref().and_then(|i| arrays.get(i));
        if let Some(queries) = arrays.get(&evaluation.query_data) {
            data::check_search_set(queries, index, modalities, &evaluation.query_data)
                .map_err(|e| ApiError::engine(&e))?;
        }
    }
    Ok(())
}

/// Which argument of `fit` names this data.
fn field_of(config: &RunConfig, name: &str) -> &'static str {
    if config.data.train_data == name {
        return "train_data";
    }
    if config.data.eval_data.as_deref() == Some(name) {
        return "eval_data";
    }
    let is_query = config.callbacks.iter().any(
        |callback| matches!(callback, Callback::EvaluationCallback(e) if e.query_data == name),
    );
    if is_query { "query_data" } else { "index_data" }
}
