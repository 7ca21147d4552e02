//! Conversion between documents and protobuf messages.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value as Json};

use super::{Content, Document, NamedScore, NdArray, Opaque, Other};
use crate::{
    origin::Origin,
    proto::{
        self, Content as ProtoContent, DenseNdArrayProto, DocumentProto, Kind, NamedScoreProto,
        NdArrayContent, NdArrayProto, SparseNdArrayProto, Struct,
    },
};

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
            modality: (!p.modality.is_empty()).then(|| p.modality.into()),
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
            modality: d.modality.map_or_else(String::new, String::from),
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
            // The bytes were encoded from a decoded message, so this can't fail.
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
