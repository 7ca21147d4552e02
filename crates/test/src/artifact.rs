//! Artifacts, which are pushed data or models of runs, and uploads in parts.

use bytes::{Bytes, BytesMut};
use finetuner_protocol::{Annotations, check_name};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::answer::{CREATED_AT, Refusal, Result};

/// Type of training and evaluation data.
pub(crate) const DOCUMENTS: &str = "documentArray";
/// Type of the result of a training run.
pub(crate) const MODEL: &str = "model";
/// Prefix of download addresses, which need no token.
pub(crate) const DOWNLOADS: &str = "/v2/download/";
/// Length of a stream's head in bytes: a version, then the number of documents.
const HEAD: usize = 9;

pub(crate) struct Artifact {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) kind: String,
    pub(crate) public: bool,
    pub(crate) meta_data: Value,
    pub(crate) bytes: Bytes,
    pub(crate) sha256: String,
    pub(crate) annotations: Annotations,
}

impl Artifact {
    pub(crate) fn about(&self) -> Value {
        json!({
            "_id": self.id,
            "name": self.name,
            "type": self.kind,
            "metaData": self.meta_data,
            "visibility": if self.public { "public" } else { "private" },
            "size": self.bytes.len(),
            "sha256": self.sha256,
            "createdAt": CREATED_AT,
            "updatedAt": CREATED_AT,
            "tags": self.annotations.tags,
            "note": self.annotations.note,
        })
    }
}

/// Fields of an upload besides its file.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct UploadFields {
    pub(crate) name: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// `True` or `False`, as Python writes it.
    pub(crate) public: String,
    pub(crate) meta_data: String,
}

impl UploadFields {
    pub(crate) fn check(&self) -> Result<()> {
        let name = self.name.as_deref().filter(|name| !name.is_empty());
        let checked = name.map_or(Ok(()), |name| check_name("name", name));
        checked.map_err(|e| Refusal::bad_request(e.to_string()))
    }
}

/// Hash and number of documents that the client announced.
#[derive(Default)]
pub(crate) struct Announced {
    pub(crate) sha256: Option<String>,
    pub(crate) documents: Option<u64>,
}

impl Announced {
    /// Refuses content that differs from what the client sent, as the server does.
    pub(crate) fn compare(&self, bytes: &[u8]) -> Result<()> {
        let found = sha256(bytes);
        if let Some(expected) = &self.sha256
            && !expected.eq_ignore_ascii_case(&found)
        {
            return Err(Refusal::unprocessable(format!(
                "`sha256`: {} bytes arrived with another SHA-256: send the data again",
                bytes.len()
            )));
        }
        let arrived = match bytes.first_chunk::<HEAD>() {
            Some([1, count @ ..]) => u64::from_be_bytes(*count),
            _ => 0,
        };
        match self.documents {
            Some(announced) if announced != arrived => Err(Refusal::unprocessable(format!(
                "`documents` is {announced}, but {arrived} documents arrived: send the data again"
            ))),
            _ => Ok(()),
        }
    }
}

/// An upload in parts.
#[derive(Default)]
pub(crate) struct Upload {
    pub(crate) fields: UploadFields,
    pub(crate) bytes: BytesMut,
    /// Answer to `finish`, in case the call is repeated.
    pub(crate) done: Option<Value>,
}

/// Request for an artifact by id or name.
#[derive(Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
}

/// Returns a SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
