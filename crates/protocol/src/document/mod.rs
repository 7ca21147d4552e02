//! Documents, the form in which data travels: a text or a picture with an id,
//! tags, and documents inside it.

mod nd_array;
mod wire;

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value as Json};

use crate::{DocumentError, origin::Origin, proto::DocumentProto};

pub use nd_array::{NdArray, Opaque};
pub(crate) use wire::array_from_message;

/// The tag that holds a document's label. Two documents with the same label
/// are a positive pair.
///
/// ```
/// use finetuner_protocol::{Document, LABEL_TAG};
///
/// assert!(Document::text("a").with_label(3).tags.contains_key(LABEL_TAG));
/// ```
pub const LABEL_TAG: &str = "finetuner_label";

/// The tag that holds the similarity of a pair, between 0 and 1.
///
/// ```
/// use finetuner_protocol::{Document, SCORE_TAG};
///
/// assert!(Document::new().with_score(0.5).tags.contains_key(SCORE_TAG));
/// ```
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
pub struct Document {
    /// Unique among the documents of an array: 32 hex digits where it was not
    /// given.
    pub id: String,
    /// What the document holds.
    pub content: Option<Content>,
    /// Where the content can be read, a URL or a path.
    pub uri: String,
    /// `text`, `image` and so on: which part of a model the document is for.
    pub modality: String,
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
/// let score = NamedScore {
///     value: 0.3,
///     op_name: "cosine".to_owned(),
///     ..NamedScore::default()
/// };
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
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

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

impl Document {
    /// An empty document with a new id.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let pair = Document::new().with_chunk(Document::text("a")).with_chunk(Document::text("b"));
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with_id(random_id())
    }

    /// An empty document with this id.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// assert_eq!(Document::with_id("shoe-1").id, "shoe-1");
    /// ```
    #[must_use]
    pub fn with_id(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            content: None,
            uri: String::new(),
            modality: String::new(),
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
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// assert_eq!(Document::text("a red shoe").as_text(), Some("a red shoe"));
    /// ```
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content: Some(Content::Text(text.into())),
            ..Self::new()
        }
    }

    /// Bytes, such as a picture as PNG or JPEG.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let picture = Document::blob(&b"\x89PNG..."[..]);
    /// ```
    #[must_use]
    pub fn blob(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            content: Some(Content::Blob(bytes.into())),
            ..Self::new()
        }
    }

    /// Something that can be read at a URL or a path. A picture in a file of this
    /// machine is read when the document is pushed.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let picture = Document::uri("pictures/shoe.png");
    /// ```
    #[must_use]
    pub fn uri(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            ..Self::new()
        }
    }

    /// Numbers of any shape, such as features for `mlp` or the points of a
    /// cloud. `shape` says how many there are in each dimension.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// // Two points in space.
    /// let cloud = Document::tensor(&[0.0, 0.0, 1.0, 0.5, 0.5, 0.0], &[2, 3]);
    /// ```
    #[must_use]
    pub fn tensor(values: &[f32], shape: &[u32]) -> Self {
        Self {
            content: Some(Content::Tensor(NdArray::from_f32(values, shape))),
            ..Self::new()
        }
    }

    /// Sets [`Document::modality`].
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let title = Document::text("a red shoe").with_modality("text");
    /// ```
    #[must_use]
    pub fn with_modality(mut self, modality: impl Into<String>) -> Self {
        self.modality = modality.into();
        self
    }

    /// Sets the tag [`LABEL_TAG`].
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let shoe = Document::uri("shoe.png").with_label("shoe");
    /// assert_eq!(shoe.label().as_deref(), Some("shoe"));
    /// ```
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Json>) -> Self {
        self.tags.insert(LABEL_TAG.to_owned(), label.into());
        self
    }

    /// Sets [`Document::mime_type`].
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let picture = Document::uri("shoe").with_mime_type("image/png");
    /// ```
    #[must_use]
    pub fn with_mime_type(mut self, mime_type: impl Into<String>) -> Self {
        self.mime_type = mime_type.into();
        self
    }

    /// Sets the tag [`SCORE_TAG`]: how similar the two parts are, between 0 and
    /// 1.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let pair = Document::new()
    ///     .with_chunk(Document::text("a shoe"))
    ///     .with_chunk(Document::text("a sneaker"))
    ///     .with_score(0.8);
    /// ```
    #[must_use]
    pub fn with_score(self, score: f64) -> Self {
        self.with_tag(SCORE_TAG, score)
    }

    /// Sets a tag.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let shoe = Document::uri("shoe.png").with_tag("brand", "none");
    /// ```
    #[must_use]
    pub fn with_tag(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        self.tags.insert(name.into(), value.into());
        self
    }

    /// Sets [`Document::embedding`] to these values.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let found = Document::text("a shoe").with_embedding(&[0.1, 0.2]);
    /// ```
    #[must_use]
    pub fn with_embedding(mut self, values: &[f32]) -> Self {
        let length = u32::try_from(values.len()).unwrap_or(u32::MAX);
        self.embedding = Some(NdArray::from_f32(values, &[length]));
        self
    }

    /// Adds a part, and notes in it whose part it is.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let parent = Document::new().with_chunk(Document::text("a part"));
    /// assert_eq!(parent.chunks[0].as_text(), Some("a part"));
    /// ```
    #[must_use]
    pub fn with_chunk(mut self, mut chunk: Self) -> Self {
        chunk.other.parent_id.clone_from(&self.id);
        chunk.other.granularity = self.other.granularity + 1;
        self.chunks.push(chunk);
        self
    }

    /// The text, where the document holds one.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// assert_eq!(Document::uri("shoe.png").as_text(), None);
    /// ```
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Some(Content::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The bytes, where the document holds some.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// assert_eq!(Document::blob(&b"abc"[..]).as_blob(), Some(&b"abc"[..]));
    /// ```
    #[must_use]
    pub fn as_blob(&self) -> Option<&[u8]> {
        match &self.content {
            Some(Content::Blob(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The label as a text. Numbers that are whole have no decimals, since
    /// docarray keeps every number as a double.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// assert_eq!(Document::text("a").with_label(3).label().as_deref(), Some("3"));
    /// ```
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
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// let shoe = Document::text("a shoe");
    /// assert_eq!(Document::from_bytes(&shoe.to_bytes())?, shoe);
    /// # Ok::<(), finetuner_protocol::DocumentError>(())
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        DocumentProto::from(self.clone()).encode_to_vec()
    }

    /// Reads an encoded protobuf message.
    ///
    /// ```
    /// use finetuner_protocol::Document;
    ///
    /// assert!(Document::from_bytes(b"no document").is_err());
    /// ```
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
