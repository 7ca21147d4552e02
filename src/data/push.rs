//! Upload of data: checked as a whole, then sent.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use finetuner_data::{DocumentSource, Layout};
use finetuner_protocol::{Summary, Task, check_name, listed_task, text::start_of};
use reqwest::Method;
use serde::Deserialize;

use super::{pack::Packing, source::DataSource, thread::blocking};
use crate::{
    client::Finetuner,
    error::{Error, Result},
    transport::{Call, ProgressSink, Transport, progress_methods, upload},
};

impl Finetuner {
    /// Uploads data under a name, for `fit` or for [`Finetuner::pull`].
    ///
    /// Awaiting the returned value uploads it and replaces earlier data of that
    /// name. See [`Push`].
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> Result<(), Box<dyn std::error::Error>> {
    /// use finetuner::{Document, DocumentArray};
    ///
    /// let mut train_data = DocumentArray::new();
    /// let image = std::fs::read("sneakers.png")?;
    /// train_data.push(
    ///     Document::new()
    ///         .with_chunk(Document::blob(image).with_modality("image"))
    ///         .with_chunk(Document::text("red sneakers").with_modality("text")),
    /// );
    /// finetuner.push("clip-fashion-train-data", &train_data).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn push(&self, name: impl Into<String>, data: impl Into<DataSource>) -> Push {
        Push::new(self.transport.clone(), name.into(), data.into())
    }
}

/// Upload of data, from [`Finetuner::push`](crate::Finetuner::push).
///
/// Awaiting it uploads the data. All documents are checked before anything is sent,
/// and all problems are reported together. Images that documents name by path are
/// read while they are sent.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::Csv;
///
/// let summary = finetuner.push("train", Csv::path("train.csv")).public(true).await?;
/// println!("{} documents", summary.length);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting it gives [`Error::is_data`] if documents can't be used, and
/// [`Error::is_invalid`] if the name is not allowed.
#[derive(Clone, Debug)]
#[must_use = "data is sent when it is awaited"]
pub struct Push {
    transport: Transport,
    name: String,
    data: DataSource,
    public: bool,
    model: Option<String>,
    progress: ProgressSink,
}

impl Push {
    pub(crate) fn new(transport: Transport, name: String, data: DataSource) -> Self {
        Self {
            transport,
            name,
            data,
            public: false,
            model: None,
            progress: ProgressSink::default(),
        }
    }

    /// Sets whether everybody who knows the name may pull it; off by default.
    pub fn public(mut self, public: bool) -> Self {
        self.public = public;
        self
    }

    /// Sets the model that a CSV file is for.
    ///
    /// It decides the meaning of the columns, and is either in the list of models or
    /// known to the backend. By default, columns are read as for CLIP.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    progress_methods!("upload, in documents", |push| format!(
        "Pushing {}",
        push.name
    ));

    async fn run(self) -> Result<Summary> {
        check_name("name", &self.name)?;
        let source = match self.data {
            DataSource::Name(name) => {
                return Err(Error::setup(format!(
                    "`{}` is the name of existing data: pass documents, a CSV file or a data set \
                     to push",
                    start_of(&name)
                )));
            }
            DataSource::Documents(documents) => DocumentSource::from(documents),
            DataSource::Stream(source) => source,
            DataSource::Csv(csv) => {
                let layout = layout(&self.transport, self.model.as_deref()).await?;
                blocking(move || Ok(csv.documents(layout)?)).await?
            }
            DataSource::Dataset(rows) => {
                let layout = layout(&self.transport, self.model.as_deref()).await?;
                blocking(move || Ok(rows.documents(layout)?)).await?
            }
        };
        let upload = Upload {
            name: self.name,
            public: self.public,
            progress: self.progress,
        };
        let (checking, name) = (source.clone(), upload.name.clone());
        let checked = blocking(move || Ok(checking.check(&name)?)).await?;
        send_documents(&self.transport, source, checked.summary, upload).await
    }
}

/// Returns the layout of a CSV file's columns for a model. Asks the backend if the
/// model is not in the list of backbones.
async fn layout(transport: &Transport, model: Option<&str>) -> Result<Layout> {
    #[derive(Deserialize)]
    struct Model {
        task: Task,
    }
    let Some(name) = model else {
        return Ok(Layout::of_task(&Task::TextToImage)?);
    };
    if let Some(task) = listed_task(name) {
        return Ok(Layout::of_task(&task)?);
    }
    let call = Call::api(Method::GET, "models", &[]).query("name", name);
    match transport.json(call).await {
        Ok(Model { task }) => Ok(Layout::of_task(&task)?),
        Err(error) if error.is_not_found() => Err(Error::setup(format!(
            "the backend can't tell what the model `{}` embeds, so the columns of the CSV file have \
             no meaning: name a similar model of the list",
            start_of(name)
        ))),
        Err(error) => Err(error),
    }
}

impl IntoFuture for Push {
    type Output = Result<Summary>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Name, visibility and progress callback of an upload.
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) public: bool,
    pub(crate) progress: ProgressSink,
}

/// Sends documents that were checked. Returns their summary.
pub(crate) async fn send_documents(
    transport: &Transport,
    source: DocumentSource,
    summary: Summary,
    stored: Upload,
) -> Result<Summary> {
    let mut meta_data = summary.to_meta_data();
    meta_data["version"] = serde_json::json!({"finetuner-rs": env!("CARGO_PKG_VERSION")});
    let fields = vec![
        ("name", stored.name),
        ("type", "documentArray".to_owned()),
        (
            "public",
            if stored.public { "True" } else { "False" }.to_owned(),
        ),
        ("metaData", meta_data.to_string()),
    ];
    let packing = Packing::new(source, summary.length, stored.progress);
    let packed = packing.clone();
    let sent = upload(transport, Arc::new(move || packed.pack()), fields).await;
    // Reports the problem of the data rather than the broken connection that it
    // caused.
    match packing.failure() {
        Some(error) => Err(error),
        None => sent.map(|()| summary),
    }
}
