//! Documents one after the other: checked first, then made again to be sent.

use std::{path::PathBuf, sync::Arc};

use finetuner_protocol::{Document, DocumentArray, Summary, SummaryCounter};

use crate::{
    check::{check_document, local_path},
    error::{Error, Result},
    labels::Labels,
    problems::{Problem, Problems},
};

/// A document, with the row or the place in its source that errors name.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) document: Document,
}

/// Why a source gives no document.
#[derive(Debug)]
pub(crate) enum Fault {
    /// This row can't be used. Others may follow.
    Row(Problem),
    /// The source can't go on.
    End(Error),
}

/// What a source gives.
pub(crate) type Item = Result<Numbered, Fault>;
pub(crate) type Items = Box<dyn Iterator<Item = Item> + Send>;

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
    make: Arc<dyn Fn() -> Items + Send + Sync>,
    files: Files,
    /// The file that the documents are read from, for errors.
    name: Option<Arc<str>>,
}

/// Of which documents the local files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// Of those that this program created.
    Own,
    All,
    None,
}

impl DocumentSource {
    /// Creates a source of the documents that `make` makes. It must make the
    /// same ones each time.
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

    /// As [`DocumentSource::new`], for documents whose making may fail. The
    /// first error ends the push, and nothing is stored.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use std::io::{BufRead, BufReader};
    ///
    /// use finetuner::{Document, DocumentSource};
    ///
    /// // An error of opening the file is the only item; else there is one a line.
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

    /// A source of documents and faults.
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

    /// Sets whether local files that documents name are read into them as they
    /// are sent.
    ///
    /// By default, this is done for documents that the program has created. A
    /// document that was pulled or read from a file may come from somebody else:
    /// one that names a local file is refused, so that nobody can make a program
    /// upload files by sharing data. `true` reads the files of all documents,
    /// `false` those of none.
    #[must_use]
    pub fn reads_files(mut self, read: bool) -> Self {
        self.files = if read { Files::All } else { Files::None };
        self
    }

    /// Reads local files where `read` is set, of documents that this program
    /// created.
    pub(crate) fn reads_own_files(mut self, read: bool) -> Self {
        self.files = if read { Files::Own } else { Files::None };
        self
    }

    /// Names the file that the documents are read from.
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

    /// Reads all documents once and counts them. `data` names them in errors.
    /// Blocks.
    ///
    /// # Errors
    /// Returns [`Error::Data`] with every document that can't be used.
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
            problems.add(0, "there are no documents in it");
        }
        problems.into_result()?;
        Ok(Checked {
            summary: counter.finish(),
            labels,
        })
    }

    /// Returns the documents with the content of the files that they name. Blocks.
    pub fn loaded(&self) -> impl Iterator<Item = Result<Document>> + Send + use<> {
        let files = self.files;
        self.iter().map(move |item| loaded(item, files))
    }
}

/// A summary of documents that can be used.
#[derive(Debug)]
pub struct Checked {
    /// How many documents there are, and of which kinds.
    pub summary: Summary,
    /// Their labels.
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

/// The local file whose content a document wants, where it may be read.
fn file_of(document: &Document, files: Files) -> Result<Option<PathBuf>, String> {
    if document.content.is_some() || document.embedding.is_some() || files == Files::None {
        return Ok(None);
    }
    let Some(path) = local_path(&document.uri) else {
        return Ok(None);
    };
    if files == Files::All || !document.other.origin.is_received() {
        return Ok(Some(path));
    }
    // Of a document with parts, only the parts are trained on.
    if !document.chunks.is_empty() {
        return Ok(None);
    }
    Err(format!(
        "document `{}` names the local file `{}`, but was pulled or read from a file, and may be \
         somebody else's: allow it with `DocumentSource::from(documents).reads_files(true)`",
        document.id,
        finetuner_protocol::text::start_of(&document.uri)
    ))
}

fn check_files(document: &Document, files: Files) -> Result<(), String> {
    if let Some(path) = file_of(document, files)? {
        let shown = || finetuner_protocol::text::start_of(&path.to_string_lossy());
        match std::fs::metadata(&path) {
            Ok(about) if about.is_file() => {}
            Ok(_) => return Err(format!("{} is not a file", shown())),
            Err(error) => return Err(format!("{}: {error}", shown())),
        }
    }
    let mut chunks = document.chunks.iter();
    chunks.try_for_each(|chunk| check_files(chunk, files))
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

enum LoadFault {
    Refused(String),
    File(Error),
}

/// Reads the files that a document and its parts name into them.
fn load_files(document: &mut Document, files: Files) -> Result<(), LoadFault> {
    if let Some(path) = file_of(document, files).map_err(LoadFault::Refused)? {
        let bytes = std::fs::read(&path).map_err(|e| LoadFault::File(Error::file(&path, e)))?;
        document.content = Some(finetuner_protocol::Content::Blob(bytes));
    }
    let mut chunks = document.chunks.iter_mut();
    chunks.try_for_each(|chunk| load_files(chunk, files))
}
