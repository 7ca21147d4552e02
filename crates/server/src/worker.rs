//! The worker: carries out one run, and speaks to the server over HTTP with a
//! token that is good for this run alone.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use finetuner_engine::{
    Error as EngineError,
    data::Documents,
    job::{self, Interruption, Observer, Setting},
    source::open_artifact,
    train::Position,
};
use finetuner_protocol::{
    Document, DocumentReader, Event, EventBatch, Job, Level, MODEL_ARTIFACT, Outcome, RunConfig,
    WorkRules, WorkerOrders,
};
use reqwest::{Client, RequestBuilder, Response, header};
use tempfile::NamedTempFile;
use tokio::{
    io::AsyncWriteExt,
    runtime::{Builder, Handle, Runtime},
    sync::mpsc,
};

use crate::pictures::Pictures;

/// The environment variable with the server's address.
pub(crate) const WORKER_URL: &str = "FINETUNER_WORKER_URL";
/// The environment variable with the token.
pub(crate) const WORKER_TOKEN: &str = "FINETUNER_WORKER_TOKEN";

/// Times that a call is made before the server counts as gone: for 51 seconds,
/// so that one which is started anew is found.
const ATTEMPTS: u32 = 10;
/// The most events of one report.
const BATCH: usize = 256;
/// How long an answer may take to begin.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the uploading of a file may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Carries out the run that `token` is good for. The server is told how it
/// ended; an error is what could not be told. The run stops when `stop` is set.
pub(crate) fn run(url: &str, token: String, stop: Arc<AtomicBool>) -> Result<(), String> {
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
    let job: Job = runtime.block_on(server.json("job"))?;
    let folder = tempfile::Builder::new()
        .prefix("finetuner-run-")
        .tempdir()
        .map_err(|e| format!("no temporary folder: {e}"))?;
    let signals = Arc::new(Signals {
        stop,
        ..Signals::default()
    });
    let (events, received) = mpsc::unbounded_channel();
    let reports = runtime.spawn(report(
        server.clone(),
        received,
        Arc::clone(&signals),
        Limits::of(&job.rules, folder.path()),
        Duration::from_secs_f64(job.rules.heartbeat_seconds.clamp(0.01, 60.0)),
    ));
    let mut follower = Follower {
        events,
        signals: Arc::clone(&signals),
        runtime: &runtime,
        server: &server,
        every: Duration::from_secs_f64(job.rules.checkpoint_seconds.clamp(0.0, 1e9)),
        last: Instant::now(),
        kept: false,
    };
    let outcome = match carry_out(&job, folder.path(), &mut follower) {
        Ok(()) => Outcome::Finished,
        Err(EngineError::Interrupted) => match signals.over_limit() {
            Some(reason) => Outcome::Failed { reason },
            None if signals.pause.load(Ordering::Relaxed) && follower.kept => Outcome::Paused,
            // Whoever has stopped us knows why.
            None => return Ok(()),
        },
        Err(error) => Outcome::Failed {
            reason: error.to_string(),
        },
    };
    // Ends the reports, all of which must be there before the outcome is.
    drop(follower);
    runtime.block_on(async {
        reports.await.map_err(|e| e.to_string())??;
        server
            .send(|| server.post("outcome").json(&outcome))
            .await?;
        Ok(())
    })
}

fn carry_out(job: &Job, folder: &Path, follower: &mut Follower<'_>) -> Result<(), EngineError> {
    let (runtime, server) = (follower.runtime, follower.server);
    let checkpoint = match job.has_checkpoint {
        true => {
            let path = folder.join("begin.zip");
            let fetched = runtime.block_on(server.fetch("checkpoint", &path));
            fetched.map_err(EngineError::Checkpoint)?;
            Some(path)
        }
        false => None,
    };
    let config: RunConfig = serde_json::from_value(job.config.clone())
        .map_err(|e| EngineError::Data(format!("the configuration can't be read: {e}")))?;
    let earlier = match &config.model.artifact {
        None => None,
        Some(_) => {
            let (zip, opened) = (folder.join("earlier.zip"), folder.join("earlier"));
            let fetched = runtime.block_on(server.fetch_data(MODEL_ARTIFACT, &zip));
            fetched.map_err(EngineError::Checkpoint)?;
            open_artifact(&zip, &opened)?;
            // Only its weights are needed any more.
            let _ = std::fs::remove_file(&zip);
            Some(opened)
        }
    };
    let pictures = Pictures::new(job.rules.private_addresses).map_err(EngineError::Data)?;
    let read = |name: &str| {
        let bad = |reason: String| EngineError::Data(format!("`{name}`: {reason}"));
        let file = NamedTempFile::new_in(folder).map_err(|e| bad(e.to_string()))?;
        let fetched = runtime.block_on(server.fetch_data(name, file.path()));
        fetched.map_err(bad)?;
        let documents = FetchedDocuments {
            name: name.to_owned(),
            reader: DocumentReader::new(BufReader::new(file)).map_err(|e| bad(e.to_string()))?,
            pictures: pictures.clone(),
            runtime: runtime.handle().clone(),
            ready: Vec::new().into_iter(),
        };
        Ok(Box::new(documents) as Documents)
    };
    let setting = Setting {
        device: &job.device,
        local_models: job.rules.local_models,
        earlier: earlier.as_deref(),
        read_data: &read,
        folder,
        checkpoint: checkpoint.as_deref(),
    };
    let finished = job::run(&config, &setting, follower)?;
    follower.event(Event::Log {
        level: Level::Info,
        message: "Pushing artifact ...".to_owned(),
    });
    let pushed = runtime.block_on(server.upload("artifact", &[], &finished.artifact));
    pushed.map_err(|reason| EngineError::Data(format!("the artifact can't be pushed: {reason}")))
}

