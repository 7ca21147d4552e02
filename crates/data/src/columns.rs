//! The meaning of columns, by their names.

/// Names the columns of a file by their meaning. Columns that are not named here are
/// left out.
///
/// Without it, columns are recognised by the names that data sets for
/// sentence-transformers have: `anchor`, `query`, `question`, `sentence1` for the first item;
/// `positive`, `answer`, `document`, `sentence2` for its match; `negative`,
/// `negative_1`, `negative_2`, ... for its negatives; `text` or `sentence` with
/// `label`; `score`; `image` with `caption`.
///
/// ```no_run
/// use finetuner::{Columns, Csv, CsvOptions, Dataset};
///
/// let columns = Columns::new().anchor("title").positive("body").add_negative("other").add_negative("wrong");
/// let rows = Dataset::json_lines("train.jsonl").columns(columns.clone());
/// // The first row of the file holds the names.
/// let csv = Csv::path("train.csv").options(CsvOptions::new().columns(columns));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Columns {
    pub(crate) anchor: Option<String>,
    pub(crate) positive: Option<String>,
    pub(crate) negatives: Vec<String>,
    pub(crate) text: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) scores: Vec<String>,
}

impl Columns {
    /// Names no columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first item of each row: a query, a question, a first sentence.
    pub fn anchor(mut self, name: impl Into<String>) -> Self {
        self.anchor = Some(name.into());
        self
    }

    /// The item that matches the first one, or is compared with it.
    pub fn positive(mut self, name: impl Into<String>) -> Self {
        self.positive = Some(name.into());
        self
    }

    /// An item that does not match the first one; may be called several times. In
    /// JSON Lines and Parquet, a column may hold a list of them.
    pub fn add_negative(mut self, name: impl Into<String>) -> Self {
        self.negatives.push(name.into());
        self
    }

    /// Texts that have a label or a picture.
    pub fn text(mut self, name: impl Into<String>) -> Self {
        self.text = Some(name.into());
        self
    }

    /// Pictures: paths, addresses, or in Parquet their bytes.
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.image = Some(name.into());
        self
    }

    /// Labels: items that share one belong together.
    pub fn label(mut self, name: impl Into<String>) -> Self {
        self.label = Some(name.into());
        self
    }

    /// How similar the first two items are, or the margins of `MarginMSELoss`: one
    /// for each negative, or the scores of the match and of each negative. May be
    /// called several times; in JSON Lines and Parquet, a column may hold a list.
    pub fn add_score(mut self, name: impl Into<String>) -> Self {
        self.scores.push(name.into());
        self
    }

    /// Whether nothing is named.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
