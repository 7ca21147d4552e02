//! Names of data sets in messages.

use finetuner_protocol::{Callback, MoreData, RunConfig};

/// Configuration field that names the corpus for hard negatives.
pub(crate) const CORPUS: &str = "mine_hard_negatives.corpus";

/// A data set, as messages name it.
///
/// Users know it by the argument they passed; the server knows it by a name that may be
/// generated.
#[derive(Clone, Copy, Debug)]
pub struct DataName<'a> {
    /// Field of the run's configuration, such as `train_data`.
    pub field: &'a str,
    /// Name of the data set.
    pub name: &'a str,
}

impl<'a> DataName<'a> {
    /// Finds the configuration field of the data set `name`.
    #[must_use]
    pub fn of_run(config: &RunConfig, name: &'a str) -> Self {
        let is_query = |callback: &Callback| matches!(callback, Callback::EvaluationCallback(e) if e.query_data == name);
        let data = &config.data;
        let is_more = |more: &MoreData| more.name == name;
        let mined = config.hyper_parameters.mine_hard_negatives.as_ref();
        let field = if data.train_data == name {
            "train_data"
        } else if data.more_train_data.iter().any(is_more) {
            "more_train_data"
        } else if data.eval_data.as_deref() == Some(name) {
            "eval_data"
        } else if config.callbacks.iter().any(is_query) {
            "query_data"
        } else if mined.is_some_and(|mining| mining.corpus.as_deref() == Some(name)) {
            CORPUS
        } else {
            "index_data"
        };
        Self { field, name }
    }
}

impl std::fmt::Display for DataName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { field, name } = self;
        match field == name {
            true => write!(f, "`{field}`"),
            false => write!(f, "`{field}` (`{name}`)"),
        }
    }
}
