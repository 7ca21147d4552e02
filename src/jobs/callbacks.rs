//! Callbacks of `fit`. Most are the protocol's own; one that evaluates may also
//! be given its data.

use finetuner_protocol::{Callback, Distance, callback};
use serde_json::{Map, Value};

use super::submit::Pushing;
use crate::data::DataSource;

/// Measures how well queries find their documents, before and after the
/// training. Its data is a name, documents or a CSV file, as for `fit`.
///
/// ```
/// use finetuner::EvaluationCallback;
///
/// // Pairs of a text and a picture are queries and index at once:
/// let evaluation = EvaluationCallback::new("clip-fashion-eval-data");
/// // Labelled queries, searched for in a labelled index:
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
    /// Evaluates with this query data.
    pub fn new(query_data: impl Into<DataSource>) -> Self {
        Self {
            query_data: query_data.into(),
            index_data: None,
            batch_size: None,
            options: callback::EvaluationCallback::default(),
        }
    }

    /// The data to search in; the query data by default.
    pub fn index_data(mut self, data: impl Into<DataSource>) -> Self {
        self.index_data = Some(data.into());
        self
    }

    /// The data to search with, in place of that given to
    /// [`EvaluationCallback::new`].
    pub fn query_data(mut self, data: impl Into<DataSource>) -> Self {
        self.query_data = data.into();
        self
    }

    /// Documents embedded at once, at least 1; 32 by default, as in the last
    /// Python client (8 as in that of the guide).
    pub fn batch_size(mut self, value: u64) -> Self {
        self.batch_size = Some(value);
        self
    }

    /// The metrics to measure in place of docarray's nine: some of those by
    /// name, and the metrics of information retrieval at a rank, in whose names
    /// `k` is any number: `accuracy@k`, `map@k`, `mrr@k`, `ndcg@k`, `precision@k`
    /// and `recall@k`. These count all relevant documents, found or not.
    ///
    /// If the query data are pairs with a score, or documents of an anchor, a match
    /// and negatives, other metrics are measured, each for `cosine` (the default),
    /// `dot`, `euclidean` and `manhattan`: `spearman_cosine` and `pearson_cosine` of
    /// scored pairs; `cosine_accuracy` of triplets; and of pairs with the score 1 or
    /// 0 `cosine_accuracy`, `cosine_f1`, `cosine_precision`, `cosine_recall`,
    /// `cosine_ap`, `cosine_mcc`, `cosine_accuracy_threshold` and
    /// `cosine_f1_threshold`.
    pub fn metrics<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.options
            .extra
            .insert("metrics".to_owned(), names.into());
        self
    }

    options! {
        /// How many documents a query finds, at least 1; 20 by default.
        limit: u64,
        /// How documents are compared; [`Distance::Cosine`] by default.
        distance: impl Into<Distance>,
        /// Whether a document must not find itself where queries and index are
        /// one; yes by default.
        exclude_self: bool,
        /// Which part of the model embeds the queries, such as `clip-text`.
        model: impl Into<String>,
        /// Which part of the model embeds the index, such as `clip-vision`.
        index_model: impl Into<String>,
        /// Whether documents have parts of several kinds; not by default.
        multi_modal: bool,
        /// Evaluates every so many steps as well.
        steps_per_interval: u64,
        /// Whether some queries are kept with what they found, for
        /// [`Run::example_results`](crate::Run::example_results); not by default.
        gather_examples: bool,
        /// How many queries are kept; 5 by default.
        num_example_queries: u64,
        /// Threads that match queries and documents; 8 by default.
        num_workers: u64,
        /// What the names of the metrics begin with, to tell them from another
        /// evaluation's.
        caption: impl Into<String>,
        /// Whether the names of the metrics begin with the model's; not by
        /// default.
        output_model_names: bool,
        /// How many queries are drawn from the query data; all by default.
        query_sample_size: u64,
    }
}

/// The callback of a run configuration, whose data has names.
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

/// What `fit` takes as a callback: any of the callbacks here, or any other by
/// its name.
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
    /// A callback that this client does not know, by its name.
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

    /// The callback as it travels, its data having names.
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

/// The names of all callbacks that have types of their own here.
#[must_use]
pub fn list_callbacks() -> &'static [&'static str] {
    callback::CALLBACKS
}
