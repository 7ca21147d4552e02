//! Arrays of documents, and the byte stream in which they travel: the byte
//! `0x01`, the number of documents as 64 bits big-endian, then for each its
//! length as 32 bits big-endian and that many bytes, a gzip member with one
//! protobuf message.

use std::{
    io::{Read, Write},
    ops::{Deref, DerefMut},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use crate::Document;

/// The first byte of a stream.
const VERSION: u8 = 1;

/// The most that one document may have, compressed or not.
pub const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// Why bytes are not an array of documents, or can't be written as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The stream ends before all documents have come.
    #[error("the stream of documents ends early: document {number} of {count} is not whole")]
    Truncated {
        /// Which document, counted from 1.
        number: u64,
        /// How many were announced.
        count: u64,
    },
    /// It is not a stream of documents, or one with a fault inside.
    #[error("not a stream of documents: {0}")]
    Malformed(String),
    /// A document that is larger than [`MAX_DOCUMENT_BYTES`].
    #[error(
        "document {number} is larger than {} MiB: split it, or make its picture smaller",
        MAX_DOCUMENT_BYTES >> 20
    )]
    TooLarge {
        /// Which document, counted from 1.
        number: u64,
    },
    /// Reading or writing failed.
    #[error("documents can't be read or written: {0}")]
    Io(#[from] std::io::Error),
}

/// A list of documents.
///
/// ```
/// use finetuner_protocol::{Document, DocumentArray};
///
/// let mut array = DocumentArray::new();
/// array.push(Document::text("a red shoe").with_label("shoe"));
/// let bytes = array.to_bytes()?;
/// assert_eq!(DocumentArray::from_bytes(&bytes)?, array);
/// # Ok::<(), finetuner_protocol::DocumentError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DocumentArray(Vec<Document>);

impl DocumentArray {
    /// An empty array.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the stream.
    ///
    /// # Errors
    /// Where `out` fails, or a document is larger than [`MAX_DOCUMENT_BYTES`].
    pub fn write(&self, mut out: impl Write) -> Result<(), DocumentError> {
        out.write_all(&[VERSION])?;
        out.write_all(&(self.len() as u64).to_be_bytes())?;
        for (i, document) in self.iter().enumerate() {
            let number = i as u64 + 1;
            let message = document.to_bytes();
            if message.len() as u64 > MAX_DOCUMENT_BYTES {
                return Err(DocumentError::TooLarge { number });
            }
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&message)?;
            let packed = encoder.finish()?;
            let length =
                u32::try_from(packed.len()).map_err(|_| DocumentError::TooLarge { number })?;
            out.write_all(&length.to_be_bytes())?;
            out.write_all(&packed)?;
        }
        Ok(out.flush()?)
    }

    /// Reads a stream to its last document.
    ///
    /// # Errors
    /// [`DocumentError`] says what is wrong with which document.
    pub fn read(mut from: impl Read) -> Result<Self, DocumentError> {
        let mut head = [0; 9];
        from.read_exact(&mut head)
            .map_err(|_| DocumentError::Malformed("it has no head".to_owned()))?;
        let [version, count @ ..] = head;
        if version != VERSION {
            return Err(DocumentError::Malformed(format!(
                "it starts with the byte {version:#04x}, not {VERSION:#04x}"
            )));
        }
        let count = u64::from_be_bytes(count);
        let mut documents = Vec::new();
        for number in 1..=count {
            documents.push(read_document(&mut from, number, count)?);
        }
        Ok(Self(documents))
    }

    /// The stream as bytes.
    ///
    /// # Errors
    /// As for [`DocumentArray::write`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a stream, which must end with its last document.
    ///
    /// # Errors
    /// As for [`DocumentArray::read`].
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, DocumentError> {
        let array = Self::read(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(DocumentError::Malformed(format!(
                "{} bytes follow the last document",
                bytes.len()
            )));
        }
        Ok(array)
    }
}

