//! Information about artifacts at the backend: data and models.

use finetuner_protocol::{AnnotationChange, Annotations, Page, time::Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    client::Finetuner,
    error::Result,
    transport::{Call, List},
};

impl Finetuner {
    /// Lists the data sets that were pushed, the newest last.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// for data in finetuner.list_documents().await? {
    ///     println!("{:?}: {:?} documents", data.name, data.length());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list_documents(&self) -> List<ArtifactInfo> {
        self.list_artifacts("documentArray")
    }

    /// Lists all artifacts of a kind, the newest last.
    ///
    /// The kind `documentArray` is data that was pushed, `model` the result of a
    /// run.
    pub fn list_artifacts(&self, kind: impl Into<String>) -> List<ArtifactInfo> {
        let (transport, kind) = (self.transport.clone(), kind.into());
        List::new(move |page, size| {
            let (transport, kind) = (transport.clone(), kind.clone());
            async move {
                #[derive(Deserialize)]
                struct Answer {
                    data: Vec<ArtifactInfo>,
                    #[serde(default)]
                    meta: Meta,
                }
                #[derive(Default, Deserialize)]
                struct Meta {
                    total: Option<u64>,
                }
                let call = Call::rpc("artifact.list")
                    .json(json!({
                        "filter": {"type": kind},
                        "sort": {"createdAt": 1},
                        "pageIndex": page,
                        "pageSize": size,
                    }))
                    .repeatable();
                let answer: Answer = transport.json(call).await?;
                let items = answer.data;
                // Without a total, a full page is not taken for the last one.
                let before = page.saturating_sub(1).saturating_mul(size);
                let seen = before.saturating_add(items.len() as u64);
                let is_full = items.len() as u64 >= size;
                let total = answer
                    .meta
                    .total
                    .unwrap_or(seen.saturating_add(is_full.into()));
                Ok(Page::new(items, total, page, size))
            }
        })
    }

    /// Returns information about a data set, by its name.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let data = finetuner.describe_documents("clip-fashion-train-data").await?;
    /// println!("{:?}", data.length());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn describe_documents(&self, name: &str) -> Result<ArtifactInfo> {
        self.artifact("artifact.getDetail", "name", name).await
    }

    /// Returns information about an artifact, by its id.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn describe_artifact(&self, id: &str) -> Result<ArtifactInfo> {
        self.artifact("artifact.getDetail", "id", id).await
    }

    /// Changes the tags and the note of an artifact, by its id, in one transaction.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::AnnotationChange;
    ///
    /// let data = finetuner.describe_documents("clip-fashion-train-data").await?;
    /// let change = AnnotationChange::default().add_tags(["cleaned"]);
    /// finetuner.annotate_artifact(&data.id, change).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_invalid`](crate::Error::is_invalid) if a tag or the note is not
    /// allowed, [`Error::is_not_found`](crate::Error::is_not_found) if there is no
    /// such artifact.
    pub async fn annotate_artifact(&self, id: &str, change: AnnotationChange) -> Result<()> {
        // Refuses what no backend would accept before anything is sent.
        change.apply(&mut Annotations::default())?;
        let mut body = json!({
            "id": id, "addTags": change.add_tags, "removeTags": change.remove_tags,
        });
        if let Some(tags) = change.tags {
            body["tags"] = tags.into();
        }
        if let Some(note) = change.note {
            body["note"] = note.into();
        }
        let call = Call::rpc("artifact.update").json(body).repeatable();
        self.transport.done(call).await
    }

    /// Deletes a data set, by its name.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn delete_documents(&self, name: &str) -> Result<()> {
        self.delete_by("name", name).await
    }

    /// Deletes an artifact, by its id.
    ///
    /// # Errors
    /// [`Error::is_not_found`](crate::Error::is_not_found) if it does not exist.
    pub async fn delete_artifact(&self, id: &str) -> Result<()> {
        self.delete_by("id", id).await
    }

    async fn delete_by(&self, by: &'static str, which: &str) -> Result<()> {
        let form = vec![(by, which.to_owned())];
        let call = Call::rpc("artifact.delete").form(form).deleting();
        self.transport.done(call).await
    }

    async fn artifact<T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        by: &'static str,
        which: &str,
    ) -> Result<T> {
        let form = vec![(by, which.to_owned())];
        self.transport
            .rpc(Call::rpc(method).form(form).repeatable())
            .await
    }
}

/// Information about an artifact.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let data = finetuner.describe_documents("clip-fashion-train-data").await?;
/// println!("{} was pushed {:?}", data.id, data.updated_at);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ArtifactInfo {
    /// Unique id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Name, if it has one.
    #[serde(default)]
    pub name: Option<String>,
    /// Metadata of the upload, including docarray's summary.
    #[serde(default, rename = "metaData")]
    pub meta_data: Value,
    /// `public` or `private`.
    #[serde(default)]
    pub visibility: Option<String>,
    /// Time of the first push.
    #[serde(default, rename = "createdAt", with = "finetuner_protocol::time")]
    pub created_at: Option<Timestamp>,
    /// Time of the last push.
    #[serde(default, rename = "updatedAt", with = "finetuner_protocol::time")]
    pub updated_at: Option<Timestamp>,
    /// Tags and note.
    #[serde(flatten)]
    pub annotations: Annotations,
    /// Other fields of the answer.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ArtifactInfo {
    /// Returns the number of documents, if the metadata contains it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        let summary = self.meta_data["summary"].as_array()?;
        let length = summary.iter().find(|item| item["name"] == "Length")?;
        length["value"].as_u64()
    }
}
