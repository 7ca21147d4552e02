//! The worker's calls to the server.
//!
//! Every call can be repeated safely. The worker gives up a server that can't
//! be reached after one minute. If the server answers with its own failure,
//! such as a full disk, or if a transfer is cut off, the worker retries for one
//! hour, so that no training result is lost because of it.

use std::{fmt, path::Path, time::Duration};

use finetuner_protocol::worker::WorkContent;
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::tls::in_words;
use crate::requests::{self, Authorities};

/// Time for which an unreachable server is retried. A restarted server is found
/// within it.
const UNREACHABLE_FOR: Duration = Duration::from_secs(60);
/// Time for which a server that answers with its own failure is retried.
const FAILS_FOR: Duration = Duration::from_secs(3600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time limit for the start of an answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Number of answers with a wrong SHA-256 after which a content counts as
/// damaged.
const DAMAGED: u32 = 3;
/// Time limit for the upload of a file.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Reason why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The run was given to another worker, or was deleted.
    Replaced,
    /// The run has ended, for example because its user cancelled it.
    Ended,
    /// The server rejected the request.
    Refused(StatusCode, String),
    /// The server can't be reached, or failed for too long.
    Gone(String),
    /// A file of the worker can't be read or written.
    File(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced => f.write_str("the run was given to another worker or was deleted"),
            Self::Ended => f.write_str("the run has ended"),
            Self::Refused(status, reason) => {
                write!(f, "the server refused the request: {status}: {reason}")
            }
            Self::Gone(reason) => write!(f, "the server can't be reached: {reason}"),
            Self::File(reason) => f.write_str(reason),
        }
    }
}

/// Retry state of a call.
struct Retries {
    since: Instant,
    /// Time since when the server has not answered at all.
    silent_since: Option<Instant>,
    unreachable_for: Duration,
    longest_pause: Duration,
    pause: Duration,
}

impl Retries {
    fn new(server: &Server) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            silent_since: None,
            unreachable_for: server.unreachable_for,
            longest_pause: server.longest_pause,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits for the next attempt, or gives up.
    async fn next(&mut self, failure: Transient) -> Result<(), CallError> {
        let now = Instant::now();
        let reason = match failure {
            Transient::Unanswered(reason) => {
                self.silent_since.get_or_insert(now);
                reason
            }
            Transient::Answered(reason) => {
                self.silent_since = None;
                reason
            }
        };
        let is_silent = (self.silent_since).is_some_and(|since| now - since > self.unreachable_for);
        if is_silent || now - self.since > FAILS_FOR {
            return Err(CallError::Gone(reason));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.longest_pause);
        Ok(())
    }
}

/// A failure that may be temporary.
enum Transient {
    /// The server did not answer.
    Unanswered(String),
    /// The server answered with its own failure, or its answer was cut off.
    Answered(String),
}

/// Client for the server's worker API.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    /// Client with a longer time limit for answers, for large files.
    uploads: Client,
    url: String,
    token: String,
    unreachable_for: Duration,
    longest_pause: Duration,
}

impl Server {
    pub(super) fn new(url: &str, token: String, authorities: &Authorities) -> Result<Self, String> {
        Ok(Self {
            client: client(url, TIMEOUT, authorities)?,
            uploads: client(url, UPLOAD_TIMEOUT, authorities)?,
            url: url.trim_end_matches('/').to_owned(),
            token,
            unreachable_for: UNREACHABLE_FOR,
            longest_pause: LONGEST_PAUSE,
        })
    }

    /// Returns the client with shorter pauses between attempts, since each one is a
    /// sign of life.
    pub(super) fn trying_every(self, pause: Duration) -> Self {
        Self {
            longest_pause: pause.min(LONGEST_PAUSE),
            ..self
        }
    }

    pub(super) fn get(&self, call: &str) -> RequestBuilder {
        self.with_token(self.client.get(self.address(call)))
    }

    pub(super) fn post(&self, call: &str) -> RequestBuilder {
        self.with_token(self.client.post(self.address(call)))
    }

