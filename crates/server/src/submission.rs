//! Whether the data of a new run is there, and of the shape that it needs.

use std::collections::{BTreeMap, HashMap};

use finetuner_engine::{
    data,
    models::ModelKind,
    plan::{Allowed, Plan, kind_of},
};
use finetuner_protocol::{
    Callback, Content, Document, DocumentArray, DocumentReader, MODEL_ARTIFACT, RunConfig,
};

use crate::{
    app::App,
    error::{ApiError, Result},
    pictures,
};

/// What a run was found to need.
pub(crate) struct Checked {
    /// The content of each of its data sets by name, and of the artifact that it
    /// goes on from.
    pub(crate) contents: BTreeMap<String, String>,
    /// How many checkpoints it wants to be kept.
    pub(crate) keep_checkpoints: u32,
}

/// Checks a configuration, and all that it names.
pub(crate) async fn check(app: &App, user_id: &str, config: &RunConfig) -> Result<Checked> {
    let earlier = match &config.model.artifact {
        None => None,
        Some(name) => Some(earlier(app, user_id, name).await?),
    };
    let allowed = Allowed {
        local_models: app.settings.local_models,
        earlier: earlier.as_ref().map(|(kind, _)| *kind),
    };
    let plan = Plan::new(config, allowed).map_err(|e| ApiError::engine(&e))?;
    let keep_checkpoints = u32::try_from(plan.keep_checkpoints).unwrap_or(u32::MAX);
    let mut contents = check_data(app, user_id, plan, config).await?;
    if let Some((_, content)) = earlier {
        contents.insert(MODEL_ARTIFACT.to_owned(), content);
    }
    Ok(Checked {
        contents,
        keep_checkpoints,
    })
}

/// Artifacts that were made from one another, one after the other.
const LONGEST_CHAIN: usize = 1000;

/// What the model in an artifact embeds, and the artifact's content.
async fn earlier(app: &App, user_id: &str, name: &str) -> Result<(ModelKind, String)> {
    let bad =
        |reason: &str| ApiError::unprocessable(format!("`model_artifact`: `{name}`: {reason}"));
    let (user, id) = (user_id.to_owned(), name.to_owned());
    let mut found = app.database.artifact(user.clone(), id.clone()).await?;
    if found.is_none() {
        found = app.database.artifact_by_name(user, id).await?;
    }
    let artifact = found.ok_or_else(|| {
        bad("there is no such artifact; give the `artifact_id` of a run that has finished")
    })?;
    // A run may itself have gone on from an artifact: what its model embeds was
    // decided by the first of them.
    let mut id = artifact.id;
    for _ in 0..LONGEST_CHAIN {
        let config = app.database.config_of_artifact(id).await?;
        let config = config.ok_or_else(|| bad("the run that it is of is not there any more"))?;
        let config: RunConfig =
            serde_json::from_str(&config).map_err(|e| ApiError::internal(&e))?;
        match config.model.artifact {
            Some(before) => id = before,
            None => {
                let kind = kind_of(&config).map_err(|e| bad(&e.to_string()))?;
                return Ok((kind, artifact.content));
            }
        }
    }
    Err(bad("too many runs have gone on from one another"))
}

/// Checks all data sets of a run. Returns the content of each by its name.
async fn check_data(
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
    for name in plan.train_data_names() {
        if let Some(array) = arrays.get(&name) {
            data::read(array, &plan.layout, &name).map_err(|e| ApiError::engine(&e))?;
        }
    }
    for callback in callbacks {
        let Callback::EvaluationCallback(evaluation) = callback else {
            continue;
        };
        let index = evaluation.index_data.as_ref().and_then(|i| arrays.get(i));
        if let Some(queries) = arrays.get(&evaluation.query_data) {
            let (name, modalities) = (&evaluation.query_data, &plan.modalities);
            plan.search_kinds(evaluation)
                .and_then(|kinds| data::check_search_set(queries, index, kinds, modalities, name))
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
