//! Training data: where it comes from, what is wrong with it, its way to the
//! backend and back.

mod cache;
mod check;
mod documents;
mod download;
mod labels;
mod pack;
mod pull;
mod push;
mod source;
mod upload;

use std::path::Path;

use finetuner_protocol::DocumentArray;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Error, Finetuner, List, Result, transport::Call};

pub(crate) use check::local_path;
pub use check::{MAX_PROBLEMS, Problem, Problems};
pub use documents::DocumentSource;
pub(crate) use documents::{Fault, Item, Numbered};
pub(crate) use download::{Expected, download, hash_of, hex};
pub use pull::{DocumentStream, Pull};
pub use push::Push;
pub(crate) use push::{Upload, send_documents};
pub use source::DataSource;

impl Finetuner {
    /// Stores data under a name, for `fit` or for [`Finetuner::pull`]; awaiting
    /// it does so. What had that name before is overwritten. See [`Push`].
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> Result<(), Box<dyn std::error::Error>> {
    /// use finetuner::{Document, DocumentArray};
    ///
    /// let mut train_data = DocumentArray::new();
    /// let picture = std::fs::read("sneakers.png")?;
    /// train_data.push(
    ///     Document::new()
    ///         .with_chunk(Document::blob(picture).with_modality("image"))
    ///         .with_chunk(Document::text("red sneakers").with_modality("text")),
    /// );
    /// finetuner.push("clip-fashion-train-data", &train_data).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn push(&self, name: impl Into<String>, data: impl Into<DataSource>) -> Push {
        Push::new(self.transport.clone(), name.into(), data.into())
    }

    /// Fetches documents by their name: your own, or `owner/name` for somebody
    /// else's that are public. Awaiting it gives them all; see [`Pull`] for one
    /// after the other.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let documents = finetuner.pull("clip-fashion-train-data").await?;
    /// println!("{} documents", documents.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn pull(&self, name: impl Into<String>) -> Pull {
        let user = self.user().map(|user| user.id.clone());
        Pull::new(self.transport.clone(), user, name.into())
    }

    /// The data that was pushed, the newest last.
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

    /// All artifacts of a kind, the newest last: `documentArray` is data that
    /// was pushed, `model` what runs have made.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let models = finetuner.list_artifacts("model").await?;
    /// # Ok(())
    /// # }
    /// ```
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
                Ok(finetuner_protocol::Page {
                    total: answer.meta.total.unwrap_or(items.len() as u64),
                    items,
                    page,
                    size,
                })
            }
        })
    }

    /// What is known about data, by its name.
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
    /// [`Error::is_not_found`] where there is none.
    pub async fn describe_documents(&self, name: &str) -> Result<ArtifactInfo> {
        self.artifact("artifact.getDetail", "name", name).await
    }

    /// What is known about an artifact, by its id.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let artifact = finetuner.describe_artifact("62972acb5de25a53fdbfcecc").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there is none.
    pub async fn describe_artifact(&self, id: &str) -> Result<ArtifactInfo> {
        self.artifact("artifact.getDetail", "id", id).await
    }

    /// Deletes data, by its name.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// finetuner.delete_documents("clip-fashion-train-data").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there is none.
    pub async fn delete_documents(&self, name: &str) -> Result<()> {
        self.delete_by("name", name).await
    }

    /// Deletes an artifact, by its id.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// finetuner.delete_artifact("62972acb5de25a53fdbfcecc").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_not_found`] where there is none.
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

/// What a backend knows about an artifact.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let data = finetuner.describe_documents("clip-fashion-train-data").await?;
/// println!("{} was pushed {:?}", data.id, data.updated_at);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct ArtifactInfo {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its name, where it has one.
    #[serde(default)]
    pub name: Option<String>,
    /// What was sent along: docarray's summary among other things.
    #[serde(default, rename = "metaData")]
    pub meta_data: Value,
    /// `public` or `private`.
    #[serde(default)]
    pub visibility: Option<String>,
    /// When it was first pushed, in UTC.
    #[serde(default, rename = "createdAt")]
    pub created_at: Option<String>,
    /// When it was last pushed, in UTC.
    #[serde(default, rename = "updatedAt")]
    pub updated_at: Option<String>,
    /// Members that are not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ArtifactInfo {
    /// How many documents it has, where the summary says so.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let data = finetuner.describe_documents("clip-fashion-train-data").await?;
    /// assert_eq!(data.length(), Some(146));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        let summary = self.meta_data["summary"].as_array()?;
        let length = summary.iter().find(|item| item["name"] == "Length")?;
        length["value"].as_u64()
    }
}

/// Reads a binary file of docarray 0.x, with or without compression. Pickled
/// arrays, docarray's default, can't be read safely; save the array in Python
/// with `protocol="protobuf"`.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let documents = finetuner::load_documents("train.da").await?;
/// finetuner.push("train", documents).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::is_file`] where the file can't be read, [`Error::is_data`] where it
/// holds no documents.
pub async fn load_documents(path: impl AsRef<Path>) -> Result<DocumentArray> {
    let path = path.as_ref().to_owned();
    blocking(move || {
        let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, e))?;
        Ok(DocumentArray::from_file_bytes(&bytes)?)
    })
    .await
}

/// Writes documents as a binary file, which docarray 0.x reads with
/// `DocumentArray.load_binary(path, protocol="protobuf", compress="gzip")` and
/// [`load_documents`] as well. The file appears whole or not at all.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let documents = finetuner.pull("train").await?;
/// finetuner::save_documents("train.da", documents).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::is_file`] where it can't be written.
pub async fn save_documents(path: impl AsRef<Path>, documents: DocumentArray) -> Result<()> {
    let path = path.as_ref().to_owned();
    blocking(move || {
        let failed = |e| Error::file(&path, e);
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(".finetuner-")
            .tempfile_in(folder)
            .map_err(failed)?;
        let mut out = std::io::BufWriter::new(file);
        documents.write(&mut out)?;
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    })
    .await
}

/// Does something that blocks, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// The error of a thread that ended without a result.
fn ended(error: tokio::task::JoinError) -> Error {
    let Ok(panic) = error.try_into_panic() else {
        return Error::setup("the program ended before this was done");
    };
    let message = match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "it did not say why".to_owned(),
        },
    };
    Error::setup(format!(
        "a thread panicked, perhaps in code that the program gave: {message}"
    ))
}
