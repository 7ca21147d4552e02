//! What happens beside the training itself: saving the best model, evaluating.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Generation;

/// A callback of a run. The constructors take the Python client's defaults.
///
/// ```
/// use finetuner_protocol::{BestModelCheckpoint, Callback, EvaluationCallback};
///
/// let callbacks: Vec<Callback> = vec![
///     BestModelCheckpoint::new().into(),
///     EvaluationCallback::new("clip-fashion-eval-data").limit(10).into(),
/// ];
/// # assert_eq!(callbacks[0].name(), "BestModelCheckpoint");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Callback {
    /// Keeps the best weights.
    BestModelCheckpoint(BestModelCheckpoint),
    /// Measures retrieval before and after the training.
    EvaluationCallback(EvaluationCallback),
    /// Any other callback.
    Other {
        /// Its name.
        name: String,
        /// Its options.
        options: Map<String, Value>,
    },
}

impl Callback {
    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::BestModelCheckpoint(_) => "BestModelCheckpoint",
            Self::EvaluationCallback(_) => "EvaluationCallback",
            Self::Other { name, .. } => name,
        }
    }

    /// The callback as the given generation of the client sends it.
    #[must_use]
    pub fn to_json(&self, generation: Generation) -> Value {
        let options = match self {
            Self::BestModelCheckpoint(callback) => callback.options(generation),
            Self::EvaluationCallback(callback) => callback.options(generation),
            Self::Other { options, .. } => options.clone(),
        };
        json!({"name": self.name(), "options": options})
    }

    /// Reads what a client of either generation sent.
    ///
    /// # Errors
    /// Where an option has a value of the wrong kind.
    pub fn from_json(value: Value) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Wire {
            name: String,
            #[serde(default)]
            options: Option<Map<String, Value>>,
        }
        let Wire { name, options } = serde_json::from_value(value)?;
        let options = options.unwrap_or_default();
        Ok(match name.as_str() {
            "BestModelCheckpoint" => {
                Self::BestModelCheckpoint(serde_json::from_value(options.into())?)
            }
            "EvaluationCallback" => {
                Self::EvaluationCallback(serde_json::from_value(options.into())?)
            }
            _ => Self::Other { name, options },
        })
    }
}

/// Keeps the weights of the epoch with the best value of a metric, and puts
/// them into the artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BestModelCheckpoint {
    /// The metric: `train_loss`, `val_loss` or one of an
    /// [`EvaluationCallback`]. `val_loss` by default.
    pub monitor: String,
    /// `min`, `max`, or `auto`: the smaller the better for losses, the greater
    /// for everything else.
    pub mode: String,
    /// Sent by clients up to 0.2.2; without effect.
    pub save_dir: String,
    /// Sent by clients up to 0.2.2; without effect.
    pub verbose: bool,
    /// Options that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for BestModelCheckpoint {
    fn default() -> Self {
        Self {
            monitor: "val_loss".to_owned(),
            mode: "auto".to_owned(),
            save_dir: "best_model_chckpt".to_owned(),
            verbose: false,
            extra: Map::new(),
        }
    }
}

impl BestModelCheckpoint {
    /// Watches the validation loss.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`BestModelCheckpoint::monitor`].
    #[must_use]
    pub fn monitor(mut self, metric: impl Into<String>) -> Self {
        self.monitor = metric.into();
        self
    }

    /// Sets [`BestModelCheckpoint::mode`].
    #[must_use]
    pub fn mode(mut self, mode: impl Into<String>) -> Self {
        self.mode = mode.into();
        self
    }

    fn options(&self, generation: Generation) -> Map<String, Value> {
        let (monitor, mode) = (&self.monitor, &self.mode);
        let options = match generation {
            Generation::V0_2 => json!({
                "save_dir": self.save_dir, "monitor": monitor, "mode": mode,
                "verbose": self.verbose,
            }),
            Generation::V0_8 => json!({"monitor": monitor, "mode": mode}),
        };
        merged(options, &self.extra)
    }
}

impl From<BestModelCheckpoint> for Callback {
    fn from(callback: BestModelCheckpoint) -> Self {
        Self::BestModelCheckpoint(callback)
    }
}

