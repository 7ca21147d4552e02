//! `EvaluationCallback`: measures retrieval before and after training.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checks::{check_name_given, check_positive, invalid_option};
use crate::{Distance, Generation, InvalidField, members::with_extra_members};

/// Measures retrieval before and after training.
///
/// ```
/// use finetuner_protocol::callback::EvaluationCallback;
///
/// let callback = EvaluationCallback::new("queries").index_data("pictures").limit(10);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EvaluationCallback {
    /// Name of the query data. Pairs of a text and an image serve as queries and
    /// index.
    pub query_data: String,
    /// Name of the data to search in; the query data by default.
    pub index_data: Option<String>,
    /// Number of documents embedded at once; 32 by default (8 up to client 0.2.2).
    pub batch_size: u64,
    /// Whether a document is removed from its own results if queries and index are
    /// the same.
    ///
    /// A document is recognised by its id. If several documents of the index have the id,
    /// only one is removed: the one at the query's place in the data, or the first if that
    /// one has another id.
    pub exclude_self: bool,
    /// Number of documents retrieved per query; 20 by default.
    pub limit: u64,
    /// `cosine`, `euclidean` or `sqeuclidean`.
    pub distance: Distance,
    /// Part of the model that embeds the queries.
    pub model: Option<String>,
    /// Part of the model that embeds the index.
    pub index_model: Option<String>,
    /// Whether queries and index have different modalities.
    pub multi_modal: bool,
    /// Number of steps after which to evaluate as well.
    pub steps_per_interval: Option<u64>,
    /// Whether to keep some queries with their results.
    pub gather_examples: bool,
    /// Number of queries to keep.
    pub num_example_queries: u64,
    /// Number of threads that load data.
    pub num_workers: u64,
    /// Prefix of the metric names, to distinguish several evaluations.
    pub caption: Option<String>,
    /// Whether metric names begin with the name of the model.
    pub output_model_names: bool,
    /// Number of queries sampled from the query data; all by default.
    pub query_sample_size: Option<u64>,
    /// Other options, kept as received.
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
            distance: Distance::Cosine,
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
    /// Creates an evaluation with the query data of this name.
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
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Sets [`EvaluationCallback::batch_size`].
    #[must_use]
    pub fn batch_size(mut self, batch_size: u64) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Sets [`EvaluationCallback::distance`].
    #[must_use]
    pub fn distance(mut self, distance: impl Into<Distance>) -> Self {
        self.distance = distance.into();
        self
    }

    /// Sets [`EvaluationCallback::exclude_self`].
    #[must_use]
    pub fn exclude_self(mut self, value: bool) -> Self {
        self.exclude_self = value;
        self
    }

    /// Sets [`EvaluationCallback::model`].
    #[must_use]
    pub fn model(mut self, value: impl Into<String>) -> Self {
        self.model = Some(value.into());
        self
    }

    /// Sets [`EvaluationCallback::index_model`].
    #[must_use]
    pub fn index_model(mut self, value: impl Into<String>) -> Self {
        self.index_model = Some(value.into());
        self
    }

    /// Sets [`EvaluationCallback::multi_modal`].
    #[must_use]
    pub fn multi_modal(mut self, value: bool) -> Self {
        self.multi_modal = value;
        self
    }

    /// Sets [`EvaluationCallback::steps_per_interval`].
    #[must_use]
    pub fn steps_per_interval(mut self, value: u64) -> Self {
        self.steps_per_interval = Some(value);
        self
    }

    /// Sets [`EvaluationCallback::gather_examples`].
    #[must_use]
    pub fn gather_examples(mut self, value: bool) -> Self {
        self.gather_examples = value;
        self
    }

    /// Sets [`EvaluationCallback::num_example_queries`].
    #[must_use]
    pub fn num_example_queries(mut self, value: u64) -> Self {
        self.num_example_queries = value;
        self
    }

    /// Sets [`EvaluationCallback::num_workers`].
    #[must_use]
    pub fn num_workers(mut self, value: u64) -> Self {
        self.num_workers = value;
        self
    }

    /// Sets [`EvaluationCallback::caption`].
    #[must_use]
    pub fn caption(mut self, value: impl Into<String>) -> Self {
        self.caption = Some(value.into());
        self
    }

    /// Sets [`EvaluationCallback::output_model_names`].
    #[must_use]
    pub fn output_model_names(mut self, value: bool) -> Self {
        self.output_model_names = value;
        self
    }

    /// Sets [`EvaluationCallback::query_sample_size`].
    #[must_use]
    pub fn query_sample_size(mut self, value: u64) -> Self {
        self.query_sample_size = Some(value);
        self
    }

    /// Finds the first option that can't be used.
    pub(super) fn check(&self) -> Result<(), InvalidField> {
        const NAME: &str = "EvaluationCallback";
        check_name_given(NAME, "query_data", &self.query_data)?;
        if let Some(index) = &self.index_data {
            check_name_given(NAME, "index_data", index)?;
        }
        check_positive(NAME, "batch_size", self.batch_size)?;
        check_positive(NAME, "limit", self.limit)?;
        if let Some(steps) = self.steps_per_interval {
            check_positive(NAME, "steps_per_interval", steps)?;
        }
        if let Some(size) = self.query_sample_size {
            check_positive(NAME, "query_sample_size", size)?;
        }
        if matches!(self.distance, Distance::Other(_)) {
            return Err(invalid_option(
                NAME,
                "distance",
                format!("`{}`", self.distance),
                "it must be one of cosine, euclidean, sqeuclidean",
            ));
        }
        Ok(())
    }

    pub(super) fn options(&self, generation: Generation) -> Map<String, Value> {
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
        with_extra_members(options, &self.extra)
    }
}
