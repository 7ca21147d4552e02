//! Data on its way to the backend. Documents are packed as they are sent, a few
//! at a time, so that memory does not grow with their number.

use std::{
    future::{Future, IntoFuture},
    io,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use finetuner_protocol::{Summary, check_name, stream_frame, stream_head};
use futures_util::{StreamExt, stream};

use super::{
    blocking,
    source::{DataSource, DocumentSource},
    upload,
};
use crate::{
    Error, Result,
    progress::{ProgressSink, progress_methods},
    transport::{ByteStream, MakeBytes, Transport},
};

/// Bytes handed over at once.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for the network.
const AHEAD: usize = 8;

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

    /// The model that a CSV file is for, which decides what its columns are.
    /// Without one, columns are taken as for CLIP.
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
                    "`{name}` is the name of data that was pushed before: give documents or a CSV \
                     file to push"
                )));
            }
            DataSource::Documents(documents) => DocumentSource::of_array(documents),
            DataSource::Stream(source) => source,
            DataSource::Csv(csv) => {
                let model = self.model.clone();
                let layout = crate::csv::Layout::of_model(model.as_deref())?;
                blocking(move || csv.documents(layout)).await?
            }
        };
        let upload = Upload {
            name: self.name,
            public: self.public,
            progress: self.progress,
        };
        upload_documents(&self.transport, source, upload).await
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

/// Checks documents, then sends them. Returns what they were.
pub(crate) async fn upload_documents(
    transport: &Transport,
    source: DocumentSource,
    upload: Upload,
) -> Result<Summary> {
    let (checked, name) = (source.clone(), upload.name.clone());
    let summary = blocking(move || Ok(checked.check(&name)?.finish())).await?;
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
    let count = summary.length;
    let progress = upload.progress;
    // What goes wrong with a file while it is sent is told the user, not the
    // connection that breaks because of it.
    let failed: Arc<std::sync::Mutex<Option<Error>>> = Arc::default();
    let noted = Arc::clone(&failed);
    let make: MakeBytes = Arc::new(move || {
        let (source, progress, noted) = (source.clone(), progress.clone(), Arc::clone(&noted));
        pack(source, count, progress, noted)
    });
    let sent = upload::send(transport, make, fields).await;
    let own = failed.lock().unwrap_or_else(|e| e.into_inner()).take();
    match (sent, own) {
        (Err(_), Some(error)) => Err(error),
        (sent, _) => sent.map(|()| summary),
    }
}

/// The bytes of a stream of documents, packed by a thread of its own.
fn pack(
    source: DocumentSource,
    count: u64,
    progress: ProgressSink,
    failed: Arc<std::sync::Mutex<Option<Error>>>,
) -> ByteStream {
    let (send, receive) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut buffer = stream_head(count).to_vec();
        let mut number = 0;
        let mut bytes = 0;
        let mut documents = source.iter();
        let packed = loop {
            let Some(mut document) = documents.next() else {
                break Ok(());
            };
            number += 1;
            let frame = source
                .load(&mut document)
                .and_then(|()| stream_frame(&document, number).map_err(Error::from));
            match frame {
                Ok(frame) => buffer.extend_from_slice(&frame),
                Err(error) => break Err(error),
            }
            if buffer.len() >= CHUNK {
                bytes += buffer.len() as u64;
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK + CHUNK / 4));
                if send.blocking_send(Ok(full.into())).is_err() {
                    // The attempt is over.
                    return;
                }
                progress.report(number, count, bytes);
            }
        };
        let packed = packed.and_then(|()| {
            if number == count {
                return Ok(());
            }
            Err(Error::setup(format!(
                "the data changed while it was sent: {number} documents came, {count} were \
                 announced"
            )))
        });
        let last = match packed {
            Ok(()) => {
                progress.report(number, count, bytes + buffer.len() as u64);
                Ok(buffer.into())
            }
            Err(error) => {
                let text = error.to_string();
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
                Err(io::Error::other(text))
            }
        };
        let _ = send.blocking_send(last);
    });
    stream::unfold(receive, |mut receive| async {
        let next = receive.recv().await?;
        Some((next, receive))
    })
    .boxed()
}