/// Documents whose pictures are fetched together, and are then in memory.
const TOGETHER: usize = 32;

/// A data set that lies in a file, its pictures fetched where it names them.
struct FetchedDocuments {
    name: String,
    reader: DocumentReader<BufReader<NamedTempFile>>,
    pictures: Pictures,
    runtime: Handle,
    ready: std::vec::IntoIter<Document>,
}

impl FetchedDocuments {
    fn read_some(&mut self) -> Result<Vec<Document>, String> {
        let some: Result<Vec<_>, _> = self.reader.by_ref().take(TOGETHER).collect();
        let mut some = some.map_err(|e| e.to_string())?;
        self.runtime.block_on(self.pictures.fetch_all(&mut some))?;
        Ok(some)
    }
}

impl Iterator for FetchedDocuments {
    type Item = Result<Document, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.len() == 0 {
            match self.read_some() {
                Ok(some) => self.ready = some.into_iter(),
                Err(reason) => {
                    let reason = format!("`{}`: {reason}", self.name);
                    return Some(Err(EngineError::Data(reason)));
                }
            }
        }
        self.ready.next().map(Ok)
    }
}

/// What tells a run to stop.
#[derive(Default)]
struct Signals {
    /// For good.
    stop: Arc<AtomicBool>,
    /// To go on later.
    pause: AtomicBool,
    /// Which limit was passed.
    over_limit: Mutex<Option<String>>,
}

impl Signals {
    fn over_limit(&self) -> Option<String> {
        let over = self
            .over_limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        over.clone()
    }
}

/// Follows the run: takes its events and keeps its checkpoints.
struct Follower<'a> {
    events: mpsc::UnboundedSender<Event>,
    signals: Arc<Signals>,
    runtime: &'a Runtime,
    server: &'a Server,
    /// Between two checkpoints.
    every: Duration,
    /// When the last one was done.
    last: Instant,
    /// Whether the last one was kept.
    kept: bool,
}

impl Observer for Follower<'_> {
    fn event(&mut self, event: Event) {
        // The receiver is gone only where the server is, which also stops us.
        let _ = self.events.send(event);
    }

    fn interrupted(&self) -> Option<Interruption> {
        if self.signals.stop.load(Ordering::Relaxed) || self.signals.over_limit().is_some() {
            return Some(Interruption::Stop);
        }
        let pause = self.signals.pause.load(Ordering::Relaxed);
        pause.then_some(Interruption::Pause)
    }

    fn wants_checkpoint(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    fn checkpoint(&mut self, file: &Path, at: Position) -> Result<(), String> {
        let position = [("epoch", at.epoch), ("step", at.step)];
        let begun = Instant::now();
        let sent = self.server.upload("checkpoint", &position, file);
        let sent = self.runtime.block_on(sent);
        self.kept = sent.is_ok();
        // A large model must not spend its time on checkpoints.
        self.every = self.every.max(begun.elapsed() * 10);
        self.last = Instant::now();
        sent
    }
}

/// What the process may use.
struct Limits {
    memory: Option<u64>,
    disk: Option<u64>,
    folder: PathBuf,
}

impl Limits {
    fn of(rules: &WorkRules, folder: &Path) -> Self {
        Self {
            memory: rules.max_memory,
            disk: rules.max_disk,
            folder: folder.to_owned(),
        }
    }

    /// Which limit is passed, and what to do.
    fn passed(&self) -> Option<String> {
        let over = |limit: Option<u64>, used: Option<u64>| {
            let (limit, used) = (limit?, used?);
            (used > limit).then_some((used >> 20, limit >> 20))
        };
        if let Some((used, limit)) = over(self.memory, memory_used()) {
            return Some(format!(
                "the run uses {used} MiB of memory, this server allows {limit}: a smaller \
                 `batch_size` or model needs less"
            ));
        }
        let files = || folder_size(&self.folder);
        let (used, limit) = over(self.disk, self.disk.map(|_| files()))?;
        Some(format!(
            "the run's files take {used} MiB, this server allows {limit}: a smaller model, or fewer \
             pictures, take less"
        ))
    }
}

