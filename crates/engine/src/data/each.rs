//! Processes the documents of a data set in parallel, a limited number at a time.

use finetuner_protocol::{Content, Document, NdArray};
use rayon::prelude::*;

use super::DataName;
use crate::{Error, Result};

/// A stream of documents.
///
/// Data sets are streamed, since they may be larger than memory.
pub type Documents = Box<dyn Iterator<Item = Result<Document>>>;

/// Maximum number of faulty documents that one message lists.
const LISTED: usize = 10;
/// Maximum number of documents in memory at once.
const TOGETHER: usize = 512;
/// Bytes in memory above which no further document is taken.
const BYTES_TOGETHER: usize = 64 << 20;

/// Why a document could not be processed.
pub(super) enum Fault {
    /// The document is invalid.
    Bad(String),
    /// Processing failed for a reason outside the document.
    Failed(Error),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Bad(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Bad(reason.to_owned())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Fault {
    /// Names the part of the document that is invalid.
    pub(super) fn of(self, part: &str) -> Self {
        match self {
            Self::Bad(reason) => Self::Bad(format!("{part}: {reason}")),
            failed => failed,
        }
    }
}

/// Calls `make` on each document on all threads, and returns the results in order.
///
/// `make` also gets the document's index, from 0.
///
/// # Errors
/// [`Error::Data`] lists up to ten invalid documents by number and id: "3 of 10
/// documents of {name} {fault}: ...".
pub(super) fn convert_documents<T: Send>(
    mut documents: Documents,
    name: DataName<'_>,
    fault: &str,
    make: impl Fn(usize, &Document) -> Result<T, Fault> + Sync,
) -> Result<Vec<T>> {
    let (mut made, mut bad) = (Vec::new(), Vec::new());
    let (mut count, mut all) = (0, 0);
    loop {
        let together = take_some(&mut documents)?;
        if together.is_empty() {
            break;
        }
        let results: Vec<Result<T, Fault>> = together
            .par_iter()
            .enumerate()
            .map(|(i, document)| make(all + i, document))
            .collect();
        for (document, result) in together.iter().zip(results) {
            all += 1;
            match result {
                Ok(thing) => made.push(thing),
                Err(Fault::Failed(error)) => return Err(error),
                Err(Fault::Bad(reason)) => {
                    count += 1;
                    if bad.len() < LISTED {
                        bad.push(format!("document {all} (`{}`): {reason}", document.id));
                    }
                }
            }
        }
    }
    if all == 0 {
        return Err(Error::data(format!("{name} holds no documents")));
    }
    if count > 0 {
        let more = match count - bad.len() {
            0 => String::new(),
            n => format!("; and {n} more"),
        };
        return Err(Error::data(format!(
            "{count} of {all} documents of {name} {fault}: {}{more}",
            bad.join("; ")
        )));
    }
    Ok(made)
}

/// Takes the next documents, up to the limits in memory.
fn take_some(documents: &mut Documents) -> Result<Vec<Document>> {
    let (mut some, mut bytes) = (Vec::new(), 0);
    while some.len() < TOGETHER && bytes < BYTES_TOGETHER {
        let Some(document) = documents.next().transpose()? else {
            break;
        };
        bytes += size(&document);
        some.push(document);
    }
    Ok(some)
}

/// Returns the bytes of a document's content.
fn size(document: &Document) -> usize {
    let own = match &document.content {
        Some(Content::Blob(bytes)) => bytes.len(),
        Some(Content::Text(text)) => text.len(),
        Some(Content::Tensor(NdArray::Dense { buffer, .. })) => buffer.len(),
        _ => 0,
    };
    own + document.chunks.iter().map(size).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: DataName<'_> = DataName {
        field: "train_data",
        name: "d",
    };

    fn documents(count: usize) -> Documents {
        Box::new((0..count).map(|n| Ok(Document::text(n.to_string()))))
    }

    #[test]
    fn results_keep_the_order_of_the_documents_over_many_rounds() {
        let count = 2 * TOGETHER + 7;
        let made = convert_documents(documents(count), D, "are bad", |i, document| {
            Ok((i, document.as_text().unwrap_or_default().to_owned()))
        });
        let made = made.unwrap();
        assert_eq!(made.len(), count);
        assert!(
            made.iter()
                .enumerate()
                .all(|(n, (i, text))| *i == n && *text == n.to_string())
        );
    }

    #[test]
    fn an_unreadable_document_or_a_failure_ends_the_processing() {
        let cut_off = documents(3).chain(std::iter::once(Err(Error::data("cut off"))));
        let made = convert_documents(Box::new(cut_off), D, "are bad", |_, _| Ok(()));
        assert_eq!(made.unwrap_err().to_string(), "bad data: cut off");
        let made = convert_documents(documents(30), D, "are bad", |i, _| {
            Err::<(), _>(match i {
                20 => Fault::Failed(Error::data("the disk is full")),
                _ => Fault::Bad("odd".to_owned()),
            })
        });
        assert_eq!(made.unwrap_err().to_string(), "bad data: the disk is full");
    }
}
