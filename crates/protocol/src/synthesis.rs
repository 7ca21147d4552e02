//! The configuration of a synthesis run, as `synthesize` serializes it. Such a run
//! makes training data out of queries and a corpus without labels.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{InvalidField, check_name, config::unknown_members};

/// The most texts for each query.
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
    /// The run's name.
    pub run_name: String,
    /// The experiment that the run belongs to.
    pub experiment_name: String,
    /// The data to make training data from.
    pub data: SynthesisData,
    /// Settings of the search for texts that are like a query.
    pub relation_mining: RelationMining,
    /// The model that scores pairs.
    pub cross_encoder: String,
    /// The most documents to make.
    pub max_num_docs: Option<u64>,
    /// Members that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Names of the data that a synthesis run reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SynthesisData {
    /// Queries.
    pub queries: String,
    /// Documents to find for them.
    pub corpus: String,
    /// Members that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Settings of the search for texts that are like a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RelationMining {
    /// Models that embed queries and documents.
    pub models: Vec<String>,
    /// Texts of the corpus for each query, its match among them, up to 1000; 10 by
    /// default.
    pub num_relations: u64,
    /// Members that are not known here.
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
    /// Returns the members that are not known here and are not null, by their
    /// paths, as [`RunConfig::unknown_members`](crate::RunConfig::unknown_members)
    /// does.
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
    /// [`InvalidField`] names the argument, its value and its limits.
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
