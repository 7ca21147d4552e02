//! Options for mining hard negatives from a corpus.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{InvalidField, NegativesFormat, SamplingStrategy, check_name};

/// Configuration field of [`HardNegatives`].
pub(crate) const FIELD: &str = "mine_hard_negatives";

/// Maximum number of negatives of a pair. Later ones are hardly ever hard.
const MAX_NEGATIVES: u64 = 1000;
/// Maximum rank of a candidate.
const MAX_RANK: u64 = 100_000;

/// Options for mining hard negatives.
///
/// Names, defaults and meaning are those of `mine_hard_negatives` in
/// sentence-transformers. A negative is a document of the corpus that is similar to a
/// pair's query and does not belong to it. The corpus consists of the second members
/// of all pairs, and of [`HardNegatives::corpus`].
///
/// ```
/// use finetuner_protocol::HardNegatives;
///
/// let options = HardNegatives::new()
///     .range_min(10)
///     .range_max(50)
///     .relative_margin(0.05)
///     .num_negatives(5);
/// assert!(options.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HardNegatives {
    /// Name of further data to mine from, besides the second members of the pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    /// Number of top ranks to skip: 10 skips the ten most similar documents. 0 by
    /// default.
    pub range_min: u64,
    /// Last rank of a candidate. The default is the sum of `range_min`,
    /// `num_negatives` (ten times that with a limit on scores) and the largest number
    /// of matches of one query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_max: Option<u64>,
    /// Maximum score of a negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_score: Option<f64>,
    /// Minimum score of a negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// Minimum difference between the score of the query's worst match and that of
    /// a negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute_margin: Option<f64>,
    /// The same relative to that match's score: with 0.05, a negative has at most
    /// 95 % of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_margin: Option<f64>,
    /// Number of negatives per query; 3 by default.
    pub num_negatives: u64,
    /// `top` (the default) selects the most similar candidates, `random` samples from
    /// all of them.
    pub sampling_strategy: SamplingStrategy,
    /// Whether the query's own matches are candidates too, which shows how a model
    /// ranks them. The format is `n-tuple` then.
    pub include_positives: bool,
    /// Format of the documents.
    ///
    /// `triplet`, the default: a query, its match and one negative per document.
    /// `n-tuple`: a query, its match and all negatives. `labeled-pair`: a query and
    /// a document, with the score 1 or 0. `labeled-list`: a query, its match and the
    /// negatives found, with the tag `labels`.
    pub output_format: NegativesFormat,
    /// Whether documents contain the similarities: in the tag `scores`, or as the
    /// score of a `labeled-pair`.
    pub output_scores: bool,
    /// Number of documents embedded at once; 32 by default.
    pub batch_size: u64,
    /// Seed for `random`; the seed of the run by default, or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Other options, kept as received.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for HardNegatives {
    fn default() -> Self {
        Self {
            corpus: None,
            range_min: 0,
            range_max: None,
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            num_negatives: 3,
            sampling_strategy: SamplingStrategy::Top,
            include_positives: false,
            output_format: NegativesFormat::Triplet,
            output_scores: false,
            batch_size: 32,
            seed: None,
            extra: Map::new(),
        }
    }
}

/// Defines a method that sets a field of [`HardNegatives`].
macro_rules! setter {
    ($name:ident, $type:ty, $value:ident => $stored:expr) => {
        #[doc = concat!("Sets [`HardNegatives::", stringify!($name), "`].")]
        #[must_use]
        pub fn $name(mut self, $value: $type) -> Self {
            self.$name = $stored;
            self
        }
    };
}

impl HardNegatives {
    /// Returns the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setter!(corpus, impl Into<String>, name => Some(name.into()));
    setter!(range_min, u64, rank => rank);
    setter!(range_max, u64, rank => Some(rank));
    setter!(max_score, f64, score => Some(score));
    setter!(min_score, f64, score => Some(score));
    setter!(absolute_margin, f64, margin => Some(margin));
    setter!(relative_margin, f64, margin => Some(margin));
    setter!(num_negatives, u64, count => count);
    setter!(sampling_strategy, impl Into<SamplingStrategy>, strategy => strategy.into());
    setter!(include_positives, bool, include => include);
    setter!(output_format, impl Into<NegativesFormat>, format => format.into());
    setter!(output_scores, bool, scores => scores);
    setter!(batch_size, u64, size => size);
    setter!(seed, u64, seed => Some(seed));

