//! Documents, the form in which data travels: a text or a picture with an id,
//! tags, and documents inside it.

mod nd_array;
mod wire;

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value as Json};

use crate::{DocumentError, Modality, origin::Origin, proto::DocumentProto};

pub use nd_array::{NdArray, Opaque};
pub(crate) use wire::array_from_message;

/// The tag that holds a document's label. Two documents with the same label
/// are a positive pair.
pub const LABEL_TAG: &str = "finetuner_label";

/// The tag that holds the similarity of a pair, between 0 and 1.
pub const SCORE_TAG: &str = "finetuner_score";

/// One piece of data, as docarray 0.x defines it.
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
    /// Unique among the documents of an array: 32 hex digits where it was not
    /// given.
    pub id: String,
    /// What the document holds.
    pub content: Option<Content>,
    /// Where the content can be read, a URL or a path.
    pub uri: String,
    /// Which part of a model the document is for.
    pub modality: Option<Modality>,
    /// The content's media type.
    pub mime_type: String,
    /// Free values by name. Labels and scores are here.
    pub tags: Map<String, Json>,
    /// Parts of this document.
    pub chunks: Vec<Document>,
    /// Documents that were found for this one.
    pub matches: Vec<Document>,
    /// The document as a vector.
    pub embedding: Option<NdArray>,
    /// How well this document matches others, by name.
    pub scores: BTreeMap<String, NamedScore>,
    /// What docarray holds beside the above. It is kept as it came.
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
    /// The document that holds this one.
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
    /// Whether this program created the document or received it. It does not
    /// travel.
    pub origin: Origin,
}

/// What a [`Document`] holds.
///
/// ```
/// use finetuner_protocol::{Content, Document};
///
/// let document = Document::text("a shoe");
/// assert!(matches!(document.content, Some(Content::Text(_))));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Words.
    Text(String),
    /// Bytes, such as an encoded picture.
    Blob(Vec<u8>),
    /// Numbers.
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
    /// How it was computed.
    pub op_name: String,
    /// More about it.
    pub description: String,
    /// The document it refers to.
    pub ref_id: String,
}

impl NamedScore {
    /// A value, and how it was computed.
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
    /// An empty document with a new id.
    #[must_use]
    pub fn new() -> Self {
        Self::with_id(random_id())
    }

    /// An empty document with this id.
    #[must_use]
    pub fn with_id(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
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

    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content: Some(Content::Text(text.into())),
            ..Self::new()
        }
    }

    /// Bytes, such as a picture as PNG or JPEG.
    #[must_use]
    pub fn blob(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            content: Some(Content::Blob(bytes.into())),
            ..Self::new()
        }
    }

    /// Something that can be read at a URL or a path. A picture in a file of this
    /// machine is read when the document is pushed.
    #[must_use]
    pub fn uri(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            ..Self::new()
        }
    }

    /// Numbers of any shape, such as features for `mlp` or the points of a
    /// cloud. `shape` says how many there are in each dimension.
    #[must_use]
    pub fn tensor(values: &[f32], shape: &[u32]) -> Self {
        Self {
            content: Some(Content::Tensor(NdArray::from_f32(values, shape))),
            ..Self::new()
        }
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

    /// Sets the tag [`SCORE_TAG`]: how similar the two parts are, between 0 and
    /// 1.
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

    /// Adds a part, and notes in it whose part it is.
    #[must_use]
    pub fn with_chunk(mut self, mut chunk: Self) -> Self {
        chunk.other.parent_id.clone_from(&self.id);
        chunk.other.granularity = self.other.granularity + 1;
        self.chunks.push(chunk);
        self
    }

    /// The text, where the document holds one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Some(Content::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The bytes, where the document holds some.
    #[must_use]
    pub fn as_blob(&self) -> Option<&[u8]> {
        match &self.content {
            Some(Content::Blob(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The label as a text. Numbers that are whole have no decimals, since
    /// docarray keeps every number as a double.
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

    /// Whether most of the document's `size` bytes are a picture or the like,
    /// which does not get smaller by compressing it again.
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

    /// The document as an encoded protobuf message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        DocumentProto::from(self.clone()).encode_to_vec()
    }

    /// Reads an encoded protobuf message.
    ///
    /// # Errors
    /// [`DocumentError::Malformed`] where the bytes are not such a message.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        DocumentProto::decode(bytes)
            .map(Into::into)
            .map_err(|e| DocumentError::Malformed(e.to_string()))
    }
}

/// Whether bytes begin as PNG, JPEG, GIF, WebP or a zip do.
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

/// 32 hex digits that nobody has drawn before.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
