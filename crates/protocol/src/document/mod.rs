//! Documents, the form in which data travels: a text or a picture with an id,
//! tags, and documents inside it.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value as Json};

use crate::{
    DocumentArray, DocumentError,
    origin::Origin,
    proto::{
        self, Content as ProtoContent, DenseNdArrayProto, DocumentArrayProto, DocumentProto, Kind,
        NamedScoreProto, NdArrayContent, NdArrayProto, SparseNdArrayProto, Struct,
    },
};

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

/// An array of numbers.
///
/// ```
/// use finetuner_protocol::NdArray;
///
/// if let NdArray::Dense { shape, dtype, .. } = NdArray::from_f32(&[1.0, 2.0], &[1, 2]) {
///     assert_eq!((shape, dtype.as_str()), (vec![1, 2], "<f4"));
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum NdArray {
    /// Every element, row by row.
    Dense {
        /// The elements' bytes.
        buffer: Vec<u8>,
        /// The length of each dimension.
        shape: Vec<u32>,
        /// The kind of element in numpy's notation, such as `<f4`.
        dtype: String,
        /// The library it came from, `numpy` by default.
        class: String,
    },
    /// A sparse array, kept but not interpreted.
    Sparse(Opaque),
}

/// An encoded part that is kept as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque(Vec<u8>);

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

/// Reads one message with all documents of an array.
pub(crate) fn array_from_message(bytes: &[u8]) -> Result<DocumentArray, DocumentError> {
    let message =
        DocumentArrayProto::decode(bytes).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(message.docs.into_iter().map(Document::from).collect())
}

impl NdArray {
    /// A dense array of 32-bit numbers, row by row. `shape` says how many there
    /// are in each dimension.
    ///
    /// ```
    /// use finetuner_protocol::NdArray;
    ///
    /// let array = NdArray::from_f32(&[1.0, 2.0], &[2]);
    /// assert_eq!(array.to_f32(), Some(vec![1.0, 2.0]));
    /// ```
    #[must_use]
    pub fn from_f32(values: &[f32], shape: &[u32]) -> Self {
        Self::Dense {
            buffer: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            shape: shape.to_vec(),
            dtype: "<f4".to_owned(),
            class: "numpy".to_owned(),
        }
    }

    /// The values of a dense array as 32-bit numbers, row by row; none where
    /// the array is sparse or holds no numbers.
    ///
    /// ```
    /// use finetuner_protocol::NdArray;
    ///
    /// assert_eq!(NdArray::from_f32(&[1.5], &[1]).to_f32(), Some(vec![1.5]));
    /// ```
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        macro_rules! read {
            ($kind:ty, $buffer:expr) => {
                $buffer
                    .chunks_exact(size_of::<$kind>())
                    .map(|bytes| {
                        let mut value = [0; size_of::<$kind>()];
                        value.copy_from_slice(bytes);
                        <$kind>::from_le_bytes(value) as f32
                    })
                    .collect()
            };
        }
        let Self::Dense { buffer, dtype, .. } = self else {
            return None;
        };
        Some(match dtype.as_str() {
            "<f4" => read!(f32, buffer),
            "<f8" => read!(f64, buffer),
            "<i4" => read!(i32, buffer),
            "<i8" => read!(i64, buffer),
            "|u1" => read!(u8, buffer),
            "|i1" => read!(i8, buffer),
            _ => return None,
        })
    }
}

/// 32 hex digits that nobody has drawn before.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl From<DocumentProto> for Document {
    fn from(p: DocumentProto) -> Self {
        Self {
            id: p.id,
            content: p.content.map(|content| match content {
                ProtoContent::Text(text) => Content::Text(text),
                ProtoContent::Blob(bytes) => Content::Blob(bytes),
                ProtoContent::Tensor(array) => Content::Tensor(array.into()),
            }),
            uri: p.uri,
            modality: p.modality,
            mime_type: p.mime_type,
            tags: p.tags.map(struct_to_json).unwrap_or_default(),
            chunks: p.chunks.into_iter().map(Into::into).collect(),
            matches: p.matches.into_iter().map(Into::into).collect(),
            embedding: p.embedding.map(Into::into),
            scores: scores(p.scores),
            other: Other {
                granularity: p.granularity,
                adjacency: p.adjacency,
                parent_id: p.parent_id,
                weight: p.weight,
                offset: p.offset,
                location: p.location,
                evaluations: scores(p.evaluations),
                metadata: p.metadata.map(struct_to_json).unwrap_or_default(),
                origin: Origin::received(),
            },
        }
    }
}

