//! Documents on their way to the backend and back.

use bytes::Bytes;
use finetuner_protocol::{DocumentArray, check_name};
use serde::Deserialize;

use crate::{
    Error, Result,
    transport::{Body, Call, Transport},
};

/// Data for a run: a name, or documents that are pushed when the run is
/// submitted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TrainingData {
    /// Data that was pushed before.
    Name(String),
    /// Documents.
    Documents(DocumentArray),
}

impl From<&str> for TrainingData {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for TrainingData {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<DocumentArray> for TrainingData {
    fn from(documents: DocumentArray) -> Self {
        Self::Documents(documents)
    }
}

pub(crate) async fn push(
    transport: &Transport,
    name: &str,
    documents: &DocumentArray,
) -> Result<()> {
    check_name("name", name)?;
    let documents = documents.clone();
    let packed = tokio::task::spawn_blocking(move || documents.to_bytes());
    let file = Bytes::from(packed.await.map_err(Error::setup)??);
    let fields = vec![
        ("name", name.to_owned()),
        ("type", "documentArray".to_owned()),
        ("public", "False".to_owned()),
    ];
    let url = transport.addresses().rpc("artifact.upload");
    // The name is overwritten, so a second upload does no harm.
    let call = Call::post(url, Body::Upload { file, fields }).repeatable();
    transport.rpc::<serde_json::Value>(call).await.map(drop)
}

pub(crate) async fn pull(transport: &Transport, name: &str) -> Result<DocumentArray> {
    let mut url = transport.addresses().rpc("artifact.getDownloadUrl");
    url.query_pairs_mut().append_pair("name", name);
    let Download { download } = transport.rpc(Call::get(url)).await?;
    let call = Call::get(download).without_token().streaming();
    let answer = transport.open(call).await?;
    let bytes = crate::artifact::collect(answer).await?;
    tokio::task::spawn_blocking(move || DocumentArray::from_bytes(&bytes))
        .await
        .map_err(Error::setup)?
        .map_err(Into::into)
}

/// Where an artifact's bytes are.
#[derive(Deserialize)]
pub(crate) struct Download {
    pub(crate) download: url::Url,
}
