//! Callbacks of `fit`. Most are defined by the protocol; [`EvaluationCallback`]
//! also accepts data that has not been pushed.

use finetuner_protocol::{Callback, Distance, callback};
use serde_json::{Map, Value};

use super::submit::Pushing;
use crate::data::DataSource;

/// Measures retrieval before and after training.
///
/// Its data is a name, documents or a file, as for `fit`.
///
/// ```
/// use finetuner::EvaluationCallback;
///
/// // Pairs of a text and an image serve as queries and index:
/// let evaluation = EvaluationCallback::new("clip-fashion-eval-data");
/// // Labelled queries and a labelled index:
/// let evaluation = EvaluationCallback::new("queries")
///     .index_data("index")
///     .distance("euclidean")
///     .limit(10)
///     .metrics(["recall@1", "ndcg@10"])
///     .gather_examples(true);
/// # let _ = evaluation;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct EvaluationCallback {
    query_data: DataSource,
    index_data: Option<DataSource>,
    batch_size: Option<u64>,
    options: callback::EvaluationCallback,
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)+) => {
        $($(#[$doc])*
        pub fn $name(mut self, value: $kind) -> Self {
            self.options = self.options.$name(value);
            self
        })+
    };
}

impl EvaluationCallback {
    /// Creates an evaluation with this query data.
    pub fn new(query_data: impl Into<DataSource>) -> Self {
        Self {
            query_data: query_data.into(),
            index_data: None,
            batch_size: None,
            options: callback::EvaluationCallback::default(),
        }
    }

    /// Sets the data to search in; the query data by default.
    pub fn index_data(mut self, data: impl Into<DataSource>) -> Self {
        self.index_data = Some(data.into());
        self
    }

    /// Replaces the query data.
    pub fn query_data(mut self, data: impl Into<DataSource>) -> Self {
        self.query_data = data.into();
        self
    }

    /// Sets the number of documents embedded at once, at least 1.
    ///
    /// The default is 32, or 8 with [`Generation::V0_2`](crate::Generation::V0_2).
    pub fn batch_size(mut self, value: u64) -> Self {
        self.batch_size = Some(value);
        self
    }

    /// Sets the metrics to measure instead of docarray's nine.
    ///
    /// They may be a selection of these, or metrics at any rank `k`: `accuracy@k`,
    /// `map@k`, `mrr@k`, `ndcg@k`, `precision@k` and `recall@k`. The latter count all
    /// relevant documents, found or not.
    ///
    /// For pairs with a score or triplets as query data, there are other metrics,
    /// each for `cosine` (the default), `dot`, `euclidean` and `manhattan`. Scored
    /// pairs have `spearman_cosine` and `pearson_cosine`, triplets
    /// `cosine_accuracy`. Pairs with the scores 1 and 0 have `cosine_accuracy`,
    /// `cosine_f1`, `cosine_precision`, `cosine_recall`, `cosine_ap`, `cosine_mcc`,
    /// `cosine_accuracy_threshold` and `cosine_f1_threshold`.
    pub fn metrics<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.options
            .extra
            .insert("metrics".to_owned(), names.into());
        self
    }

    options! {
        /// Sets the number of documents retrieved per query, at least 1; 20 by
        /// default.
        limit: u64,
        /// Sets the distance between documents; [`Distance::Cosine`] by default.
        distance: impl Into<Distance>,
        /// Sets whether a document is removed from its own results if queries and
        /// index are the same; on by default. If several documents have its id, only the
        /// document itself is removed.
        exclude_self: bool,
        /// Sets the part of the model that embeds the queries, such as `clip-text`.
        model: impl Into<String>,
        /// Sets the part of the model that embeds the index, such as `clip-vision`.
        index_model: impl Into<String>,
        /// Sets whether documents have chunks of several modalities; off by default.
        multi_modal: bool,
        /// Sets the number of steps after which to evaluate as well.
        steps_per_interval: u64,
        /// Sets whether some queries are kept with their results, for
        /// [`Run::example_results`](crate::Run::example_results); off by default.
        gather_examples: bool,
        /// Sets the number of queries to keep; 5 by default.
        num_example_queries: u64,
        /// Sets the number of threads that match queries and documents; 8 by
        /// default.
        num_workers: u64,
        /// Sets a prefix for the names of the metrics, to distinguish several
        /// evaluations.
        caption: impl Into<String>,
        /// Sets whether the names of the metrics begin with the model's; off by
        /// default.
        output_model_names: bool,
        /// Sets the number of queries sampled from the query data; all by default.
        query_sample_size: u64,
    }
}

/// Converts the callback of a run configuration, which refers to data by name.
impl From<callback::EvaluationCallback> for EvaluationCallback {
    fn from(options: callback::EvaluationCallback) -> Self {
        Self {
            query_data: options.query_data.as_str().into(),
            index_data: options.index_data.as_deref().map(DataSource::from),
            batch_size: Some(options.batch_size),
            options,
        }
    }
}

/// A callback for [`Fit::callback`](crate::Fit::callback): a known type, or any
/// other by its name.
///
/// ```
/// use finetuner::{BestModelCheckpoint, FitCallback};
/// use serde_json::json;
///
/// let known: FitCallback = BestModelCheckpoint::new().into();
/// let other = FitCallback::other("NextYearsCallback", [("patience", json!(3))]);
/// # let _ = (known, other);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FitCallback(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Evaluation(Box<EvaluationCallback>),
    Ready(Box<Callback>),
}

impl FitCallback {
    /// Creates a callback that this client does not know, by its name.
    pub fn other<K: Into<String>, V: Into<Value>>(
        name: impl Into<String>,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let options = options.into_iter().map(|(k, v)| (k.into(), v.into()));
        Self(Inner::Ready(Box::new(Callback::Other {
            name: name.into(),
            options: options.collect::<Map<String, Value>>(),
        })))
    }

    /// Returns the callback as sent, with names in place of data.
    pub(crate) fn resolve(self, pushing: &mut Pushing) -> Callback {
        match self.0 {
            Inner::Ready(callback) => *callback,
            Inner::Evaluation(evaluation) => {
                let mut options = evaluation.options;
                options.batch_size = evaluation.batch_size.unwrap_or(pushing.batch_size());
                options.query_data = pushing.name_of(evaluation.query_data, "query", "query_data");
                options.index_data = evaluation
                    .index_data
                    .map(|data| pushing.name_of(data, "index", "index_data"));
                options.into()
            }
        }
    }
}

impl From<EvaluationCallback> for FitCallback {
    fn from(evaluation: EvaluationCallback) -> Self {
        Self(Inner::Evaluation(Box::new(evaluation)))
    }
}

impl From<Callback> for FitCallback {
    fn from(callback: Callback) -> Self {
        Self(Inner::Ready(Box::new(callback)))
    }
}

macro_rules! ready {
    ($($name:ident),+) => {
        $(impl From<callback::$name> for FitCallback {
            fn from(callback: callback::$name) -> Self {
                Self(Inner::Ready(Box::new(callback.into())))
            }
        })+
    };
}

ready!(
    BestModelCheckpoint,
    TrainingCheckpoint,
    EarlyStopping,
    WandBLogger,
    WiSEFTCallback,
    MLFlowLogger
);

/// Returns the names of all callbacks with their own type.
#[must_use]
pub fn list_callbacks() -> &'static [&'static str] {
    callback::CALLBACKS
}