impl From<Document> for DocumentProto {
    fn from(d: Document) -> Self {
        let fields = |map: Map<String, Json>| (!map.is_empty()).then(|| json_to_struct(map));
        Self {
            id: d.id,
            content: d.content.map(|content| match content {
                Content::Text(text) => ProtoContent::Text(text),
                Content::Blob(bytes) => ProtoContent::Blob(bytes),
                Content::Tensor(array) => ProtoContent::Tensor(array.into()),
            }),
            granularity: d.other.granularity,
            adjacency: d.other.adjacency,
            parent_id: d.other.parent_id,
            weight: d.other.weight,
            uri: d.uri,
            modality: d.modality,
            mime_type: d.mime_type,
            offset: d.other.offset,
            location: d.other.location,
            chunks: d.chunks.into_iter().map(Into::into).collect(),
            matches: d.matches.into_iter().map(Into::into).collect(),
            embedding: d.embedding.map(Into::into),
            tags: fields(d.tags),
            scores: proto_scores(d.scores),
            evaluations: proto_scores(d.other.evaluations),
            metadata: fields(d.other.metadata),
        }
    }
}

impl From<NdArrayProto> for NdArray {
    fn from(p: NdArrayProto) -> Self {
        match p.content {
            Some(NdArrayContent::Dense(dense)) => Self::Dense {
                buffer: dense.buffer,
                shape: dense.shape,
                dtype: dense.dtype,
                class: p.cls_name,
            },
            _ => Self::Sparse(Opaque(p.encode_to_vec())),
        }
    }
}

impl From<NdArray> for NdArrayProto {
    fn from(array: NdArray) -> Self {
        match array {
            NdArray::Dense {
                buffer,
                shape,
                dtype,
                class,
            } => Self {
                content: Some(NdArrayContent::Dense(DenseNdArrayProto {
                    buffer,
                    shape,
                    dtype,
                })),
                cls_name: class,
                parameters: None,
            },
            // It was encoded from a decoded message, so this can't fail.
            NdArray::Sparse(Opaque(bytes)) => {
                Self::decode(bytes.as_slice()).unwrap_or_else(|_| Self {
                    content: Some(NdArrayContent::Sparse(SparseNdArrayProto::default())),
                    ..Self::default()
                })
            }
        }
    }
}

fn scores(scores: BTreeMap<String, NamedScoreProto>) -> BTreeMap<String, NamedScore> {
    let score = |s: NamedScoreProto| NamedScore {
        value: s.value,
        op_name: s.op_name,
        description: s.description,
        ref_id: s.ref_id,
    };
    scores.into_iter().map(|(k, s)| (k, score(s))).collect()
}

fn proto_scores(scores: BTreeMap<String, NamedScore>) -> BTreeMap<String, NamedScoreProto> {
    let score = |s: NamedScore| NamedScoreProto {
        value: s.value,
        op_name: s.op_name,
        description: s.description,
        ref_id: s.ref_id,
    };
    scores.into_iter().map(|(k, s)| (k, score(s))).collect()
}

fn struct_to_json(s: Struct) -> Map<String, Json> {
    s.fields
        .into_iter()
        .map(|(k, v)| (k, value_to_json(v)))
        .collect()
}

fn value_to_json(value: proto::Value) -> Json {
    match value.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        // JSON has no infinities and no NaN.
        Some(Kind::Number(n)) => serde_json::Number::from_f64(n).map_or(Json::Null, Json::Number),
        Some(Kind::Text(text)) => Json::String(text),
        Some(Kind::Bool(b)) => Json::Bool(b),
        Some(Kind::Struct(s)) => Json::Object(struct_to_json(s)),
        Some(Kind::List(list)) => Json::Array(list.values.into_iter().map(value_to_json).collect()),
    }
}

fn json_to_struct(map: Map<String, Json>) -> Struct {
    Struct {
        fields: map
            .into_iter()
            .map(|(k, v)| (k, json_to_value(v)))
            .collect(),
    }
}

fn json_to_value(json: Json) -> proto::Value {
    let kind = match json {
        Json::Null => Kind::Null(0),
        Json::Bool(b) => Kind::Bool(b),
        Json::Number(n) => Kind::Number(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::Text(text),
        Json::Array(values) => Kind::List(proto::List {
            values: values.into_iter().map(json_to_value).collect(),
        }),
        Json::Object(map) => Kind::Struct(json_to_struct(map)),
    };
    proto::Value { kind: Some(kind) }
}
