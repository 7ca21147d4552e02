//! Arrays of documents, and their byte stream.
//!
//! The stream consists of the byte `0x01`, the number of documents (64 bits
//! big-endian), and for each document its length (32 bits big-endian) and a gzip
//! member with one protobuf message.

use std::{
    io::{Read, Write},
    ops::{Deref, DerefMut},
};

use flate2::{
    Compression,
    read::{GzDecoder, MultiGzDecoder},
    write::GzEncoder,
};

use crate::Document;

/// First byte of a stream.
const VERSION: u8 = 1;

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
    /// Creates an empty array.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the byte stream.
    ///
    /// # Errors
    /// If `out` fails, or a document is larger than [`MAX_DOCUMENT_BYTES`].
    pub fn write(&self, mut out: impl Write) -> Result<(), DocumentError> {
        out.write_all(&stream_head(self.len() as u64))?;
        for (i, document) in self.iter().enumerate() {
            out.write_all(&stream_frame(document, i as u64 + 1)?)?;
        }
        Ok(out.flush()?)
    }

    /// Reads a byte stream up to its last document; see [`DocumentReader`].
    ///
    /// ```
    /// use finetuner_protocol::DocumentArray;
    ///
    /// let bytes = DocumentArray::new().to_bytes()?;
    /// assert!(DocumentArray::from_reader(bytes.as_slice())?.is_empty());
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    ///
    /// # Errors
    /// [`DocumentError`] names the document and the reason.
    pub fn from_reader(from: impl Read) -> Result<Self, DocumentError> {
        DocumentReader::new(from)?.collect()
    }

    /// Returns the byte stream.
    ///
    /// # Errors
    /// The same as for [`DocumentArray::write`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a byte stream, which must end after its last document.
    ///
    /// ```
    /// use finetuner_protocol::{Document, DocumentArray};
    ///
    /// let array = DocumentArray::from(vec![Document::text("a")]);
    /// assert_eq!(DocumentArray::from_bytes(&array.to_bytes()?)?, array);
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    ///
    /// # Errors
    /// The same as for [`DocumentArray::from_reader`].
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, DocumentError> {
        let array = Self::from_reader(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(trailing(bytes.len()));
        }
        Ok(array)
    }

    /// Reads a binary file of docarray 0.x.
    ///
    /// The file is a stream (`protocol="protobuf"`) or one message
    /// (`"protobuf-array"`), optionally compressed as a whole with gzip.
    ///
    /// # Errors
    /// The same as for [`DocumentArray::from_reader`]. Pickled arrays (docarray's
    /// default) are refused, because reading one runs code.
    pub fn from_file_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        match bytes {
            [] => Err(DocumentError::Malformed("the file is empty".to_owned())),
            [0x1f, 0x8b, ..] => {
                let mut unpacked = Vec::new();
                MultiGzDecoder::new(bytes)
                    .take(MAX_FILE_BYTES + 1)
                    .read_to_end(&mut unpacked)
                    .map_err(|e| DocumentError::Malformed(e.to_string()))?;
                if unpacked.len() as u64 > MAX_FILE_BYTES {
                    return Err(DocumentError::Malformed(format!(
                        "it unpacks to more than {} GiB: split it",
                        MAX_FILE_BYTES >> 30
                    )));
                }
                if unpacked.starts_with(&[0x1f, 0x8b]) {
                    return Err(DocumentError::Malformed(
                        "it is compressed twice".to_owned(),
                    ));
                }
                Self::from_file_bytes(&unpacked)
            }
            [VERSION, ..] => Self::from_bytes(bytes),
            [0x80, ..] => Err(DocumentError::Malformed(
                "it is a pickled array, which can't be read safely: save it in Python with \
                 `protocol=\"protobuf\"`"
                    .to_owned(),
            )),
            _ => crate::document::array_from_message(bytes),
        }
    }
}

/// Maximum size of an unpacked file in bytes.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// Returns the first bytes of a stream of `count` documents.
#[must_use]
pub fn stream_head(count: u64) -> [u8; 9] {
    let mut head = [VERSION; 9];
    head[1..].copy_from_slice(&count.to_be_bytes());
    head
}