    fn address(&self, call: &str) -> String {
        format!("{}/api/v1/worker/{call}", self.url)
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(header::AUTHORIZATION, format!("token {}", self.token))
    }

    pub(super) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        call: &str,
    ) -> Result<T, CallError> {
        self.answer(|| self.get(call)).await
    }

    /// Returns size, SHA-256 and store address of a content of the run.
    pub(super) async fn content(&self, name: &str) -> Result<WorkContent, CallError> {
        let request = || self.get("content").query(&[("name", name)]);
        self.answer(request).await
    }

    /// Sends a request until the whole answer has arrived, and parses it as JSON.
    pub(super) async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T, CallError> {
        let mut retries = Retries::new(self);
        loop {
            let answer = self.send(&request).await?;
            match answer.bytes().await {
                Ok(bytes) => {
                    return serde_json::from_slice(&bytes)
                        .map_err(|e| CallError::Gone(format!("its answer can't be parsed: {e}")));
                }
                Err(error) => {
                    let reason = format!("the server's answer was cut off: {}", in_words(error));
                    retries.next(Transient::Answered(reason)).await?;
                }
            }
        }
    }

    /// Sends a request until the server answers it.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, CallError> {
        let mut retries = Retries::new(self);
        loop {
            match outcome(request().send().await).await? {
                Ok(answer) => return Ok(answer),
                Err(failure) => retries.next(failure).await?,
            }
        }
    }

    /// Fetches a content of the run into a file, with retries until it is complete.
    pub(super) async fn fetch(
        &self,
        name: &str,
        content: &WorkContent,
        path: &Path,
    ) -> Result<(), CallError> {
        let mut retries = Retries::new(self);
        let mut damaged = 0;
        loop {
            let request = || self.get("data").query(&[("name", name)]);
            let answer = self.send(request).await?;
            let reason = match save(answer, content, path).await {
                Ok(()) => return Ok(()),
                Err(SaveError::File(reason)) => return Err(CallError::File(reason)),
                Err(SaveError::CutOff(reason)) => {
                    format!("the server's answer was cut off: {reason}")
                }
                Err(SaveError::Damaged) => {
                    damaged += 1;
                    "the content that it sent is damaged: the SHA-256 differs".to_owned()
                }
            };
            if damaged == DAMAGED {
                return Err(CallError::File(format!("the server: {reason}")));
            }
            // A large file may take longer than the limit for an unreachable server, and
            // this server has begun to answer.
            retries.next(Transient::Answered(reason)).await?;
        }
    }

    /// Uploads a file, with retries until it has arrived.
    pub(super) async fn upload(
        &self,
        call: &str,
        query: &[(&str, usize)],
        path: &Path,
    ) -> Result<(), CallError> {
        let failed = |e: std::io::Error| CallError::File(format!("{}: {e}", path.display()));
        let mut retries = Retries::new(self);
        loop {
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let size = file.metadata().await.map_err(failed)?.len();
            let stream = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
            let request = self
                .with_token(self.uploads.post(self.address(call)))
                .query(query)
                .header(header::CONTENT_LENGTH, size)
                .body(reqwest::Body::wrap_stream(stream))
                .timeout(UPLOAD_TIMEOUT);
            match outcome(request.send().await).await? {
                Ok(_) => return Ok(()),
                // A large file may take longer than the limit for an unreachable server.
                // The reports of the run, which are sent meanwhile, notice such a server.
                Err(Transient::Unanswered(reason) | Transient::Answered(reason)) => {
                    retries.next(Transient::Answered(reason)).await?;
                }
            }
        }
    }
}

/// Reason why the body of an answer was not saved.
#[derive(Debug)]
pub(super) enum SaveError {
    /// The file can't be written.
    File(String),
    /// The body ended early.
    CutOff(String),
    /// The body differs from the content.
    Damaged,
}

