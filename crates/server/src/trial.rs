//! Trying out a finished run: search in a data set with its model, and with the
//! model before fine-tuning.

use std::{sync::Arc, time::Duration};

use finetuner_engine::{
    models::ModelKind,
    plan::{Allowed, Plan},
    source::{HubRules, kind_of_artifact},
};
use finetuner_protocol::{Config, RunConfig, Status};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    app::App,
    database::{ArtifactRow, Identity, RunRow},
    documents::StoredBytes,
    error::{ApiError, Result},
    serving::{Found, Held, Index, Item, Model, Prompted, Refused, Room, gather},
    store::Hold,
};

/// Number of search results.
const FOUND: usize = 10;
/// Time that a page waits for models and data sets that are not loaded yet.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of chunks of a data set that are read ahead.
const AHEAD: usize = 2;

/// The stored model of a finished run.
pub(crate) struct Finished {
    pub(crate) artifact: ArtifactRow,
    hold: Hold,
}

/// A loaded model and its key among all loaded models.
pub(crate) struct Used {
    key: String,
    model: Held<Model>,
}

/// A data set to search.
pub(crate) struct Data {
    pub(crate) artifact: ArtifactRow,
    hold: Hold,
}

/// Result of a query.
pub(crate) enum Answer {
    Found {
        found: Vec<Found>,
        /// Number of items that were searched.
        searched: usize,
        documents: u64,
    },
    /// The data set is still being embedded. The number is that of the embedded
    /// items.
    Embedding(usize),
}

/// Finds the model of a run.
///
/// # Errors
/// The run has not finished, or its model was deleted.
pub(crate) async fn finished(app: &App, run: &RunRow) -> Result<Finished> {
    if run.status() != Status::Finished {
        return Err(ApiError::conflict(format!(
            "run `{}` is {}: its model can be tried once the run is FINISHED",
            run.name,
            run.status()
        )));
    }
    let gone = || ApiError::not_found(format!("the model of run `{}` was deleted", run.name));
    let (artifact, hold) = own_artifact(app, &run.project_id, &run.artifact_id)
        .await?
        .filter(|(artifact, _)| artifact.kind == "model")
        .ok_or_else(gone)?;
    Ok(Finished { artifact, hold })
}

async fn own_artifact(app: &App, project: &str, id: &str) -> Result<Option<(ArtifactRow, Hold)>> {
    let find = || app.database.artifact(project.to_owned(), id.to_owned());
    app.held(find, |artifact| &artifact.content).await
}

impl Finished {
    /// Returns the kind of inputs that the model embeds, from its files.
    pub(crate) async fn kind(&self, app: &App, user: &Identity) -> Result<ModelKind> {
        let bytes = StoredBytes::new(&app.store, &self.artifact.content).await;
        let bytes = bytes.map_err(|e| ApiError::internal(&e))?;
        let look = move || kind_of_artifact(bytes);
        let kind = app.gates.previews.run(&user.person, look).await?;
        kind.map_err(|e| ApiError::engine(&e))
    }

    /// Loads the model.
    pub(crate) async fn open(self, app: &App) -> Result<Used> {
        let key = self.artifact.content;
        let model = app.serving.model(&key, self.hold).await?;
        Ok(Used { key, model })
    }
}

/// Loads the model that a run was trained from, as it was before the training.
///
/// # Errors
/// The model is not available here. The message says why.
pub(crate) async fn backbone(app: &App, user: &Identity, run: &RunRow) -> Result<Used> {
    let unreadable = |e: serde_json::Error| ApiError::internal(&e);
    let config: serde_json::Value = serde_json::from_str(&run.config).map_err(unreadable)?;
    let config = Config::deserialize(&config).map_err(unreadable)?;
    let config = config.training().cloned();
    let config = config.ok_or_else(|| ApiError::conflict("the run does not train a model"))?;
    if let Some(earlier) = &config.model.artifact {
        return going_on_from(app, user, earlier).await;
    }
    let rules = HubRules {
        max_bytes: app.settings.max_hub_download,
        token: None,
    };
    let plan = plan_of(app, config, rules.clone());
    let plan = app.gates.submissions.run(&user.person, plan).await?;
    let source = plan.map_err(|e| ApiError::engine(&e))?.source;
    let key = format!("{source:?}");
    let model = app.serving.backbone(&key, source, rules).await?;
    Ok(Used {
        key: format!("backbone {key}"),
        model,
    })
}

/// Returns a closure that reads a configuration. It may access folders and the
/// model hub.
fn plan_of(
    app: &App,
    config: RunConfig,
    hub: HubRules,
) -> impl FnOnce() -> finetuner_engine::Result<Plan> + Send + 'static {
    let allowed = Allowed {
        local_models: app.settings.local_models.clone(),
        earlier: None,
        hub,
    };
    move || Plan::new(&config, allowed)
}

/// Loads the model of the artifact that a run started from.
async fn going_on_from(app: &App, user: &Identity, earlier: &str) -> Result<Used> {
    let by_name = || {
        let data = &app.database;
        data.artifact_by_name(user.namespace.clone(), earlier.to_owned())
    };
    let found = match own_artifact(app, &user.namespace, earlier).await? {
        None => app.held(by_name, |artifact| &artifact.content).await?,
        found => found,
    };
    let gone = || ApiError::not_found(format!("the artifact `{earlier}` does not exist any more"));
    let (artifact, hold) = found.ok_or_else(gone)?;
    Finished { artifact, hold }.open(app).await
}

