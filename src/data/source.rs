//! Sources of data: a name, documents, a file of rows, a program's own iterator.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use finetuner_data::{Csv, Dataset, DocumentSource};
use finetuner_protocol::DocumentArray;

/// Data for a run, or to push. What is not a name is pushed first.
///
/// ```
/// use finetuner::{Csv, CsvOptions, DataSource, Document, DocumentArray};
///
/// // Data that was pushed before, by its name.
/// let named = DataSource::from("clip-fashion-train-data");
/// // Documents. The same array, given twice, is pushed once.
/// let documents = DataSource::from(DocumentArray::from(vec![Document::text("a shoe")]));
/// // A CSV file; its layout depends on the model that is fine-tuned.
/// let file = DataSource::from(Csv::path("train.csv").options(CsvOptions::new().is_labeled(true)));
/// # let _ = (named, documents, file);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DataSource {
    /// Data that was pushed before.
    Name(String),
    /// Documents.
    Documents(Arc<DocumentArray>),
    /// A CSV file.
    Csv(Csv),
    /// JSON Lines, Parquet, or a folder of pictures.
    Dataset(Dataset),
    /// Documents that are made as they are sent, so that they never need to be
    /// in memory together.
    Stream(DocumentSource),
}

impl DataSource {
    /// Whether both are the same data, which is then pushed once.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Documents(a), Self::Documents(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Csv(a), Self::Csv(b)) => a.is_same(b),
            (Self::Dataset(a), Self::Dataset(b)) => a.is_same(b),
            (Self::Stream(a), Self::Stream(b)) => a.is_same(b),
            _ => false,
        }
    }
}

impl From<&str> for DataSource {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for DataSource {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<&String> for DataSource {
    fn from(name: &String) -> Self {
        Self::Name(name.clone())
    }
}

impl From<DocumentArray> for DataSource {
    fn from(documents: DocumentArray) -> Self {
        Self::Documents(Arc::new(documents))
    }
}

impl From<&DocumentArray> for DataSource {
    fn from(documents: &DocumentArray) -> Self {
        Self::Documents(Arc::new(documents.clone()))
    }
}

impl From<Arc<DocumentArray>> for DataSource {
    fn from(documents: Arc<DocumentArray>) -> Self {
        Self::Documents(documents)
    }
}

impl From<&Arc<DocumentArray>> for DataSource {
    fn from(documents: &Arc<DocumentArray>) -> Self {
        Self::Documents(Arc::clone(documents))
    }
}

impl From<Csv> for DataSource {
    fn from(csv: Csv) -> Self {
        Self::Csv(csv)
    }
}

impl From<Dataset> for DataSource {
    fn from(dataset: Dataset) -> Self {
        Self::Dataset(dataset)
    }
}

impl From<DocumentSource> for DataSource {
    fn from(source: DocumentSource) -> Self {
        Self::Stream(source)
    }
}

impl From<PathBuf> for DataSource {
    fn from(path: PathBuf) -> Self {
        Self::Csv(Csv::path(path))
    }
}

impl From<&Path> for DataSource {
    fn from(path: &Path) -> Self {
        Self::Csv(Csv::path(path))
    }
}
