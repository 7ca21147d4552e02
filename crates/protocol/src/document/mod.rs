//! Documents, the form in which data is transferred: a text or image with an id,
//! tags and chunks.

mod nd_array;
mod wire;

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value as Json};

use crate::{Modality, document_error::DocumentError, origin::Origin, proto::DocumentProto};

pub use nd_array::{NdArray, Opaque};

/// Tag with a document's label. Documents with the same label are positive pairs.
pub const LABEL_TAG: &str = "finetuner_label";

/// Tag with the similarity of a pair, between 0 and 1.
pub const SCORE_TAG: &str = "finetuner_score";

/// An item of data, as docarray 0.x defines it.
///
/// ```
/// use finetuner_protocol::Document;
///
/// let pair = Document::new()
///     .with_chunk(Document::text("red sneakers").with_modality("text"))
///     .with_chunk(Document::blob(vec![0x89, b'P', b'N', b'G']).with_modality("image"));
/// assert_eq!(pair.chunks[0].as_text(), Some("red sneakers"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Document {
    /// Id, unique in an array; 32 random hex digits by default.
    pub id: String,
    /// Content: a text, bytes or a tensor.
    pub content: Option<Content>,
    /// URL or path of the content.
    pub uri: String,
    /// Modality, which selects the part of a model that embeds the document.
    pub modality: Option<Modality>,
    /// Media type of the content.
    pub mime_type: String,
    /// Values by name, including labels and scores.
    pub tags: Map<String, Json>,
    /// Parts of this document.
    pub chunks: Vec<Document>,
    /// Documents that a search found for this one.
    pub matches: Vec<Document>,
    /// Embedding of the document.
    pub embedding: Option<NdArray>,
    /// Scores of this document as a match, by name.
    pub scores: BTreeMap<String, NamedScore>,
    /// Other fields of docarray, kept unchanged.
    pub other: Other,
}

/// Fields that fine-tuning doesn't use.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Other {
    /// Depth in a tree of chunks.
    pub granularity: u32,
    /// Depth in a chain of matches.
    pub adjacency: u32,
    /// Id of the document that contains this one.
    pub parent_id: String,
    /// Importance.
    pub weight: f32,
    /// Position in the parent.
    pub offset: f32,
    /// Region in the parent.
    pub location: Vec<f32>,
    /// Results of evaluations, by name.
    pub evaluations: BTreeMap<String, NamedScore>,
    /// Values for docarray's own use.
    pub metadata: Map<String, Json>,
    /// Whether this program created the document or received it. It is not
    /// serialized.
    pub origin: Origin,
}

/// Content of a [`Document`].
///
/// ```
/// use finetuner_protocol::{Content, Document};
///
/// let document = Document::text("a shoe");
/// assert!(matches!(document.content, Some(Content::Text(_))));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// Bytes, such as an encoded image.
    Blob(Vec<u8>),
    /// Array of numbers.
    Tensor(NdArray),
}

/// A named value, such as a distance.
///
/// ```
/// use finetuner_protocol::NamedScore;
///
/// let score = NamedScore::new(0.3, "cosine");
/// assert_eq!(score.op_name, "cosine");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct NamedScore {
    /// The value.
    pub value: f32,
    /// Operation that computed it.
    pub op_name: String,
    /// Description.
    pub description: String,
    /// Id of the document that it refers to.
    pub ref_id: String,
}

impl NamedScore {
    /// Creates a value with the name of its operation.
    #[must_use]
    pub fn new(value: f32, op_name: impl Into<String>) -> Self {
        Self {
            value,
            op_name: op_name.into(),
            ..Self::default()
        }
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

impl Document {
    /// Creates an empty document with a random id.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: random_id(),
            content: None,
            uri: String::new(),
            modality: None,
            mime_type: String::new(),
            tags: Map::new(),
            chunks: Vec::new(),
            matches: Vec::new(),
            embedding: None,
            scores: BTreeMap::new(),
            other: Other::default(),
        }
    }