/// Returns a document as encoded in a stream: its length and a gzip member.
///
/// Documents that are already compressed, such as images, are wrapped without
/// compression. `number` is the document's number in errors, counted from 1.
///
/// # Errors
/// [`DocumentError::TooLarge`] above [`MAX_DOCUMENT_BYTES`].
pub fn stream_frame(document: &Document, number: u64) -> Result<Vec<u8>, DocumentError> {
    let message = document.to_bytes();
    if message.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLarge { number });
    }
    let level = if document.is_mostly_compressed(message.len()) {
        Compression::none()
    } else {
        Compression::fast()
    };
    let mut frame = Vec::with_capacity(message.len() + 64);
    frame.extend([0; 4]);
    let mut encoder = GzEncoder::new(frame, level);
    encoder.write_all(&message)?;
    let mut frame = encoder.finish()?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| DocumentError::TooLarge { number })?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Reads a stream one document at a time; keeps only one in memory.
///
/// ```
/// use finetuner_protocol::{Document, DocumentArray, DocumentReader};
///
/// let array = DocumentArray::from(vec![Document::text("a red shoe")]);
/// let bytes = array.to_bytes()?;
/// let reader = DocumentReader::new(bytes.as_slice())?;
/// assert_eq!(reader.count_announced(), 1);
/// for document in reader {
///     assert_eq!(document?.as_text(), Some("a red shoe"));
/// }
/// # Ok::<(), finetuner_protocol::DocumentError>(())
/// ```
#[derive(Debug)]
pub struct DocumentReader<R> {
    from: R,
    count: u64,
    read: u64,
    failed: bool,
    packed: Vec<u8>,
    message: Vec<u8>,
    unpacked: u64,
}

impl<R: Read> DocumentReader<R> {
    /// Reads the head of a stream.
    ///
    /// ```
    /// use finetuner_protocol::{DocumentArray, DocumentReader};
    ///
    /// let bytes = DocumentArray::new().to_bytes()?;
    /// let reader = DocumentReader::new(bytes.as_slice())?;
    /// assert_eq!(reader.count_announced(), 0);
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    ///
    /// # Errors
    /// [`DocumentError::Malformed`] if the bytes are not the head of a stream.
    pub fn new(mut from: R) -> Result<Self, DocumentError> {
        let mut head = [0; 9];
        from.read_exact(&mut head)
            .map_err(|_| DocumentError::Malformed("it has no head".to_owned()))?;
        let [version, count @ ..] = head;
        if version != VERSION {
            return Err(DocumentError::Malformed(format!(
                "it starts with the byte {version:#04x}, not {VERSION:#04x}"
            )));
        }
        Ok(Self {
            from,
            count: u64::from_be_bytes(count),
            read: 0,
            failed: false,
            packed: Vec::new(),
            message: Vec::new(),
            unpacked: 0,
        })
    }

    /// Returns the uncompressed size of all documents read so far, in bytes.
    ///
    /// ```
    /// use finetuner_protocol::{Document, DocumentArray, DocumentReader};
    ///
    /// let bytes = DocumentArray::from(vec![Document::text("a")]).to_bytes()?;
    /// let mut reader = DocumentReader::new(bytes.as_slice())?;
    /// reader.next();
    /// assert!(reader.bytes_unpacked() > 0);
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    pub fn bytes_unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Skips the next `count` documents, or fewer at the end, without unpacking them.
    ///
    /// ```
    /// use finetuner_protocol::{Document, DocumentArray, DocumentReader};
    ///
    /// let array = DocumentArray::from(vec![Document::text("a"), Document::text("b")]);
    /// let bytes = array.to_bytes()?;
    /// let mut reader = DocumentReader::new(bytes.as_slice())?;
    /// reader.skip_documents(1)?;
    /// assert_eq!(reader.next().transpose()?.as_ref(), array.last());
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    ///
    /// # Errors
    /// [`DocumentError::Truncated`] if the stream ends within a document.
    pub fn skip_documents(&mut self, count: u64) -> Result<(), DocumentError> {
        for _ in 0..count.min(self.count.saturating_sub(self.read)) {
            self.read_packed()?;
            self.read += 1;
        }
        Ok(())
    }

    /// Returns the number of documents that the stream announced.
    pub fn count_announced(&self) -> u64 {
        self.count
    }

