//! The worker: carries out one run, and speaks to the server over HTTP with a
//! token that is good for this run alone.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use finetuner_engine::{
    Error as EngineError,
    job::{self, Observer},
};
use finetuner_protocol::{DocumentArray, Event, EventBatch, Job, Level, Outcome, WorkerOrders};
use reqwest::{Client, RequestBuilder, Response, header};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};

/// The environment variable with the server's address.
pub(crate) const WORKER_URL: &str = "FINETUNER_WORKER_URL";
/// The environment variable with the token.
pub(crate) const WORKER_TOKEN: &str = "FINETUNER_WORKER_TOKEN";

/// Times that a call is made before the server counts as gone.
const ATTEMPTS: u32 = 8;
/// The most events of one report.
const BATCH: usize = 256;
/// How long an answer may take to begin.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A report goes out at least this often, so that the server can say stop.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Carries out the run that `token` is good for. The server is told how it
/// ended; an error is what could not be told. The run stops when `stop` is
/// closed.
pub(crate) fn run(
    url: &str,
    token: String,
    local_models: bool,
    stop: Option<watch::Receiver<()>>,
) -> Result<(), String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let server = Server {
        client: client()?,
        url: url.to_owned(),
        token,
    };
    let stopped = Arc::new(AtomicBool::new(false));
    if let Some(mut stop) = stop {
        let stopped = Arc::clone(&stopped);
        runtime.spawn(async move {
            while stop.changed().await.is_ok() {}
            stopped.store(true, Ordering::Relaxed);
        });
    }
    let (events, received) = mpsc::unbounded_channel();
    let reports = runtime.spawn(report(server.clone(), received, Arc::clone(&stopped)));
    let mut sender = Sender { events, stopped };
    let outcome = match carry_out(&runtime, &server, local_models, &mut sender) {
        Ok(()) => Outcome::Finished,
        Err(reason) => Outcome::Failed { reason },
    };
    // Ends the reports, all of which must be there before the outcome is.
    drop(sender);
    runtime.block_on(async {
        reports.await.map_err(|e| e.to_string())??;
        server
            .send(|| server.post("outcome").json(&outcome))
            .await?;
        Ok(())
    })
}

fn carry_out(
    runtime: &Runtime,
    server: &Server,
    local_models: bool,
    observer: &mut Sender,
) -> Result<(), String> {
    let job: Job = runtime.block_on(server.json("job"))?;
    let folder = tempfile::Builder::new()
        .prefix("finetuner-run-")
        .tempdir()
        .map_err(|e| format!("no temporary folder: {e}"))?;
    let read = |name: &str| read_data(runtime, server, name);
    let finished = job::run(
        &job.config,
        &job.device,
        local_models,
        &read,
        folder.path(),
        observer,
    )
    .map_err(|e| e.to_string())?;
    observer.event(Event::Log {
        level: Level::Info,
        message: "Pushing artifact ...".to_owned(),
    });
    runtime.block_on(server.upload(&finished.artifact))
}

fn read_data(runtime: &Runtime, server: &Server, name: &str) -> Result<DocumentArray, EngineError> {
    let bad = |reason: String| EngineError::Data(format!("`{name}`: {reason}"));
    let answer = server.send(|| server.get("data").query(&[("name", name)]));
    let bytes = runtime.block_on(async {
        let answer = answer.await.map_err(bad)?;
        answer.bytes().await.map_err(|e| bad(without_url(e)))
    })?;
    DocumentArray::from_bytes(&bytes).map_err(|e| bad(e.to_string()))
}

/// Takes the events of the run.
struct Sender {
    events: mpsc::UnboundedSender<Event>,
    stopped: Arc<AtomicBool>,
}

impl Observer for Sender {
    fn event(&mut self, event: Event) {
        // The receiver is gone only where the server is, which also stops us.
        let _ = self.events.send(event);
    }

    fn interrupted(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Reports events in their order until the run has ended.
async fn report(
    server: Server,
    mut events: mpsc::UnboundedReceiver<Event>,
    stopped: Arc<AtomicBool>,
) -> Result<(), String> {
    let mut first = 0;
    loop {
        let mut batch = Vec::new();
        let waited = tokio::time::timeout(HEARTBEAT, events.recv_many(&mut batch, BATCH)).await;
        if waited == Ok(0) {
            return Ok(());
        }
        let batch = EventBatch {
            first,
            events: batch,
        };
        let sent = async {
            let answer = server.send(|| server.post("events").json(&batch)).await?;
            answer.json().await.map_err(without_url)
        };
        let orders: Result<WorkerOrders, String> = sent.await;
        first += batch.events.len() as u64;
        let stop = orders.as_ref().map_or(true, |orders| orders.stop);
        if stop {
            stopped.store(true, Ordering::Relaxed);
        }
        orders?;
    }
}

/// The server as the worker sees it.
#[derive(Clone)]
struct Server {
    client: Client,
    url: String,
    token: String,
}

impl Server {
    fn get(&self, call: &str) -> RequestBuilder {
        self.with_token(self.client.get(self.address(call)))
    }

    fn post(&self, call: &str) -> RequestBuilder {
        self.with_token(self.client.post(self.address(call)))
    }

    fn address(&self, call: &str) -> String {
        format!("{}/api/v1/worker/{call}", self.url)
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(header::AUTHORIZATION, format!("token {}", self.token))
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, call: &str) -> Result<T, String> {
        let answer = self.send(|| self.get(call)).await?;
        answer.json().await.map_err(without_url)
    }

    /// Sends a request until it is answered. Every call of a worker can be
    /// repeated without harm.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, String> {
        let mut pause = Duration::from_millis(100);
        for attempt in 1.. {
            let error = match request().send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status();
                    let error = format!("{status}: {}", detail(answer).await);
                    if !status.is_server_error() {
                        return Err(error);
                    }
                    error
                }
                Err(error) => without_url(error),
            };
            if attempt == ATTEMPTS {
                return Err(format!("the server can't be reached: {error}"));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop has no end but its returns")
    }

    async fn upload(&self, artifact: &Path) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", artifact.display());
        let path: PathBuf = artifact.to_owned();
        let file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let size = file.metadata().await.map_err(failed)?.len();
        let body =
            reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 1 << 20));
        let answer = self
            .post("artifact")
            .header(header::CONTENT_LENGTH, size)
            .body(body)
            .timeout(Duration::from_secs(3600))
            .send()
            .await
            .map_err(without_url)?;
        if !answer.status().is_success() {
            return Err(format!("{}: {}", answer.status(), detail(answer).await));
        }
        Ok(())
    }
}

async fn detail(answer: Response) -> String {
    let body: serde_json::Value = answer.json().await.unwrap_or_default();
    body["detail"].as_str().unwrap_or_default().to_owned()
}

fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// A client for the server's own address on this machine, which is plain HTTP:
/// it trusts no certificate, and leaves a program around us the choice of its
/// own TLS.
fn client() -> Result<Client, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let tls = tls
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .read_timeout(TIMEOUT)
        .build()
        .map_err(|e| e.to_string())
}
