//! Data on its way to the backend: checked as a whole, then sent.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use finetuner_protocol::{Summary, Task, check_name, listed_task, text::start_of};
use reqwest::Method;
use serde::Deserialize;

use super::{
    blocking,
    documents::{Checked, DocumentSource},
    pack::Packing,
    source::DataSource,
    upload,
};
use crate::{
    Error, Result,
    progress::{ProgressSink, progress_methods},
    tables::Layout,
    transport::{Call, Transport},
};

/// Data on its way to the backend, from
/// [`Finetuner::push`](crate::Finetuner::push). Awaiting it sends it.
///
/// Before anything is sent, all documents are looked at, and all that can't be
/// used are reported together. Pictures that documents name by path are read as
/// they are sent.
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
/// Awaiting it gives [`Error::is_data`] where documents can't be used, and
/// [`Error::is_invalid`] where the name can't be one.
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

    /// Whether everybody who knows its name may pull it; not by default.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::Csv;
    ///
    /// finetuner.push("train", Csv::path("train.csv")).public(true).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn public(mut self, public: bool) -> Self {
        self.public = public;
        self
    }

    /// The model that a CSV file is for, which decides what its columns are: one of
    /// the list, or one that the backend knows. Without one, columns are taken as
    /// for CLIP.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// use finetuner::Csv;
    ///
    /// // Both columns are texts.
    /// finetuner.push("train", Csv::path("pairs.csv")).model("bert-base-cased").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    progress_methods!(
        "upload is, in documents",
        "finetuner.push(\"train\", finetuner::Csv::path(\"train.csv\"))",
        |push| format!("Pushing {}", push.name)
    );

    async fn run(self) -> Result<Summary> {
        check_name("name", &self.name)?;
        let source = match self.data {
            DataSource::Name(name) => {
                return Err(Error::setup(format!(
                    "`{}` is the name of data that was pushed before: give documents or a CSV \
                     file to push",
                    start_of(&name)
                )));
            }
            DataSource::Documents(documents) => DocumentSource::of_array(documents),
            DataSource::Stream(source) => source,
            DataSource::Csv(csv) => {
                let layout = layout(&self.transport, self.model.as_deref()).await?;
                blocking(move || csv.documents(layout)).await?
            }
            DataSource::Dataset(rows) => {
                let layout = layout(&self.transport, self.model.as_deref()).await?;
                blocking(move || rows.documents(layout)).await?
            }
        };
        let upload = Upload {
            name: self.name,
            public: self.public,
            progress: self.progress,
        };
        let (checking, name) = (source.clone(), upload.name.clone());
        let checked = blocking(move || checking.check(&name)).await?;
        send_documents(&self.transport, source, checked, upload).await
    }
}

/// Returns the layout of a CSV file's columns for a model. If the model is not in
/// the list of backbones, this asks the backend.
async fn layout(transport: &Transport, model: Option<&str>) -> Result<Layout> {
    #[derive(Deserialize)]
    struct Model {
        task: Task,
    }
    let Some(name) = model else {
        return Layout::of_task(&Task::TextToImage);
    };
    if let Some(task) = listed_task(name) {
        return Layout::of_task(&task);
    }
    let call = Call::api(Method::GET, "models", &[]).query("name", name);
    match transport.json(call).await {
        Ok(Model { task }) => Layout::of_task(&task),
        Err(error) if error.is_not_found() => Err(Error::setup(format!(
            "this backend does not say what the model `{}` embeds, and so what the columns of the \
             CSV file are: name a model of the list that it is like",
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

/// How data is stored.
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) public: bool,
    pub(crate) progress: ProgressSink,
}

/// Sends documents that were checked. Returns what they were.
pub(crate) async fn send_documents(
    transport: &Transport,
    source: DocumentSource,
    checked: Checked,
    upload: Upload,
) -> Result<Summary> {
    let summary = checked.counter.finish();
    let mut meta_data = summary.to_meta_data();
    meta_data["version"] = serde_json::json!({"finetuner-rs": env!("CARGO_PKG_VERSION")});
    let fields = vec![
        ("name", upload.name),
        ("type", "documentArray".to_owned()),
        (
            "public",
            if upload.public { "True" } else { "False" }.to_owned(),
        ),
        ("metaData", meta_data.to_string()),
    ];
    let packing = Packing::new(source, summary.length, upload.progress);
    let sent = upload::send(transport, &packing, fields).await;
    // What went wrong with the data is told, rather than the connection that
    // broke because of it.
    match packing.failure() {
        Some(error) => Err(error),
        None => sent.map(|()| summary),
    }
}
