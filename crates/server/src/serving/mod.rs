//! Finished models in use: each is loaded once, kept in memory while there is
//! room, and asked in batches. Who may use which is the caller's to check.

mod batch;
mod cache;
mod counters;
mod index;
mod load;

use std::sync::Arc;

use finetuner_engine::{
    infer::Embeddings,
    source::{HubRules, ModelSource},
};
use tokio::sync::Semaphore;

pub(crate) use batch::{Item, Model, Prompted, Refused};
pub(crate) use cache::{Cache, Held, Room};
pub(crate) use counters::ServingCounters;
use index::Progress;
pub(crate) use index::{Found, Index, MOST as MOST_SEARCHED, gather};

use crate::{
    error::{ApiError, Result},
    store::{Hold, Store},
};
use batch::Batches;

/// Batches that are computed at once over all models: one is prepared while
/// another is multiplied.
const BATCHES: usize = 2;
/// Models that are loaded at once; one may be fetched from the hub for minutes.
const LOADS: usize = 4;
/// The most bytes of embedded data sets that are kept.
const INDEX_BYTES: u64 = 256 << 20;

/// The models in use.
pub(crate) struct Serving {
    store: Store,
    models: Arc<Cache<Model>>,
    /// Data sets that models have embedded.
    pub(crate) indexes: Arc<Cache<Index>>,
    /// How far those are that are being embedded.
    pub(crate) progress: Progress,
    batches: Batches,
    loads: Arc<Semaphore>,
    counters: ServingCounters,
}

impl Serving {
    /// Keeps loaded models of so many bytes.
    pub(crate) fn new(store: Store, max_loaded: u64, counters: ServingCounters) -> Self {
        Self {
            store,
            models: Cache::new(
                (
                    "loaded models",
                    "ask the operator for a higher `--max-loaded`",
                ),
                max_loaded,
                counters.models.clone(),
            ),
            indexes: Cache::new(
                ("embedded data", "search a smaller dataset"),
                INDEX_BYTES,
                counters.indexes.clone(),
            ),
            progress: Progress::default(),
            batches: Batches::new(BATCHES, counters.clone()),
            loads: Arc::new(Semaphore::new(LOADS)),
            counters,
        }
    }

    /// The model in an artifact with this content.
    pub(crate) async fn model(&self, content: &str, hold: Hold) -> Result<Held<Model>> {
        let (store, own) = (self.store.clone(), content.to_owned());
        let load = move |room| async move { load::artifact(&store, &own, hold, room).await };
        self.load(content, load).await
    }

    /// A model as it was before fine-tuning. `name` says which one it is.
    pub(crate) async fn backbone(
        &self,
        name: &str,
        source: ModelSource,
        rules: HubRules,
    ) -> Result<Held<Model>> {
        let load = move |room| load::backbone(source, rules, room);
        // Contents are hex digits alone.
        self.load(&format!("backbone {name}"), load).await
    }

    async fn load<F>(
        &self,
        key: &str,
        load: impl FnOnce(Room<Model>) -> F + Send + 'static,
    ) -> Result<Held<Model>>
    where
        F: Future<Output = Result<Model>> + Send + 'static,
    {
        let (loads, counters) = (Arc::clone(&self.loads), self.counters.clone());
        let make = move |room| async move {
            let turn = loads.acquire_owned().await;
            let turn = turn.map_err(|e| ApiError::internal(&e))?;
            let model = load(room).await?;
            counters.loaded();
            drop(turn);
            Ok(model)
        };
        self.models.get(key, make).await
    }

    /// Embeds inputs, in their order, together with those of others.
    pub(crate) async fn embed(
        &self,
        model: &Held<Model>,
        prompt: &Prompted,
        items: Vec<Item>,
    ) -> Result<Embeddings, Refused> {
        self.batches.embed(model, prompt, items).await
    }
}
