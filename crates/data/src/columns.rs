//! Names of the columns to train on.

/// Assigns roles to the columns of a file. Other columns are ignored.
///
/// Without it, columns are recognized by the names that data sets for
/// sentence-transformers have:
///
/// - `anchor`, `query`, `question`, `sentence1`: the anchor
/// - `positive`, `answer`, `document`, `sentence2`: its positive
/// - `negative`, or `negative_1`, `negative_2`, ...: its negatives
/// - `score`: the similarity of a pair, or margins
/// - `text` or `sentence`, with `label`: labelled texts
/// - `image`, with `caption`: text-image pairs
///
/// ```no_run
/// use finetuner::{Columns, Csv, CsvOptions, Dataset};
///
/// let columns = Columns::new()
///     .anchor("title")
///     .positive("body")
///     .add_negative("other")
///     .add_negative("wrong");
/// let rows = Dataset::json_lines("train.jsonl").columns(columns.clone());
/// // The first row of the CSV file has the names.
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
    /// Creates a value that names no columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the column of the anchors: the first item, such as a query or question.
    pub fn anchor(mut self, name: impl Into<String>) -> Self {
        self.anchor = Some(name.into());
        self
    }

    /// Sets the column of the items that match the anchors or are compared with them.
    pub fn positive(mut self, name: impl Into<String>) -> Self {
        self.positive = Some(name.into());
        self
    }

    /// Adds a column of items that do not match the anchors.
    ///
    /// In JSON Lines and Parquet files, a cell may be a list of them.
    pub fn add_negative(mut self, name: impl Into<String>) -> Self {
        self.negatives.push(name.into());
        self
    }

    /// Sets the column of the texts, in data with labels or images.
    pub fn text(mut self, name: impl Into<String>) -> Self {
        self.text = Some(name.into());
        self
    }

    /// Sets the column of the images: paths, URLs, or in Parquet files their bytes.
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.image = Some(name.into());
        self
    }

    /// Sets the column of the labels. Items with the same label are positives.
    pub fn label(mut self, name: impl Into<String>) -> Self {
        self.label = Some(name.into());
        self
    }

    /// Adds a column of scores: the similarity of a pair, or values for `MarginMSELoss`.
    ///
    /// `MarginMSELoss` takes one margin for each negative, or one score for the positive
    /// and one for each negative. In JSON Lines and Parquet files, a cell may be a list.
    pub fn add_score(mut self, name: impl Into<String>) -> Self {
        self.scores.push(name.into());
        self
    }

    /// Returns whether no column is named.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
