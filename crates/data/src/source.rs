//! Streams of documents that can be read repeatedly: to validate them, and to upload
//! them.

use std::sync::Arc;

use finetuner_protocol::{Document, DocumentArray, Summary, SummaryCounter};

use crate::{
    check::check_document,
    error::{Error, Result},
    files::{Files, LoadFault, check_files, load_files},
    labels::Labels,
    problems::{Problem, Problems},
};

/// A document and its number for errors: its row, or its position in the source.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) document: Document,
}

/// Reason why a source returns no document.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A row can't be used. The rows after it can still be read.
    Row(Problem),
    /// The source can't be read any further.
    End(Error),
}

/// An item of a source.
pub(crate) type Item = Result<Numbered, Fault>;
pub(crate) type Items = Box<dyn Iterator<Item = Item> + Send>;

/// Documents that are produced one at a time, while they are uploaded.
///
/// They are produced once for the validation and once for each upload attempt.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{Document, DocumentSource};
///
/// // Each image file is read when it is uploaded.
/// let source = DocumentSource::new(|| {
///     (0..100_000).map(|n| {
///         Document::new()
///             .with_chunk(Document::uri(format!("pictures/{n}.jpg")).with_modality("image"))
///             .with_chunk(Document::text(format!("image {n}")).with_modality("text"))
///     })
/// });
/// finetuner.push("train", source).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DocumentSource {
    make: Arc<dyn Fn() -> Items + Send + Sync>,
    files: Files,
    /// Name of the file that the documents are read from, for errors.
    name: Option<Arc<str>>,
}

impl DocumentSource {
    /// Creates a source from a function that returns an iterator.
    ///
    /// Each call of `make` must return the same documents.
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
        Self::of_items(move || {
            (1..)
                .zip(make())
                .map(|(number, document)| Ok(Numbered { number, document }))
        })
    }

    /// Creates a source from an iterator of results.
    ///
    /// Like [`DocumentSource::new`], but an error from the iterator ends the push, and
    /// nothing is stored.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use std::io::{BufRead, BufReader};
    ///
    /// use finetuner::{Document, DocumentSource};
    ///
    /// // If the file can't be opened, the error is the only item.
    /// let source = DocumentSource::try_new(|| {
    ///     let file = std::fs::File::open("titles.txt");
    ///     let (lines, error) = match file {
    ///         Ok(file) => (Some(BufReader::new(file).lines()), None),
    ///         Err(error) => (None, Some(Err(error))),
    ///     };
    ///     error.into_iter().chain(lines.into_iter().flatten()).map(|line| line.map(Document::text))
    /// });
    /// finetuner.push("titles", source).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_new<I, E>(make: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Result<Document, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        Self::of_items(move || {
            (1..).zip(make()).map(|(number, document)| match document {
                Ok(document) => Ok(Numbered { number, document }),
                Err(error) => Err(Fault::End(Error::row(number, error))),
            })
        })
    }

    /// Creates a source from an iterator of documents and faults.
    pub(crate) fn of_items<I>(make: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Item> + Send + 'static,
    {
        Self {
            make: Arc::new(move || Box::new(make())),
            files: Files::Own,
            name: None,
        }
    }

    /// Sets whether the local files that documents name are uploaded.
    ///
    /// By default, only documents that the program created may name local files. A
    /// document that was pulled or read from a file may come from another user, and
    /// could otherwise make the program upload private files. It is an error if such
    /// a document names a local file. `true` uploads the files of all documents,
    /// `false` uploads none.
    #[must_use]
    pub fn reads_files(mut self, read: bool) -> Self {
        self.files = if read { Files::All } else { Files::None };
        self
    }

    /// Sets whether the files of documents that this program created are read.
    pub(crate) fn reads_own_files(mut self, read: bool) -> Self {
        self.files = if read { Files::Own } else { Files::None };
        self
    }

    /// Sets the file name for errors.
    pub(crate) fn named(mut self, name: String) -> Self {
        self.name = Some(name.into());
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.make, &other.make) && self.files == other.files
    }

    pub(crate) fn iter(&self) -> Items {
        (self.make)()
    }

    /// Validates all documents, collects their problems, and summarizes them. Blocks.
    ///
    /// `data` is the name in errors, unless the documents are read from a file.
    ///
    /// # Errors
    /// Returns [`Error::Data`] with the number of all problems and the first of them,
    /// or an error that ended the reading, such as [`Error::File`].
    pub fn check(&self, data: &str) -> Result<Checked> {
        let (mut counter, mut labels) = (SummaryCounter::default(), Labels::default());
        let mut problems = Problems::new(self.name.as_deref().unwrap_or(data));
        let mut is_empty = true;
        for item in self.iter() {
            is_empty = false;
            let Numbered { number, document } = match item {
                Ok(numbered) => numbered,
                Err(Fault::Row(problem)) => {
                    problems.add(problem.number, problem.reason);
                    continue;
                }
                Err(Fault::End(error)) => {
                    for problem in error.into_problems()?.problems {
                        problems.add(problem.number, problem.reason);
                    }
                    break;
                }
            };
            counter.add(&document);
            labels.add(&document);
            let files = |document: &Document| check_files(document, self.files);
            if let Err(reason) = check_document(&document).and_then(|()| files(&document)) {
                problems.add(number, reason);
            }
        }
        if is_empty {
            problems.add(0, "it contains no documents");
        }
        problems.into_result()?;
        Ok(Checked {
            summary: counter.finish(),
            labels,
        })
    }

    /// Returns the documents with the content of their local files. Blocks.
    pub fn loaded(&self) -> impl Iterator<Item = Result<Document>> + Send + use<> {
        let files = self.files;
        self.iter().map(move |item| loaded(item, files))
    }
}

/// Result of a successful validation.
#[derive(Debug)]
pub struct Checked {
    /// Number and contents of the documents.
    pub summary: Summary,
    /// Labels of the documents.
    pub labels: Labels,
}

impl From<DocumentArray> for DocumentSource {
    fn from(documents: DocumentArray) -> Self {
        Self::from(Arc::new(documents))
    }
}

impl From<Arc<DocumentArray>> for DocumentSource {
    fn from(documents: Arc<DocumentArray>) -> Self {
        Self::new(move || {
            let documents = Arc::clone(&documents);
            (0..documents.len()).map(move |i| documents[i].clone())
        })
    }
}

impl std::fmt::Debug for DocumentSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentSource").finish_non_exhaustive()
    }
}

fn loaded(item: Item, files: Files) -> Result<Document> {
    let Numbered {
        number,
        mut document,
    } = match item {
        Ok(numbered) => numbered,
        Err(Fault::Row(Problem { number, reason })) => return Err(Error::row(number, reason)),
        Err(Fault::End(error)) => return Err(error),
    };
    load_files(&mut document, files).map_err(|fault| match fault {
        LoadFault::Refused(reason) => Error::row(number, reason),
        LoadFault::File(error) => error,
    })?;
    Ok(document)
}
