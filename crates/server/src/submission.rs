//! Checks of a new run: its configuration, and the existence and layout of its
//! data.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use finetuner_engine::{
    Error as EngineError, Result as EngineResult,
    data::{DataName, Documents},
    job,
    models::ModelKind,
    plan::{Allowed, Plan},
    source::{HubRules, kind_of_artifact},
    synthesis::SynthesisPlan,
};
use finetuner_protocol::{
    Callback, Content, Document, DocumentReader, RunConfig, SynthesisConfig, worker::MODEL_ARTIFACT,
};

use crate::{
    app::App,
    database::{ArtifactRow, Identity},
    documents::StoredBytes,
    error::{ApiError, Result},
    images,
    store::Hold,
};

/// Result of a successful check.
pub(crate) struct Checked {
    /// Content of each data set by its name, and of the artifact that the run
    /// continues from.
    pub(crate) contents: BTreeMap<String, String>,
    /// Number of checkpoints to keep.
    pub(crate) keep_checkpoints: u32,
    /// Protect the contents from removal until the run's row refers to them.
    pub(crate) holds: Vec<Hold>,
}

/// Maximum number of callbacks of a run.
const MAX_CALLBACKS: usize = 64;
/// Maximum number of bytes that a run reads. A data set counts as often as it is
/// read.
const MAX_READ: u64 = 32 << 30;

/// Checks a configuration and all data that it names.
pub(crate) async fn check(app: &App, user: &Identity, config: &RunConfig) -> Result<Checked> {
    let (plan, earlier) = plan(app, user, config).await?;
    let keep_checkpoints = u32::try_from(plan.keep_checkpoints).unwrap_or(u32::MAX);
    let (mut contents, mut holds) = check_data(app, user, plan, config).await?;
    if let Some((_, content, hold)) = earlier {
        contents.insert(MODEL_ARTIFACT.to_owned(), content);
        holds.push(hold);
    }
    Ok(Checked {
        contents,
        keep_checkpoints,
        holds,
    })
}

/// Checks a configuration before all of its data is uploaded. `pushing` names the
/// data sets to be uploaded. Contents are not checked. Returns the kind of items
/// that the model embeds.
pub(crate) async fn check_without(
    app: &App,
    user: &Identity,
    config: &RunConfig,
    pushing: &BTreeSet<String>,
) -> Result<ModelKind> {
    let (plan, _) = plan(app, user, config).await?;
    for name in plan.data_names() {
        if !pushing.contains(&name) {
            find_data(app, user, DataName::of_run(config, &name)).await?;
        }
    }
    Ok(plan.kind)
}

/// Checks the configuration of a synthesis run and all data that it names.
pub(crate) async fn check_synthesis(
    app: &App,
    user: &Identity,
    config: &SynthesisConfig,
) -> Result<Checked> {
    let plan = synthesis_plan(app, user, config).await?;
    let (contents, holds, stored) =
        stored(app, user, plan.data_names(), |name| plan.data_name(name)).await?;
    let check = move || plan.check_data(&|name| open(&stored, plan.data_name(name)));
    let checked = app.gates.submissions.run(&user.person, check).await?;
    checked.map_err(|e| ApiError::engine(&e))?;
    Ok(Checked {
        contents,
        keep_checkpoints: 0,
        holds,
    })
}

/// Checks the configuration of a synthesis run before all of its data is
/// uploaded. `pushing` names the data sets to be uploaded.
pub(crate) async fn check_synthesis_without(
    app: &App,
    user: &Identity,
    config: &SynthesisConfig,
    pushing: &BTreeSet<String>,
) -> Result<()> {
    let plan = synthesis_plan(app, user, config).await?;
    for name in plan.data_names() {
        if !pushing.contains(&name) {
            find_data(app, user, plan.data_name(&name)).await?;
        }
    }
    Ok(())
}

/// Parses the configuration of a synthesis run in the same way as the worker.
async fn synthesis_plan(
    app: &App,
    user: &Identity,
    config: &SynthesisConfig,
) -> Result<SynthesisPlan> {
    let (config, local) = (config.clone(), app.settings.local_models.clone());
    // Reads folders, and may access the model hub.
    let plan = move || SynthesisPlan::new(&config, &local, &HubRules::default());
    let plan = app.gates.submissions.run(&user.person, plan).await?;
    plan.map_err(|e| ApiError::engine(&e))
}