    /// Creates a text document.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content: Some(Content::Text(text.into())),
            ..Self::new()
        }
    }

    /// Creates a document from bytes, such as a PNG or JPEG.
    #[must_use]
    pub fn blob(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            content: Some(Content::Blob(bytes.into())),
            ..Self::new()
        }
    }

    /// Creates a document whose content is at a URL or path.
    ///
    /// A local file is read when the document is pushed.
    #[must_use]
    pub fn uri(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            ..Self::new()
        }
    }

    /// Creates a document from numbers, such as features for `mlp` or a point cloud.
    ///
    /// `shape` is the size of each dimension.
    #[must_use]
    pub fn tensor(values: &[f32], shape: &[u32]) -> Self {
        Self {
            content: Some(Content::Tensor(NdArray::from_f32(values, shape))),
            ..Self::new()
        }
    }

    /// Sets [`Document::id`], instead of the random one.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets [`Document::modality`].
    #[must_use]
    pub fn with_modality(mut self, modality: impl Into<Modality>) -> Self {
        self.modality = Some(modality.into());
        self
    }

    /// Sets the tag [`LABEL_TAG`].
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Json>) -> Self {
        self.tags.insert(LABEL_TAG.to_owned(), label.into());
        self
    }

    /// Sets [`Document::mime_type`].
    #[must_use]
    pub fn with_mime_type(mut self, mime_type: impl Into<String>) -> Self {
        self.mime_type = mime_type.into();
        self
    }

    /// Sets the tag [`SCORE_TAG`], the similarity of the two chunks between 0 and 1.
    #[must_use]
    pub fn with_score(self, score: f64) -> Self {
        self.with_tag(SCORE_TAG, score)
    }

    /// Sets a tag.
    #[must_use]
    pub fn with_tag(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        self.tags.insert(name.into(), value.into());
        self
    }

    /// Sets [`Document::embedding`] to these values.
    #[must_use]
    pub fn with_embedding(mut self, values: &[f32]) -> Self {
        let length = u32::try_from(values.len()).unwrap_or(u32::MAX);
        self.embedding = Some(NdArray::from_f32(values, &[length]));
        self
    }

    /// Adds a chunk, and sets its parent id and granularity.
    #[must_use]
    pub fn with_chunk(mut self, mut chunk: Self) -> Self {
        chunk.other.parent_id.clone_from(&self.id);
        chunk.other.granularity = self.other.granularity + 1;
        self.chunks.push(chunk);
        self
    }

    /// Returns the text if the document contains one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Some(Content::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Returns the bytes if the document contains some.
    #[must_use]
    pub fn as_blob(&self) -> Option<&[u8]> {
        match &self.content {
            Some(Content::Blob(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the label as text.
    ///
    /// Whole numbers have no decimals, because docarray stores every number as a
    /// double.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        match self.tags.get(LABEL_TAG)? {
            Json::Null => None,
            Json::String(label) => Some(label.clone()),
            Json::Number(n) => match n.as_f64() {
                Some(x) if x.fract() == 0.0 && x.abs() < 1e15 => Some(format!("{x:.0}")),
                _ => Some(n.to_string()),
            },
            other => Some(other.to_string()),
        }
    }

    /// Whether most of the document's `size` bytes are already compressed, such as an
    /// image, so that compressing them again does not help.
    pub(crate) fn is_mostly_compressed(&self, size: usize) -> bool {
        fn compressed(document: &Document) -> usize {
            let own = match &document.content {
                Some(Content::Blob(bytes)) if has_compressed_format(bytes) => bytes.len(),
                _ => 0,
            };
            own + document.chunks.iter().map(compressed).sum::<usize>()
        }
        compressed(self) > size / 2
    }

    /// Returns the document as an encoded protobuf message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        DocumentProto::from(self.clone()).encode_to_vec()
    }

    /// Parses an encoded protobuf message.
    ///
    /// # Errors
    /// [`DocumentError::Malformed`] if the bytes are not such a message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        DocumentProto::decode(bytes)
            .map(Into::into)
            .map_err(|e| DocumentError::Malformed(e.to_string()))
    }
}

/// Whether bytes begin like PNG, JPEG, GIF, WebP, zip or gzip.
fn has_compressed_format(bytes: &[u8]) -> bool {
    const HEADS: [&[u8]; 5] = [
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"GIF8",
        b"PK\x03\x04",
        b"\x1f\x8b",
    ];
    HEADS.iter().any(|head| bytes.starts_with(head))
        || (bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"))
}

/// Returns 32 random hex digits.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
