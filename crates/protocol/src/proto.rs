//! The protobuf messages of docarray 0.x (package `docarray`).
//!
//! Only [`crate::document`] uses them; the public type is [`crate::Document`].

use std::collections::BTreeMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DocumentProto {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(oneof = "Content", tags = "2, 3, 4")]
    pub(crate) content: Option<Content>,
    #[prost(uint32, tag = "5")]
    pub(crate) granularity: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) adjacency: u32,
    #[prost(string, tag = "7")]
    pub(crate) parent_id: String,
    #[prost(float, tag = "8")]
    pub(crate) weight: f32,
    #[prost(string, tag = "9")]
    pub(crate) uri: String,
    #[prost(string, tag = "10")]
    pub(crate) modality: String,
    #[prost(string, tag = "11")]
    pub(crate) mime_type: String,
    #[prost(float, tag = "12")]
    pub(crate) offset: f32,
    #[prost(float, repeated, tag = "13")]
    pub(crate) location: Vec<f32>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) chunks: Vec<DocumentProto>,
    #[prost(message, repeated, tag = "15")]
    pub(crate) matches: Vec<DocumentProto>,
    #[prost(message, optional, tag = "16")]
    pub(crate) embedding: Option<NdArrayProto>,
    #[prost(message, optional, tag = "17")]
    pub(crate) tags: Option<Struct>,
    #[prost(btree_map = "string, message", tag = "18")]
    pub(crate) scores: BTreeMap<String, NamedScoreProto>,
    #[prost(btree_map = "string, message", tag = "19")]
    pub(crate) evaluations: BTreeMap<String, NamedScoreProto>,
    #[prost(message, optional, tag = "20")]
    pub(crate) metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DocumentArrayProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) docs: Vec<DocumentProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Content {
    #[prost(bytes, tag = "2")]
    Blob(Vec<u8>),
    #[prost(message, tag = "3")]
    Tensor(NdArrayProto),
    #[prost(string, tag = "4")]
    Text(String),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NdArrayProto {
    #[prost(oneof = "NdArrayContent", tags = "1, 2")]
    pub(crate) content: Option<NdArrayContent>,
    #[prost(string, tag = "3")]
    pub(crate) cls_name: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) parameters: Option<Struct>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum NdArrayContent {
    #[prost(message, tag = "1")]
    Dense(DenseNdArrayProto),
    #[prost(message, tag = "2")]
    Sparse(SparseNdArrayProto),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DenseNdArrayProto {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) buffer: Vec<u8>,
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) shape: Vec<u32>,
    #[prost(string, tag = "3")]
    pub(crate) dtype: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseNdArrayProto {
    #[prost(message, optional, tag = "1")]
    pub(crate) indices: Option<DenseNdArrayProto>,
    #[prost(message, optional, tag = "2")]
    pub(crate) values: Option<DenseNdArrayProto>,
    #[prost(uint32, repeated, tag = "3")]
    pub(crate) shape: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NamedScoreProto {
    #[prost(float, tag = "1")]
    pub(crate) value: f32,
    #[prost(string, tag = "2")]
    pub(crate) op_name: String,
    #[prost(string, tag = "3")]
    pub(crate) description: String,
    #[prost(string, tag = "4")]
    pub(crate) ref_id: String,
}

/// `google.protobuf.Struct`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    /// `NULL_VALUE`, the only value of its enum.
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

/// `google.protobuf.ListValue`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct List {
    #[prost(message, repeated, tag = "1")]
    pub(crate) values: Vec<Value>,
}