/// Finds a data set of the user, or a public one, by its id.
pub(crate) async fn data(app: &App, user: &Identity, id: &str) -> Result<Data> {
    let found = own_artifact(app, &user.namespace, id).await?;
    let found = found.filter(|(artifact, _)| artifact.kind == "documentArray");
    let (artifact, hold) =
        found.ok_or_else(|| ApiError::not_found(format!("there is no data set `{id}`")))?;
    Ok(Data { artifact, hold })
}

/// Searches a data set with a query and the model that `open` loads. Loading
/// and embedding continue in the background if they take longer than the page
/// waits.
pub(crate) async fn search(
    app: &Arc<App>,
    user: &Identity,
    open: impl Future<Output = Result<Used>>,
    data: &Data,
    query: Item,
) -> Result<Answer> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let Ok(used) = tokio::time::timeout_at(deadline, open).await else {
        return Ok(Answer::Embedding(0));
    };
    let used = used?;
    check_query(used.model.encoder.kind(), &query)?;
    let key = format!("{} {}", used.key, data.artifact.content);
    let index = index(app, user, &used, data, key.clone());
    let Ok(index) = tokio::time::timeout_at(deadline, index).await else {
        return Ok(Answer::Embedding(app.serving.progress.of(&key)));
    };
    let index = index?;
    let prompted = prompted(&used.model, "query")?;
    let embedded = app.serving.embed(&used.model, &prompted, vec![query]);
    let query = embedded.await.map_err(|refused| refused.error)?;
    let (documents, searched) = (index.documents, index.len());
    let find = move || index.search(&query, FOUND);
    let found = tokio::task::spawn_blocking(find).await;
    let found = found.map_err(|e| ApiError::internal(&e))?;
    Ok(Answer::Found {
        found: found.map_err(|e| ApiError::engine(&e))?,
        searched,
        documents,
    })
}

/// Refuses a query of a kind that the model does not embed.
fn check_query(kind: ModelKind, query: &Item) -> Result<()> {
    let good = match query {
        Item::Text(_) => matches!(kind, ModelKind::Text | ModelKind::TextImage),
        Item::Image(_) => matches!(kind, ModelKind::Image | ModelKind::TextImage),
    };
    match (good, query) {
        (true, _) => Ok(()),
        (false, Item::Text(_)) => Err(ApiError::bad_request("the model does not embed texts")),
        (false, Item::Image(_)) => Err(ApiError::bad_request("the model does not embed images")),
    }
}

/// Selects a prompt of a sentence-transformers model, if the model has it, and
/// the default otherwise.
fn prompted(model: &Held<Model>, name: &str) -> Result<Prompted> {
    let has = model.encoder.prompts().names().any(|known| known == name);
    let prompted = Prompted::new(model, has.then_some(name));
    prompted.map_err(|e| ApiError::engine(&e))
}

/// Returns the model's embeddings of the data set. Computes them if they are
/// not cached.
async fn index(
    app: &Arc<App>,
    user: &Identity,
    used: &Used,
    data: &Data,
    key: String,
) -> Result<Held<Index>> {
    let building = Building {
        app: Arc::clone(app),
        person: user.person.clone(),
        model: used.model.clone(),
        content: data.artifact.content.clone(),
        _hold: data.hold.clone(),
        key: key.clone(),
    };
    let build = move |room| async move { building.run(room).await };
    app.serving.indexes.get(&key, build).await
}

/// The inputs for embedding a data set.
struct Building {
    app: Arc<App>,
    person: String,
    model: Held<Model>,
    content: String,
    _hold: Hold,
    key: String,
}

impl Drop for Building {
    fn drop(&mut self) {
        self.app.serving.progress.end(&self.key);
    }
}

impl Building {
    async fn run(self, room: Room<Index>) -> Result<Index> {
        let app = &self.app;
        let _turn = app.gates.indexes.enter(&self.person).await?;
        let bytes = StoredBytes::new(&app.store, &self.content).await;
        let bytes = bytes.map_err(|e| ApiError::internal(&e))?;
        let kind = self.model.encoder.kind();
        let (send, mut chunks) = mpsc::channel(AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            gather(bytes, kind, |chunk| send.blocking_send(chunk).is_ok())
        });
        let prompted = prompted(&self.model, "document")?;
        let mut index = Index::new(self.model.encoder.dim());
        while let Some(chunk) = chunks.recv().await {
            let (shown, items): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            let found = app.serving.embed(&self.model, &prompted, items).await;
            let found = found.map_err(|Refused { place, error }| {
                match place.and_then(|place| shown.get(place)) {
                    Some(shown) => ApiError::unprocessable(format!(
                        "document {}: {}",
                        shown.document + 1,
                        error.message()
                    )),
                    None => error,
                }
            })?;
            index.extend(shown, &found);
            app.serving.progress.note(&self.key, index.len());
        }
        let documents = reading.await.map_err(|e| ApiError::internal(&e))?;
        index.documents = documents.map_err(|e| ApiError::unprocessable(e.to_string()))?;
        if index.len() == 0 {
            return Err(ApiError::unprocessable(
                "the data set has nothing that this model embeds; images must be in the data, \
                 not referred to by their address",
            ));
        }
        room.take(index.bytes())?;
        Ok(index)
    }
}

/// Returns a readable name of the model that a run was trained from.
pub(crate) fn backbone_name(run: &RunRow) -> String {
    let config: serde_json::Value = serde_json::from_str(&run.config).unwrap_or_default();
    let model = &config["model"];
    let text = |member: &str| model[member].as_str().filter(|text| !text.is_empty());
    match (text("name"), text("artifact")) {
        (Some(name), _) => name.to_owned(),
        (None, Some(earlier)) => format!("artifact {earlier}"),
        (None, None) => "its backbone".to_owned(),
    }
}
