//! Errors of documents as bytes.

/// Maximum size of a document in bytes, compressed or uncompressed.
pub const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// Why bytes can't be read or written as an array of documents.
///
/// ```
/// use finetuner_protocol::{DocumentArray, DocumentError};
///
/// let read = DocumentArray::from_bytes(b"none");
/// assert!(matches!(read, Err(DocumentError::Malformed(_))));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The stream ends before all documents have arrived.
    #[error("the stream of documents ends early: document {number} of {count} is incomplete")]
    Truncated {
        /// Number of the document, counted from 1.
        number: u64,
        /// Number of documents announced.
        count: u64,
    },
    /// The bytes are not a stream of documents, or it contains an error.
    #[error("not a stream of documents: {0}")]
    Malformed(String),
    /// A document is larger than [`MAX_DOCUMENT_BYTES`].
    #[error(
        "document {number} is larger than {} MiB: split it, or make its image smaller",
        MAX_DOCUMENT_BYTES >> 20
    )]
    TooLarge {
        /// Number of the document, counted from 1.
        number: u64,
    },
    /// Reading or writing failed.
    #[error("documents can't be read or written: {0}")]
    Io(std::io::Error),
}

// The message includes the cause, so `source` does not return it.
impl From<std::io::Error> for DocumentError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
