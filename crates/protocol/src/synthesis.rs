//! The configuration of a synthesis run, which creates training data from queries
//! and a corpus without labels.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{InvalidField, check_name, config::unknown_members};

/// Maximum number of texts per query.
const MAX_RELATIONS: u64 = 1000;

/// All settings of a synthesis run.
///
/// ```
/// let mut config = finetuner_protocol::SynthesisConfig::default();
/// config.max_num_docs = Some(1000);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SynthesisConfig {
    /// Whether other users may read the training data.
    pub public: bool,
    /// Name of the run.
    pub run_name: String,
    /// Name of the experiment.
    pub experiment_name: String,
    /// Names of the queries and the corpus.
    pub data: SynthesisData,
    /// Settings of the search for texts similar to a query.
    pub relation_mining: RelationMining,
    /// Model that scores pairs.
    pub cross_encoder: String,
    /// Maximum number of documents to create.
    pub max_num_docs: Option<u64>,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Names of the data that a synthesis run reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SynthesisData {
    /// Name of the queries.
    pub queries: String,
    /// Name of the corpus.
    pub corpus: String,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Settings of the search for texts similar to a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RelationMining {
    /// Models that embed queries and documents.
    pub models: Vec<String>,
    /// Number of texts per query, including its match, up to 1000; 10 by default.
    pub num_relations: u64,
    /// Other members, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for RelationMining {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            num_relations: 10,
            extra: Map::new(),
        }
    }
}

impl SynthesisConfig {
    /// Returns the paths of unknown members that are not null.
    ///
    /// See [`RunConfig::unknown_members`](crate::RunConfig::unknown_members).
    #[must_use]
    pub fn unknown_members(&self) -> Vec<String> {
        unknown_members(&[
            ("", &self.extra),
            ("data.", &self.data.extra),
            ("relation_mining.", &self.relation_mining.extra),
        ])
    }

    /// Finds the first setting that no backend can accept.
    ///
    /// # Errors
    /// [`InvalidField`] names the argument, its value and the limit.
    pub fn check(&self) -> Result<(), InvalidField> {
        check_name("run_name", &self.run_name)?;
        check_name("experiment_name", &self.experiment_name)?;
        let given = [
            ("query_data", &self.data.queries),
            ("corpus_data", &self.data.corpus),
            ("cross_encoder", &self.cross_encoder),
        ];
        for (field, value) in given {
            if value.is_empty() {
                return Err(InvalidField::new(field, "empty", "give it a name"));
            }
        }
        let mining = &self.relation_mining;
        if mining.models.is_empty() || mining.models.iter().any(String::is_empty) {
            return Err(InvalidField::new(
                "relation_miner",
                "empty",
                "name at least one model that embeds texts",
            ));
        }
        if !(1..=MAX_RELATIONS).contains(&mining.num_relations) {
            return Err(InvalidField::new(
                "num_relations",
                mining.num_relations,
                "1 to 1000 are allowed",
            ));
        }
        if self.max_num_docs == Some(0) {
            return Err(InvalidField::new("max_num_docs", 0, "at least 1 is needed"));
        }
        Ok(())
    }
}