    /// Finds the first option that can't be used.
    ///
    /// # Errors
    /// [`InvalidField`] names the option, its value and the limit.
    pub fn check(&self) -> Result<(), InvalidField> {
        let bad = |name: &str, value: String, limit: &str| {
            Err(InvalidField::new(&format!("{FIELD}.{name}"), value, limit))
        };
        if let Some((name, value)) = self.extra.iter().next() {
            return bad(name, value.to_string(), "there is no such option");
        }
        if let Some(corpus) = &self.corpus {
            check_name(&format!("{FIELD}.corpus"), corpus)?;
        }
        let numbers = [
            ("max_score", self.max_score),
            ("min_score", self.min_score),
            ("absolute_margin", self.absolute_margin),
            ("relative_margin", self.relative_margin),
        ];
        for (name, number) in numbers {
            if let Some(number) = number.filter(|number| !(-1e6..=1e6).contains(number)) {
                let limit = "it must be a number from -1000000 to 1000000";
                return bad(name, number.to_string(), limit);
            }
        }
        let words: [(&str, &str, &[&str]); 2] = [
            (
                "sampling_strategy",
                self.sampling_strategy.as_str(),
                &["top", "random"],
            ),
            (
                "output_format",
                self.output_format.as_str(),
                &["triplet", "n-tuple", "labeled-pair", "labeled-list"],
            ),
        ];
        for (name, word, known) in words {
            if !known.contains(&word) {
                let limit = format!("it must be one of {}", known.join(", "));
                return bad(name, format!("`{word}`"), &limit);
            }
        }
        let counts = [
            ("num_negatives", self.num_negatives, 1, MAX_NEGATIVES),
            ("batch_size", self.batch_size, 1, 1 << 20),
            ("range_min", self.range_min, 0, MAX_RANK),
            ("range_max", self.range_max.unwrap_or(1), 1, MAX_RANK),
        ];
        for (name, count, low, high) in counts {
            if !(low..=high).contains(&count) {
                let limit = format!("it must be a whole number from {low} to {high}");
                return bad(name, count.to_string(), &limit);
            }
        }
        if let Some(last) = self.range_max
            && last < self.range_min.saturating_add(self.num_negatives)
        {
            let limit = format!(
                "there must be room for {1} negatives (`num_negatives`) after the first {0} ranks \
                 (`range_min`)",
                self.range_min, self.num_negatives
            );
            return bad("range_max", last.to_string(), &limit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_option_is_checked_against_its_limits() {
        let new = HardNegatives::new;
        for (options, field) in [
            (new().num_negatives(0), "num_negatives"),
            (new().num_negatives(1001), "num_negatives"),
            (new().batch_size(0), "batch_size"),
            (new().range_min(u64::MAX), "range_min"),
            (new().range_max(0), "range_max"),
            (new().range_max(2), "range_max"),
            (new().range_min(5).range_max(7), "range_max"),
            (new().max_score(f64::NAN), "max_score"),
            (new().min_score(f64::INFINITY), "min_score"),
            (new().absolute_margin(f64::NAN), "absolute_margin"),
            (new().relative_margin(-1e7), "relative_margin"),
            (new().sampling_strategy("best"), "sampling_strategy"),
            (new().output_format("csv"), "output_format"),
            (new().corpus("a/b"), "corpus"),
        ] {
            let error = options.check().unwrap_err();
            assert_eq!(error.field, format!("mine_hard_negatives.{field}"));
        }
        let options: HardNegatives = serde_json::from_value(json!({"use_faiss": true})).unwrap();
        let error = options.check().unwrap_err();
        assert_eq!(error.field, "mine_hard_negatives.use_faiss");
        assert_eq!(new().range_min(5).range_max(8).check(), Ok(()));
    }

    #[test]
    fn options_and_unknown_fields_survive_a_round_trip() {
        let sent = json!({"range_min": 2, "max_score": 0.5, "corpus": "c", "next": [1]});
        let read: HardNegatives = serde_json::from_value(sent).unwrap();
        assert_eq!((read.range_min, read.num_negatives), (2, 3));
        let again = serde_json::to_value(&read).unwrap();
        assert_eq!(again["next"], json!([1]));
        assert!(again.get("min_score").is_none());
        let again: HardNegatives = serde_json::from_value(again).unwrap();
        assert_eq!(again, read);
    }
}