/// Measures how well queries find their documents, before and after the
/// training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluationCallback {
    /// The name of the query data. Pairs of a text and a picture are queries
    /// and index at once.
    pub query_data: String,
    /// The name of the data to search in; the query data where there is none.
    pub index_data: Option<String>,
    /// Documents embedded at once; 32 by default (8 up to client 0.2.2).
    pub batch_size: usize,
    /// Whether a document may find itself where queries and index are one.
    pub exclude_self: bool,
    /// How many documents a query finds; 20 by default.
    pub limit: usize,
    /// `cosine`, `euclidean` or `sqeuclidean`.
    pub distance: String,
    /// Which part of the model embeds the queries.
    pub model: Option<String>,
    /// Which part of the model embeds the index.
    pub index_model: Option<String>,
    /// Whether queries and index are of two kinds.
    pub multi_modal: bool,
    /// Evaluate every so many steps as well.
    pub steps_per_interval: Option<usize>,
    /// Whether to keep some queries with what they found.
    pub gather_examples: bool,
    /// How many queries to keep.
    pub num_example_queries: usize,
    /// Threads that load data.
    pub num_workers: usize,
    /// A note to tell this evaluation from others.
    pub caption: Option<String>,
    /// Whether metric names begin with the name of the model.
    pub output_model_names: bool,
    /// How many queries to draw from the query data; all by default.
    pub query_sample_size: Option<usize>,
    /// Options that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for EvaluationCallback {
    fn default() -> Self {
        Self {
            query_data: String::new(),
            index_data: None,
            batch_size: 32,
            exclude_self: true,
            limit: 20,
            distance: "cosine".to_owned(),
            model: None,
            index_model: None,
            multi_modal: false,
            steps_per_interval: None,
            gather_examples: false,
            num_example_queries: 5,
            num_workers: 8,
            caption: None,
            output_model_names: false,
            query_sample_size: None,
            extra: Map::new(),
        }
    }
}

impl EvaluationCallback {
    /// Evaluates with the query data of this name.
    #[must_use]
    pub fn new(query_data: impl Into<String>) -> Self {
        Self {
            query_data: query_data.into(),
            ..Self::default()
        }
    }

    /// Sets [`EvaluationCallback::index_data`].
    #[must_use]
    pub fn index_data(mut self, name: impl Into<String>) -> Self {
        self.index_data = Some(name.into());
        self
    }

    /// Sets [`EvaluationCallback::limit`].
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets [`EvaluationCallback::batch_size`].
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Sets [`EvaluationCallback::distance`].
    #[must_use]
    pub fn distance(mut self, distance: impl Into<String>) -> Self {
        self.distance = distance.into();
        self
    }

    fn options(&self, generation: Generation) -> Map<String, Value> {
        let mut options = json!({
            "query_data": self.query_data, "index_data": self.index_data,
            "batch_size": self.batch_size, "exclude_self": self.exclude_self,
            "limit": self.limit, "distance": self.distance,
        });
        let rest = match generation {
            Generation::V0_2 => json!({"metrics": null}),
            Generation::V0_8 => json!({
                "model": self.model, "index_model": self.index_model,
                "multi_modal": self.multi_modal,
                "steps_per_interval": self.steps_per_interval,
                "gather_examples": self.gather_examples,
                "num_example_queries": self.num_example_queries,
                "num_workers": self.num_workers, "caption": self.caption,
                "output_model_names": self.output_model_names,
                "query_sample_size": self.query_sample_size,
            }),
        };
        if let (Value::Object(options), Value::Object(rest)) = (&mut options, rest) {
            options.extend(rest);
        }
        merged(options, &self.extra)
    }
}

impl From<EvaluationCallback> for Callback {
    fn from(callback: EvaluationCallback) -> Self {
        Self::EvaluationCallback(callback)
    }
}

/// An object with more members added.
pub(crate) fn merged(object: Value, extra: &Map<String, Value>) -> Map<String, Value> {
    let mut map = match object {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in extra {
        map.insert(key.clone(), value.clone());
    }
    map
}