/// Parses a configuration in the same way as the worker. Also returns the
/// artifact that the run continues from.
async fn plan(
    app: &App,
    user: &Identity,
    config: &RunConfig,
) -> Result<(Plan, Option<(ModelKind, String, Hold)>)> {
    let count = config.callbacks.len();
    if count > MAX_CALLBACKS {
        return Err(ApiError::unprocessable(format!(
            "`callbacks` has {count} items: at most {MAX_CALLBACKS} are allowed"
        )));
    }
    let earlier = match &config.model.artifact {
        None => None,
        Some(name) => Some(earlier(app, user, name).await?),
    };
    let allowed = Allowed {
        local_models: app.settings.local_models.clone(),
        earlier: earlier.as_ref().map(|(kind, ..)| *kind),
        // The hub is accessed as a worker does.
        hub: HubRules::default(),
    };
    let config = config.clone();
    // Reads folders, and may access the model hub.
    let plan = move || Plan::new(&config, allowed);
    let plan = app.gates.submissions.run(&user.person, plan).await?;
    Ok((plan.map_err(|e| ApiError::engine(&e))?, earlier))
}

/// Finds a data set by the name in an argument.
async fn find_data(
    app: &App,
    user: &Identity,
    DataName { field, name }: DataName<'_>,
) -> Result<(ArtifactRow, Hold)> {
    let find = || {
        let data = &app.database;
        data.artifact_by_name(user.namespace.clone(), name.to_owned())
    };
    let found = app.held(find, |artifact| &artifact.content).await?;
    found.ok_or_else(|| {
        ApiError::unprocessable(format!(
            "`{field}`: there is no data named `{name}`; push it first, or check the name"
        ))
    })
}

/// Returns the kind of items that the model in an artifact embeds, and the
/// artifact's content.
async fn earlier(app: &App, user: &Identity, name: &str) -> Result<(ModelKind, String, Hold)> {
    let bad =
        |reason: &str| ApiError::unprocessable(format!("`model_artifact`: `{name}`: {reason}"));
    let find = || {
        let (project, id) = (user.namespace.clone(), name.to_owned());
        async move {
            match app.database.artifact(project.clone(), id.clone()).await? {
                None => app.database.artifact_by_name(project, id).await,
                found => Ok(found),
            }
        }
    };
    let found = app.held(find, |artifact| &artifact.content).await?;
    let (artifact, hold) = found.ok_or_else(|| {
        bad("there is no such artifact; give the `artifact_id` of a run that has finished")
    })?;
    let bytes = StoredBytes::new(&app.store, &artifact.content).await;
    let bytes = bytes.map_err(|e| ApiError::internal(&e))?;
    let look = move || kind_of_artifact(bytes);
    let kind = app.gates.submissions.run(&user.person, look).await?;
    let kind = kind.map_err(|e| bad(&e.to_string()))?;
    Ok((kind, artifact.content, hold))
}

/// Checks all data sets of a run. Returns the content of each by its name, and
/// their holds.
async fn check_data(
    app: &App,
    user: &Identity,
    plan: Plan,
    config: &RunConfig,
) -> Result<(BTreeMap<String, String>, Vec<Hold>)> {
    let (contents, holds, stored) = stored(app, user, plan.data_names(), |name| {
        DataName::of_run(config, name)
    })
    .await?;
    let sizes = |name: &str| stored.get(name).map_or(0, StoredBytes::size);
    check_sizes(&plan, &config.callbacks, sizes)?;
    let config = config.clone();
    let check = move || check_shapes(&plan, &config, &stored);
    let checked = app.gates.submissions.run(&user.person, check).await?;
    checked.map_err(|e| ApiError::engine(&e))?;
    Ok((contents, holds))
}

/// Data sets by name.
type Stored = HashMap<String, StoredBytes>;

/// Finds data sets. Returns the content of each by its name, the holds, and
/// readers of their bytes.
async fn stored(
    app: &App,
    user: &Identity,
    names: Vec<String>,
    named: impl for<'a> Fn(&'a str) -> DataName<'a>,
) -> Result<(BTreeMap<String, String>, Vec<Hold>, Stored)> {
    let (mut contents, mut stored) = (BTreeMap::new(), Stored::new());
    let mut holds = Vec::new();
    for name in names {
        let (artifact, hold) = find_data(app, user, named(&name)).await?;
        let bytes = StoredBytes::new(&app.store, &artifact.content).await;
        let bytes = bytes.map_err(|e| ApiError::internal(&e))?;
        contents.insert(name.clone(), artifact.content);
        holds.push(hold);
        stored.insert(name, bytes);
    }
    Ok((contents, holds, stored))
}

/// Returns the names of the data sets that an evaluation reads.
fn searched(callback: &Callback) -> impl Iterator<Item = &str> {
    let evaluation = match callback {
        Callback::EvaluationCallback(evaluation) => Some(evaluation),
        _ => None,
    };
    evaluation.into_iter().flat_map(|evaluation| {
        [
            Some(evaluation.query_data.as_str()),
            evaluation.index_data.as_deref(),
        ]
        .into_iter()
        .flatten()
    })
}

