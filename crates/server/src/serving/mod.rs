//! Finished models in use: each is loaded once, cached within a memory limit,
//! and called in batches. Callers check who may use which model.

mod batch;
mod cache;
mod counters;
mod images;
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
pub(crate) use images::{MAX_IMAGE, check_image};
use index::Progress;
pub(crate) use index::{Found, Index, MOST as MOST_SEARCHED, gather};

use crate::{
    error::{ApiError, Result},
    store::{Hold, Store},
};
use batch::Batches;

/// Number of batches at the same time over all models. One is prepared while
/// another is computed.
const BATCHES: usize = 2;
/// Number of models that load at the same time. A download from the hub may
/// take minutes.
const LOADS: usize = 4;
/// Size limit of cached data set embeddings, in bytes.
const INDEX_BYTES: u64 = 256 << 20;

/// The loaded models and embedded data sets.
pub(crate) struct Serving {
    store: Store,
    models: Arc<Cache<Model>>,
    /// Embeddings of data sets.
    pub(crate) indexes: Arc<Cache<Index>>,
    /// Progress of data sets that are being embedded.
    pub(crate) progress: Progress,
    batches: Batches,
    loads: Arc<Semaphore>,
    counters: ServingCounters,
}

impl Serving {
    /// Creates the cache. Loaded models may take `max_loaded` bytes.
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

    /// Returns the model in the artifact with this content.
    pub(crate) async fn model(&self, content: &str, hold: Hold) -> Result<Held<Model>> {
        let (store, own) = (self.store.clone(), content.to_owned());
        let load = move |room| async move { load::artifact(&store, &own, hold, room).await };
        self.load(content, load).await
    }

    /// Returns a model without fine-tuning. `name` identifies it in the cache.
    pub(crate) async fn backbone(
        &self,
        name: &str,
        source: ModelSource,
        rules: HubRules,
    ) -> Result<Held<Model>> {
        let load = move |room| load::backbone(source, rules, room);
        // Contents are hex digits, so the keys can't collide.
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

    /// Embeds inputs in batches with the inputs of other requests. Keeps the order.
    pub(crate) async fn embed(
        &self,
        model: &Held<Model>,
        prompt: &Prompted,
        items: Vec<Item>,
    ) -> Result<Embeddings, Refused> {
        self.batches.embed(model, prompt, items).await
    }
}