fn read_document(from: &mut impl Read, number: u64, count: u64) -> Result<Document, DocumentError> {
    let truncated = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => DocumentError::Truncated { number, count },
        _ => e.into(),
    };
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(truncated)?;
    let length = u64::from(u32::from_be_bytes(length));
    if length > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge { number });
    }
    // Memory is taken as bytes come, not as they are promised.
    let mut packed = Vec::new();
    from.take(length).read_to_end(&mut packed)?;
    if packed.len() as u64 != length {
        return Err(DocumentError::Truncated { number, count });
    }
    let mut message = Vec::new();
    GzDecoder::new(packed.as_slice())
        .take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut message)
        .map_err(|e| DocumentError::Malformed(format!("document {number}: {e}")))?;
    if message.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge { number });
    }
    Document::from_bytes(&message)
        .map_err(|e| DocumentError::Malformed(format!("document {number}: {e}")))
}

impl Deref for DocumentArray {
    type Target = Vec<Document>;

    fn deref(&self) -> &Vec<Document> {
        &self.0
    }
}

impl DerefMut for DocumentArray {
    fn deref_mut(&mut self) -> &mut Vec<Document> {
        &mut self.0
    }
}

impl From<Vec<Document>> for DocumentArray {
    fn from(documents: Vec<Document>) -> Self {
        Self(documents)
    }
}

impl FromIterator<Document> for DocumentArray {
    fn from_iter<I: IntoIterator<Item = Document>>(documents: I) -> Self {
        Self(documents.into_iter().collect())
    }
}

impl IntoIterator for DocumentArray {
    type Item = Document;
    type IntoIter = std::vec::IntoIter<Document>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a DocumentArray {
    type Item = &'a Document;
    type IntoIter = std::slice::Iter<'a, Document>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NdArray;

    fn sample() -> DocumentArray {
        let mut rich = Document::new()
            .with_chunk(Document::text("red shoes").with_modality("text"))
            .with_chunk(Document::blob(vec![1, 2, 3]).with_modality("image"))
            .with_label("shoe");
        rich.tags.insert(
            "all".to_owned(),
            serde_json::json!({"null": null, "list": [1.5, true, "x"], "deep": {"a": {}}}),
        );
        rich.embedding = Some(NdArray::Dense {
            buffer: vec![0; 8],
            shape: vec![2],
            dtype: "<f4".to_owned(),
            class: "numpy".to_owned(),
        });
        DocumentArray::from(vec![rich, Document::text("ünïcode ✨"), Document::new()])
    }

    #[test]
    fn comes_back_as_it_went() {
        let array = sample();
        let bytes = array.to_bytes().unwrap();
        assert_eq!(DocumentArray::from_bytes(&bytes).unwrap(), array);
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = sample().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(DocumentArray::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        let mut longer = bytes;
        longer.push(0);
        let message = DocumentArray::from_bytes(&longer).unwrap_err().to_string();
        assert!(message.contains("1 bytes follow"), "{message}");
    }

    #[test]
    fn a_bomb_is_refused_before_it_fills_the_memory() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..=(MAX_DOCUMENT_BYTES >> 20) {
            encoder.write_all(&zeros).unwrap();
        }
        let packed = encoder.finish().unwrap();
        let mut bytes = vec![VERSION];
        bytes.extend(1u64.to_be_bytes());
        bytes.extend((packed.len() as u32).to_be_bytes());
        bytes.extend(packed);
        assert!(matches!(
            DocumentArray::from_bytes(&bytes),
            Err(DocumentError::TooLarge { number: 1 })
        ));
    }

    #[test]
    fn a_promise_of_many_documents_costs_nothing() {
        let mut bytes = vec![VERSION];
        bytes.extend(u64::MAX.to_be_bytes());
        assert!(matches!(
            DocumentArray::from_bytes(&bytes),
            Err(DocumentError::Truncated { number: 1, .. })
        ));
    }
}
