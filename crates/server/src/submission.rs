//! Whether the data of a new run is there, and of the shape that it needs.

use std::collections::{BTreeMap, HashMap};

use finetuner_engine::{
    Error as EngineError, Result as EngineResult,
    data::{self, Documents, Pictures},
    models::ModelKind,
    plan::{Allowed, Plan, kind_of},
};
use finetuner_protocol::{Callback, Content, Document, DocumentReader, MODEL_ARTIFACT, RunConfig};

use crate::{
    app::App,
    documents::StoredBytes,
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
    let (mut contents, mut stored) = (BTreeMap::new(), HashMap::new());
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
        let bytes = StoredBytes::new(&app.store, &artifact.content).await;
        let bytes = bytes.map_err(|e| ApiError::internal(&e))?;
        contents.insert(name.clone(), artifact.content);
        stored.insert(name, bytes);
    }
    let callbacks = config.callbacks.clone();
    let check = move || check_shapes(&plan, &callbacks, &stored);
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| ApiError::internal(&e))?
        .map_err(|e| ApiError::engine(&e))?;
    Ok(contents)
}

/// Checks that a run can be trained on data, and evaluated.
fn check_shapes(
    plan: &Plan,
    callbacks: &[Callback],
    stored: &HashMap<String, StoredBytes>,
) -> EngineResult<()> {
    let read = |name: &str| {
        let bytes = stored.get(name).cloned();
        let bytes = bytes.ok_or_else(|| bad(name, "it is not there any more"))?;
        StoredDocuments::new(name, bytes).map(|documents| Box::new(documents) as Documents)
    };
    for name in plan.train_data_names() {
        data::read(read(&name)?, &plan.layout, &name, &Pictures::Checked)?;
    }
    for callback in callbacks {
        let Callback::EvaluationCallback(evaluation) = callback else {
            continue;
        };
        let named = |name| read(name).map(|documents| (documents, name));
        data::read_search_set(
            named(evaluation.query_data.as_str())?,
            evaluation.index_data.as_deref().map(named).transpose()?,
            plan.search_kinds(evaluation)?,
            &plan.modalities,
            &Pictures::Checked,
        )?;
    }
    Ok(())
}

/// The most documents of one data set.
const MAX_DOCUMENTS: u64 = 5_000_000;
/// The most bytes that a data set may have unpacked: this many, and so many for
/// each that it has packed. Pictures hardly shrink, and texts not that much.
const MAX_UNPACKED: (u64, u64) = (64 << 20, 64);

/// The documents of a stored data set, unless they are more than can be
/// handled. A picture stands in for each that the worker will fetch, so that
/// the rest can be checked now.
struct StoredDocuments {
    name: String,
    reader: DocumentReader<StoredBytes>,
    limit: u64,
}

fn bad(name: &str, reason: impl std::fmt::Display) -> EngineError {
    EngineError::Data(format!("`{name}`: {reason}"))
}

impl StoredDocuments {
    fn new(name: &str, bytes: StoredBytes) -> EngineResult<Self> {
        let limit = MAX_UNPACKED.0 + MAX_UNPACKED.1 * bytes.size();
        let reader = DocumentReader::new(bytes).map_err(|e| bad(name, e))?;
        let count = reader.count_announced();
        if count > MAX_DOCUMENTS {
            let reason = format!("it has {count} documents, {MAX_DOCUMENTS} are allowed: split it");
            return Err(bad(name, reason));
        }
        Ok(Self {
            name: name.to_owned(),
            reader,
            limit,
        })
    }
}

impl Iterator for StoredDocuments {
    type Item = EngineResult<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        let document = self.reader.next()?.map_err(|e| bad(&self.name, e));
        Some(document.and_then(|mut document| {
            if self.reader.bytes_unpacked() > self.limit {
                let reason = format!(
                    "unpacked it has more than {} MiB, far more than what was sent",
                    self.limit >> 20
                );
                return Err(bad(&self.name, reason));
            }
            stand_in(&mut document);
            Ok(document)
        }))
    }
}

/// Puts a picture in the place of each that is only named.
fn stand_in(document: &mut Document) {
    if pictures::address_of(document).is_some() {
        document.content = Some(Content::Blob(PIXEL.to_vec()));
    }
    document.chunks.iter_mut().for_each(stand_in);
}

/// A PNG of one pixel.
const PIXEL: &[u8] = include_bytes!("pixel.png");

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