    /// Reads the next document in packed form.
    fn read_packed(&mut self) -> Result<(), DocumentError> {
        let (number, count) = (self.read + 1, self.count);
        let truncated = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => DocumentError::Truncated { number, count },
            _ => e.into(),
        };
        let mut length = [0; 4];
        self.from.read_exact(&mut length).map_err(truncated)?;
        let length = u64::from(u32::from_be_bytes(length));
        if length > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge { number });
        }
        // Allocates as bytes arrive, not by the announced length.
        self.packed.clear();
        (&mut self.from)
            .take(length)
            .read_to_end(&mut self.packed)?;
        if self.packed.len() as u64 != length {
            return Err(DocumentError::Truncated { number, count });
        }
        Ok(())
    }

    fn read_next(&mut self) -> Result<Document, DocumentError> {
        self.read_packed()?;
        let number = self.read + 1;
        let malformed =
            |e: &dyn std::fmt::Display| DocumentError::Malformed(format!("document {number}: {e}"));
        // Files saved by docarray contain uncompressed messages.
        let message = if self.packed.starts_with(&[0x1f, 0x8b]) {
            self.message.clear();
            GzDecoder::new(self.packed.as_slice())
                .take(MAX_DOCUMENT_BYTES + 1)
                .read_to_end(&mut self.message)
                .map_err(|e| malformed(&e))?;
            &self.message
        } else {
            &self.packed
        };
        if message.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge { number });
        }
        self.unpacked += message.len() as u64;
        Document::from_bytes(message).map_err(|e| malformed(&e))
    }
}

impl<R: Read> Iterator for DocumentReader<R> {
    type Item = Result<Document, DocumentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.read == self.count {
            return None;
        }
        let next = self.read_next();
        self.read += 1;
        self.failed = next.is_err();
        Some(next)
    }
}

impl<R> DocumentReader<R> {
    /// Returns the reader, to read what follows the last document.
    ///
    /// ```
    /// use finetuner_protocol::{DocumentArray, DocumentReader};
    ///
    /// let bytes = DocumentArray::new().to_bytes()?;
    /// let rest = DocumentReader::new(bytes.as_slice())?.into_inner();
    /// assert!(rest.is_empty());
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    pub fn into_inner(self) -> R {
        self.from
    }
}

fn trailing(bytes: usize) -> DocumentError {
    DocumentError::Malformed(format!("{bytes} bytes follow the last document"))
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

impl Extend<Document> for DocumentArray {
    fn extend<I: IntoIterator<Item = Document>>(&mut self, documents: I) {
        self.0.extend(documents);
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
    fn a_written_array_is_read_back_unchanged() {
        let array = sample();
        let bytes = array.to_bytes().unwrap();
        assert_eq!(DocumentArray::from_bytes(&bytes).unwrap(), array);
    }

    #[test]
    fn truncation_at_any_byte_is_an_error() {
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
    fn a_decompression_bomb_is_refused_before_it_fills_memory() {
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
    fn file_formats_are_detected_and_pickles_refused() {
        let array = sample();
        let stream = array.to_bytes().unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&stream).unwrap();
        let gzip = gzip.finish().unwrap();
        // As docarray's `protobuf` files: messages that are not compressed.
        let mut plain = stream_head(array.len() as u64).to_vec();
        for document in &array {
            let message = document.to_bytes();
            plain.extend((message.len() as u32).to_be_bytes());
            plain.extend(message);
        }
        for bytes in [&stream, &gzip, &plain] {
            assert_eq!(DocumentArray::from_file_bytes(bytes).unwrap(), array);
        }
        let error = DocumentArray::from_file_bytes(b"\x80\x05pickle").unwrap_err();
        assert!(error.to_string().contains("protobuf"), "{error}");
        assert!(DocumentArray::from_file_bytes(b"").is_err());
    }

    #[test]
    fn images_are_stored_and_texts_compressed() {
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        png.extend((0..4000u32).map(|i| ((i * i) >> 3) as u8));
        let frame = |document: &Document| stream_frame(document, 1).unwrap().len();
        assert!(frame(&Document::blob(png.clone())) > png.len());
        assert!(frame(&Document::text("red ".repeat(1000))) < 200);
    }

    #[test]
    fn a_false_document_count_allocates_nothing() {
        let mut bytes = vec![VERSION];
        bytes.extend(u64::MAX.to_be_bytes());
        assert!(matches!(
            DocumentArray::from_bytes(&bytes),
            Err(DocumentError::Truncated { number: 1, .. })
        ));
    }
}
