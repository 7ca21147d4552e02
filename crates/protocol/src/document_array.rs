//! Arrays of documents, and their byte stream.

use std::{
    io::{Read, Write},
    ops::{Deref, DerefMut},
};

use flate2::read::MultiGzDecoder;
use prost::Message;

use crate::{document::Document, document_stream::VERSION, proto::DocumentArrayProto};

pub use crate::{
    document_error::{DocumentError, MAX_DOCUMENT_BYTES},
    document_stream::{DocumentReader, stream_frame, stream_head},
};

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
            _ => array_from_message(bytes),
        }
    }
}

/// Maximum size of an unpacked file in bytes.
const MAX_FILE_BYTES: u64 = 4 << 30;

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

/// Reads one message with all documents of an array.
fn array_from_message(bytes: &[u8]) -> Result<DocumentArray, DocumentError> {
    let message =
        DocumentArrayProto::decode(bytes).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(message.docs.into_iter().map(Document::from).collect())
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

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
