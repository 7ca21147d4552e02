//! The byte stream of documents.
//!
//! The stream consists of the byte `0x01`, the number of documents (64 bits
//! big-endian), and for each document its length (32 bits big-endian) and a gzip
//! member with one protobuf message.

use std::io::{Read, Write};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use crate::{
    document::Document,
    document_error::{DocumentError, MAX_DOCUMENT_BYTES},
};

/// First byte of a stream.
pub(crate) const VERSION: u8 = 1;

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
