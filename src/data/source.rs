//! Where data comes from: a name, documents, a CSV file, a program's own
//! iterator.

use std::{path::PathBuf, sync::Arc};

use finetuner_protocol::{Document, DocumentArray, SummaryCounter};

use super::check::{Problems, check_document, local_path};
use crate::{Error, Result, csv::Csv};

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
            (Self::Stream(a), Self::Stream(b)) => Arc::ptr_eq(&a.make, &b.make),
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

impl From<DocumentSource> for DataSource {
    fn from(source: DocumentSource) -> Self {
        Self::Stream(source)
    }
}

type Documents = Box<dyn Iterator<Item = Document> + Send>;

/// Documents that are made one after the other, as often as they are asked for:
/// once to check them, once for each attempt to send them.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{Document, DocumentSource};
///
/// // Pictures are read from their files as they are sent.
/// let source = DocumentSource::new(|| {
///     (0..100_000).map(|n| {
///         Document::new()
///             .with_chunk(Document::uri(format!("pictures/{n}.jpg")).with_modality("image"))
///             .with_chunk(Document::text(format!("picture {n}")).with_modality("text"))
///     })
/// });
/// finetuner.push("train", source).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DocumentSource {
    make: Arc<dyn Fn() -> Documents + Send + Sync>,
    /// Whether files that documents name are read into them.
    reads_files: bool,
}

impl DocumentSource {
    /// Documents that `make` makes. It must make the same ones each time.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::{Document, DocumentSource};
    ///
    /// let source = DocumentSource::new(|| (0..3).map(|n| Document::text(format!("text {n}"))));
    /// finetuner.push("train", source).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new<I>(make: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Document> + Send + 'static,
    {
        Self {
            make: Arc::new(move || Box::new(make())),
            reads_files: true,
        }
    }

    /// Whether files of this machine that documents name are read into them as
    /// they are sent; yes by default.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::{Document, DocumentSource};
    ///
    /// // The server's workers fetch the pictures.
    /// let source = DocumentSource::new(|| {
    ///     (0..3).map(|n| Document::uri(format!("https://example.com/{n}.png")))
    /// })
    /// .reads_files(false);
    /// finetuner.push("train", source).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reads_files(mut self, read: bool) -> Self {
        self.reads_files = read;
        self
    }

    pub(crate) fn of_array(documents: Arc<DocumentArray>) -> Self {
        Self::new(move || {
            let documents = Arc::clone(&documents);
            (0..documents.len()).map(move |i| documents[i].clone())
        })
    }

    pub(crate) fn iter(&self) -> Documents {
        (self.make)()
    }

    /// Goes through all documents once: finds what is wrong with them, and what
    /// they are.
    pub(crate) fn check(&self, data: &str) -> Result<SummaryCounter> {
        let mut counter = SummaryCounter::default();
        let mut problems = Problems::new(data);
        let mut number = 0;
        for document in self.iter() {
            number += 1;
            counter.add(&document);
            let checked = check_document(&document).and_then(|()| match self.reads_files {
                true => check_files(&document),
                false => Ok(()),
            });
            if let Err(reason) = checked {
                problems.add(number, reason);
            }
        }
        if number == 0 {
            problems.add(0, "there are no documents in it");
        }
        problems.into_result()?;
        Ok(counter)
    }
}

impl std::fmt::Debug for DocumentSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentSource").finish_non_exhaustive()
    }
}

/// The file whose content a document wants: a picture of this machine.
fn file_of(document: &Document) -> Option<PathBuf> {
    if document.content.is_some() || document.embedding.is_some() {
        return None;
    }
    local_path(&document.uri)
}

fn check_files(document: &Document) -> Result<(), String> {
    if let Some(path) = file_of(document) {
        match std::fs::metadata(&path) {
            Ok(about) if about.is_file() => {}
            Ok(_) => return Err(format!("{} is not a file", path.display())),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    document.chunks.iter().try_for_each(check_files)
}

impl DocumentSource {
    /// The document as it is sent.
    pub(crate) fn load(&self, document: &mut Document) -> Result<()> {
        match self.reads_files {
            true => load_files(document),
            false => Ok(()),
        }
    }
}

/// Reads the files that a document and its parts name into them.
fn load_files(document: &mut Document) -> Result<()> {
    if let Some(path) = file_of(document) {
        let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, e))?;
        document.content = Some(finetuner_protocol::Content::Blob(bytes));
    }
    document.chunks.iter_mut().try_for_each(load_files)
}