/// The memory of this process, where the system tells it.
fn memory_used() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// The bytes of the files in a folder and in those inside.
fn folder_size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let about = file.metadata().ok()?;
            Some(match about.is_dir() {
                true => folder_size(&file.path()),
                false => about.len(),
            })
        })
        .sum()
}

/// Reports events in their order until the run has ended, and shows at least
/// every so often that the worker lives.
async fn report(
    server: Server,
    mut events: mpsc::UnboundedReceiver<Event>,
    signals: Arc<Signals>,
    limits: Limits,
    heartbeat: Duration,
) -> Result<(), String> {
    let mut first = 0;
    loop {
        let mut batch = Vec::new();
        let waited = tokio::time::timeout(heartbeat, events.recv_many(&mut batch, BATCH)).await;
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
        match orders {
            Ok(WorkerOrders::GoOn) => {}
            Ok(WorkerOrders::Pause) => signals.pause.store(true, Ordering::Relaxed),
            Err(error) => {
                signals.stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        if let Some(reason) = limits.passed() {
            let over = signals.over_limit.lock();
            *over.unwrap_or_else(PoisonError::into_inner) = Some(reason);
        }
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
            let error = match outcome(request().send().await).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            if attempt == ATTEMPTS {
                return Err(format!("the server can't be reached: {error}"));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop has no end but its returns")
    }

    /// Takes an answer's body into a file.
    async fn fetch(&self, call: &str, path: &Path) -> Result<(), String> {
        self.save(|| self.get(call), path).await
    }

    /// Fetches a data set, or another content of the run, into a file.
    async fn fetch_data(&self, name: &str, path: &Path) -> Result<(), String> {
        let request = || self.get("data").query(&[("name", name)]);
        self.save(request, path).await
    }

    /// Sends a request until its answer has come whole, and is in a file.
    async fn save(&self, request: impl Fn() -> RequestBuilder, path: &Path) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        for attempt in 1.. {
            let mut answer = self.send(&request).await?;
            let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
            let cut_off = loop {
                match answer.chunk().await {
                    Ok(Some(bytes)) => file.write_all(&bytes).await.map_err(failed)?,
                    Ok(None) => return file.flush().await.map_err(failed),
                    Err(error) => break without_url(error),
                }
            };
            if attempt == ATTEMPTS {
                return Err(format!("the server's answer was cut off: {cut_off}"));
            }
        }
        unreachable!("the loop has no end but its returns")
    }

    /// Sends a file, again and again until it has come whole.
    async fn upload(&self, call: &str, query: &[(&str, usize)], path: &Path) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut pause = Duration::from_millis(100);
        for attempt in 1.. {
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let size = file.metadata().await.map_err(failed)?.len();
            let stream = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
            let request = self
                .post(call)
                .query(query)
                .header(header::CONTENT_LENGTH, size)
                .body(reqwest::Body::wrap_stream(stream))
                .timeout(UPLOAD_TIMEOUT);
            match outcome(request.send().await).await {
                Ok(_) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) if attempt == ATTEMPTS => {
                    return Err(format!("the server can't be reached: {error}"));
                }
                Err(Failure::Passing(_)) => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop has no end but its returns")
    }
}

/// Why a call was in vain.
enum Failure {
    /// It will be so again.
    Final(String),
    /// It may be better later.
    Passing(String),
}

async fn outcome(answer: reqwest::Result<Response>) -> Result<Response, Failure> {
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(answer),
        Ok(answer) => {
            let status = answer.status();
            let error = format!("{status}: {}", detail(answer).await);
            Err(match status.is_server_error() {
                true => Failure::Passing(error),
                false => Failure::Final(error),
            })
        }
        Err(error) => Err(Failure::Passing(without_url(error))),
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

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use finetuner_protocol::DocumentArray;

    use super::*;

    fn fetched(bytes: &[u8], runtime: &Runtime) -> FetchedDocuments {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        FetchedDocuments {
            name: "shoes".to_owned(),
            reader: DocumentReader::new(BufReader::new(file)).unwrap(),
            pictures: Pictures::new(false).unwrap(),
            runtime: runtime.handle().clone(),
            ready: Vec::new().into_iter(),
        }
    }

    #[test]
    fn documents_come_in_their_order_and_a_cut_is_said_once() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let all: Vec<Document> = (0..2 * TOGETHER + 3)
            .map(|n| Document::text(n.to_string()))
            .collect();
        let bytes = DocumentArray::from(all.clone()).to_bytes().unwrap();
        let read: Result<Vec<_>, _> = fetched(&bytes, &runtime).collect();
        assert_eq!(read.unwrap(), all);

        let cut = fetched(&bytes[..bytes.len() - 1], &runtime);
        let (good, bad): (Vec<_>, Vec<_>) = cut.partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (2 * TOGETHER, 1));
        let reason = bad[0].as_ref().unwrap_err().to_string();
        assert!(
            reason.contains("`shoes`: the stream of documents ends early"),
            "{reason}"
        );
    }
}