/// Limits the data that a run reads, so that the check ends in reasonable time.
fn check_sizes(plan: &Plan, callbacks: &[Callback], size: impl Fn(&str) -> u64) -> Result<()> {
    let trained = plan.train_data_names();
    let names = trained.iter().map(String::as_str).chain(plan.corpus());
    let names = names.chain(callbacks.iter().flat_map(searched));
    let total = names.map(size).fold(0, u64::saturating_add);
    if total <= MAX_READ {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "`callbacks`: the run reads {} GiB of data, counted for each callback, and the limit is \
         {} GiB: evaluate with smaller data sets, or with fewer callbacks",
        total >> 30,
        MAX_READ >> 30
    )))
}

/// Checks that the run's data suits training and evaluation.
fn check_shapes(plan: &Plan, config: &RunConfig, stored: &Stored) -> EngineResult<()> {
    job::check_data(plan, &|name| open(stored, DataName::of_run(config, name)))
}

/// Opens the documents of a data set.
fn open(stored: &Stored, name: DataName<'_>) -> EngineResult<Documents> {
    let bytes = stored.get(name.name).cloned();
    let shown = name.to_string();
    let bytes = bytes.ok_or_else(|| bad(&shown, "it is not there any more"))?;
    StoredDocuments::new(shown, bytes).map(|documents| Box::new(documents) as Documents)
}

/// Maximum number of documents in a data set.
pub(crate) const MAX_DOCUMENTS: u64 = 5_000_000;
/// Maximum unpacked size of a data set: a number of bytes, plus a multiple of its
/// packed size. Images hardly compress, and texts do not compress 64-fold.
pub(crate) const MAX_UNPACKED: (u64, u64) = (64 << 20, 64);

/// The documents of a stored data set, up to the limits. A one-pixel image
/// replaces each image that the worker will fetch, so that the rest can be
/// checked now.
struct StoredDocuments {
    /// Name of the data set in messages.
    shown: String,
    reader: DocumentReader<StoredBytes>,
    limit: u64,
}

fn bad(shown: &str, reason: impl std::fmt::Display) -> EngineError {
    EngineError::Data(format!("{shown}: {reason}"))
}

impl StoredDocuments {
    fn new(shown: String, bytes: StoredBytes) -> EngineResult<Self> {
        let limit = MAX_UNPACKED.0 + MAX_UNPACKED.1 * bytes.size();
        let reader = DocumentReader::new(bytes).map_err(|e| bad(&shown, e))?;
        let count = reader.count_announced();
        if count > MAX_DOCUMENTS {
            let reason =
                format!("it has {count} documents: at most {MAX_DOCUMENTS} are allowed: split it");
            return Err(bad(&shown, reason));
        }
        Ok(Self {
            shown,
            reader,
            limit,
        })
    }
}

impl Iterator for StoredDocuments {
    type Item = EngineResult<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        let document = self.reader.next()?.map_err(|e| bad(&self.shown, e));
        Some(document.and_then(|mut document| {
            if self.reader.bytes_unpacked() > self.limit {
                let reason = format!(
                    "unpacked it has more than {} MiB, far more than what was sent",
                    self.limit >> 20
                );
                return Err(bad(&self.shown, reason));
            }
            stand_in(&mut document);
            Ok(document)
        }))
    }
}

/// Replaces an image that the document only refers to.
fn stand_in(document: &mut Document) {
    if images::address_of(document).is_some() {
        document.content = Some(Content::Blob(PIXEL.to_vec()));
    }
    document.chunks.iter_mut().for_each(stand_in);
}

/// A PNG of one pixel.
const PIXEL: &[u8] = include_bytes!("pixel.png");

#[cfg(test)]
mod tests {
    use finetuner_protocol::callback::EvaluationCallback;

    use super::*;

    #[test]
    fn data_counts_each_time_it_is_read() {
        let config = serde_json::json!({
            "model": {"name": "clip-small"},
            "data": {"train_data": "train"},
            "hyper_parameters": {"loss": "CLIPLoss"},
            "run_name": "r",
            "experiment_name": "e",
        });
        let config: RunConfig = serde_json::from_value(config).unwrap();
        let plan = Plan::new(&config, Allowed::default()).unwrap();
        let evaluation = || Callback::from(EvaluationCallback::new("train"));
        let check = |count: usize| {
            let callbacks: Vec<Callback> = (0..count).map(|_| evaluation()).collect();
            check_sizes(&plan, &callbacks, |_| 4 << 30)
        };
        check(7).unwrap();
        let error = check(8).unwrap_err();
        assert!(error.message().contains("36 GiB"), "{}", error.message());
    }
}