/// Saves an answer's body to a file and verifies its SHA-256.
pub(super) async fn save(
    mut answer: Response,
    content: &WorkContent,
    path: &Path,
) -> Result<(), SaveError> {
    let failed = |e: std::io::Error| SaveError::File(format!("{}: {e}", path.display()));
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let (mut sum, mut size) = (Sha256::new(), 0);
    while let Some(bytes) = (answer.chunk().await).map_err(|e| SaveError::CutOff(in_words(e)))? {
        size += bytes.len() as u64;
        if size > content.size {
            return Err(SaveError::Damaged);
        }
        sum.update(&bytes);
        file.write_all(&bytes).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    match hex::encode(sum.finalize()) == content.sha256 {
        true => Ok(()),
        false => Err(SaveError::Damaged),
    }
}

async fn outcome(
    answer: reqwest::Result<Response>,
) -> Result<Result<Response, Transient>, CallError> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(Transient::Unanswered(in_words(error)))),
    };
    let status = answer.status();
    if status.is_success() {
        return Ok(Ok(answer));
    }
    let reason = detail(answer).await;
    let is_transient = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    match status {
        StatusCode::UNAUTHORIZED => Err(CallError::Replaced),
        StatusCode::GONE => Err(CallError::Ended),
        status if is_transient => Ok(Err(Transient::Answered(format!("{status}: {reason}")))),
        status => Err(CallError::Refused(status, reason)),
    }
}

async fn detail(answer: Response) -> String {
    let body: serde_json::Value = answer.json().await.unwrap_or_default();
    body["detail"].as_str().unwrap_or_default().to_owned()
}

/// Creates a client that ignores the proxy variables of the environment,
/// because the worker gets the server's own address.
fn client(url: &str, read_timeout: Duration, authorities: &Authorities) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(requests::tls(url, authorities)?)
        .no_proxy()
        .read_timeout(read_timeout)
        .build()
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    /// Returns a client of a server that gives each of these bodies to one request. It
    /// announces a body of `size` bytes and closes the connection after it. Without a
    /// body it only closes the connection.
    async fn giving(bodies: &'static [Option<&'static str>], size: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for body in bodies {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    client.read_buf(&mut asked).await.unwrap();
                }
                let Some(body) = body else { continue };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n{body}"
                );
                client.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Server::new(&url, "t".into(), &Authorities::default()).unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_requested_again() {
        let server = giving(&[Some("\"wo"), Some("\"work\"")], 6).await;
        let job: String = server.json("job").await.unwrap();
        assert_eq!(job, "work");
    }

    #[tokio::test]
    async fn a_download_that_is_cut_off_several_times_is_completed() {
        // Even two failures without an answer in between are too many for this client.
        let server = Server {
            unreachable_for: Duration::ZERO,
            ..giving(&[Some("go"), Some("goo"), Some("good")], 4).await
        };
        let content = WorkContent {
            sha256: hex::encode(Sha256::digest("good")),
            size: 4,
            url: None,
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        server.fetch("train", &content, file.path()).await.unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"good");
    }

    #[tokio::test]
    async fn an_upload_that_is_cut_off_several_times_is_completed() {
        let server = Server {
            unreachable_for: Duration::ZERO,
            ..giving(&[None, None, Some("")], 0).await
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        server.upload("artifact", &[], file.path()).await.unwrap();
    }

    #[tokio::test]
    async fn content_with_a_wrong_checksum_or_size_is_refused() {
        let routes = Router::new().route("/api/v1/worker/data", get(async || "good"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let server = Server::new(&url, "t".into(), &Authorities::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content = |bytes: &str, size| WorkContent {
            sha256: hex::encode(Sha256::digest(bytes)),
            size,
            url: None,
        };
        let good = content("good", 4);
        server.fetch("train", &good, &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
        for bad in [content("bad!", 4), content("good", 3)] {
            let error = server.fetch("train", &bad, &path).await.unwrap_err();
            let error = error.to_string();
            assert!(error.contains("the SHA-256 differs"), "{error}");
        }
    }
}
