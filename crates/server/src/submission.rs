//! Whether the data of a new run is there, and of the shape that it needs.

use std::collections::{BTreeMap, HashMap};

use finetuner_engine::{data, plan::Plan};
use finetuner_protocol::{Callback, Content, Document, DocumentArray, DocumentReader, RunConfig};

use crate::{
    app::App,
    error::{ApiError, Result},
    pictures,
};

/// Checks all data sets of a run. Returns the content of each by its name.
pub(crate) async fn check_data(
    app: &App,
    user_id: &str,
    plan: Plan,
    config: &RunConfig,
) -> Result<BTreeMap<String, String>> {
    let mut contents = BTreeMap::new();
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
        contents.insert(name.clone(), artifact.content);
        arrays.insert(name, bytes);
    }
    let callbacks = config.callbacks.clone();
    let check = move || -> Result<()> {
        let mut read = HashMap::new();
        for (name, bytes) in arrays {
            let mut array = read_documents(&bytes)
                .map_err(|e| ApiError::unprocessable(format!("`{name}`: {e}")))?;
            stand_in(&mut array);
            read.insert(name, array);
        }
        check_shapes(&plan, &callbacks, &read)
    };
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| ApiError::internal(&e))??;
    Ok(contents)
}

/// The most documents of one data set.
const MAX_DOCUMENTS: u64 = 5_000_000;
/// The most bytes that a data set may have unpacked: this many, and so many for
/// each that it has packed. Pictures hardly shrink, and texts not that much.
const MAX_UNPACKED: (u64, u64) = (64 << 20, 64);

/// Reads documents, unless they are more than can be handled.
fn read_documents(bytes: &[u8]) -> std::result::Result<DocumentArray, String> {
    let mut reader = DocumentReader::new(bytes).map_err(|e| e.to_string())?;
    let count = reader.count_announced();
    if count > MAX_DOCUMENTS {
        return Err(format!(
            "it has {count} documents, {MAX_DOCUMENTS} are allowed: split it"
        ));
    }
    let limit = MAX_UNPACKED.0 + MAX_UNPACKED.1 * bytes.len() as u64;
    let mut documents = Vec::new();
    while let Some(document) = reader.next() {
        documents.push(document.map_err(|e| e.to_string())?);
        if reader.bytes_unpacked() > limit {
            return Err(format!(
                "unpacked it has more than {} MiB, far more than what was sent",
                limit >> 20
            ));
        }
    }
    Ok(documents.into())
}

/// Puts a picture in the place of each that the worker will fetch, so that the
/// rest can be checked now.
fn stand_in(documents: &mut [Document]) {
    for document in documents {
        if pictures::address_of(document).is_some() {
            document.content = Some(Content::Blob(PIXEL.to_vec()));
        }
        stand_in(&mut document.chunks);
    }
}

/// A PNG of one pixel.
const PIXEL: &[u8] = include_bytes!("pixel.png");

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
