//! The worker's calls to the server.
//!
//! Every call may be repeated without harm. A server that can't be reached is
//! given up after a minute. One that answers that it can't do its work, for
//! example because its disk is full, is asked again for an hour: nothing that
//! was trained is thrown away because of it.

use std::{fmt, path::Path, time::Duration};

use finetuner_protocol::worker::WorkContent;
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::tls::in_words;
use crate::{
    requests::{self, Authorities},
    secret,
};

/// How long a server that can't be reached is looked for, so that one that is
/// started again is found.
const UNREACHABLE_FOR: Duration = Duration::from_secs(60);
/// How long a server that answers with its own failure is asked again.
const FAILS_FOR: Duration = Duration::from_secs(3600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long an answer may take to begin.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Answers with a wrong SHA-256 before a content counts as damaged.
const DAMAGED: u32 = 3;
/// How long the upload of a file may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a call was in vain.
#[derive(Debug)]
pub(super) enum CallError {
    /// The run belongs to another worker now, or was deleted.
    Void,
    /// The run has ended, for example because its user cancelled it.
    Over,
    /// The server does not take what was sent.
    Refused(StatusCode, String),
    /// The server is gone, or could not do its work for too long.
    Gone(String),
    /// A file on the worker's side.
    File(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Void => f.write_str("the run has been given to another worker, or was deleted"),
            Self::Over => f.write_str("the run is over"),
            Self::Refused(status, reason) => write!(f, "the server refused it: {status}: {reason}"),
            Self::Gone(reason) => write!(f, "the server can't be reached: {reason}"),
            Self::File(reason) => f.write_str(reason),
        }
    }
}

/// How long a call is repeated.
struct Patience {
    since: Instant,
    /// Since when nobody has answered at all.
    silent_since: Option<Instant>,
    longest_pause: Duration,
    pause: Duration,
}

impl Patience {
    fn new(longest_pause: Duration) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            silent_since: None,
            longest_pause,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits for the next attempt, or gives up.
    async fn next(&mut self, failure: Passing) -> Result<(), CallError> {
        let now = Instant::now();
        let reason = match failure {
            Passing::Unanswered(reason) => {
                self.silent_since.get_or_insert(now);
                reason
            }
            Passing::Answered(reason) => {
                self.silent_since = None;
                reason
            }
        };
        let is_silent = (self.silent_since).is_some_and(|since| now - since > UNREACHABLE_FOR);
        if is_silent || now - self.since > FAILS_FOR {
            return Err(CallError::Gone(reason));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.longest_pause);
        Ok(())
    }
}

/// A failure that may pass.
enum Passing {
    /// Nobody has answered.
    Unanswered(String),
    /// The server could not do it.
    Answered(String),
}

/// The server as the worker sees it.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    /// Waits longer for an answer: a large file takes its time.
    uploads: Client,
    url: String,
    token: String,
    longest_pause: Duration,
}

impl Server {
    pub(super) fn new(url: &str, token: String, authorities: &Authorities) -> Result<Self, String> {
        Ok(Self {
            client: client(url, TIMEOUT, authorities)?,
            uploads: client(url, UPLOAD_TIMEOUT, authorities)?,
            url: url.trim_end_matches('/').to_owned(),
            token,
            longest_pause: LONGEST_PAUSE,
        })
    }

    /// The same with shorter pauses between attempts: each one is a sign of life.
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
        let answer = self.send(|| self.get(call)).await?;
        answer.json().await.map_err(not_understood)
    }

    /// Asks about a content of the run.
    pub(super) async fn content(&self, name: &str) -> Result<WorkContent, CallError> {
        let request = || self.get("content").query(&[("name", name)]);
        let answer = self.send(request).await?;
        answer.json().await.map_err(not_understood)
    }

    /// Sends a request until it is answered.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, CallError> {
        let mut patience = Patience::new(self.longest_pause);
        loop {
            match outcome(request().send().await).await? {
                Ok(answer) => return Ok(answer),
                Err(failure) => patience.next(failure).await?,
            }
        }
    }

    /// Fetches a content of the run into a file, until it has come whole.
    pub(super) async fn fetch(
        &self,
        name: &str,
        content: &WorkContent,
        path: &Path,
    ) -> Result<(), CallError> {
        let mut patience = Patience::new(self.longest_pause);
        let mut damaged = 0;
        loop {
            let request = || self.get("data").query(&[("name", name)]);
            let answer = self.send(request).await?;
            let reason = match save(answer, content, path).await {
                Ok(()) => return Ok(()),
                Err(NotSaved::File(reason)) => return Err(CallError::File(reason)),
                Err(NotSaved::CutOff(reason)) => format!("its answer was cut off: {reason}"),
                Err(NotSaved::Damaged) => {
                    damaged += 1;
                    "what it sent is not what it keeps: the SHA-256 differs".to_owned()
                }
            };
            if damaged == DAMAGED {
                return Err(CallError::File(format!("the server: {reason}")));
            }
            patience.next(Passing::Unanswered(reason)).await?;
        }
    }

    /// Sends a file until it has arrived whole.
    pub(super) async fn upload(
        &self,
        call: &str,
        query: &[(&str, usize)],
        path: &Path,
    ) -> Result<(), CallError> {
        let failed = |e: std::io::Error| CallError::File(format!("{}: {e}", path.display()));
        let mut patience = Patience::new(self.longest_pause);
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
                Err(failure) => patience.next(failure).await?,
            }
        }
    }
}

/// Why the body of an answer is not in its file.
#[derive(Debug)]
pub(super) enum NotSaved {
    /// The file can't be written.
    File(String),
    /// The body has ended early.
    CutOff(String),
    /// The body is another content.
    Damaged,
}

/// Takes an answer's body into a file, and compares it with its SHA-256.
pub(super) async fn save(
    mut answer: Response,
    content: &WorkContent,
    path: &Path,
) -> Result<(), NotSaved> {
    let failed = |e: std::io::Error| NotSaved::File(format!("{}: {e}", path.display()));
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let (mut sum, mut size) = (Sha256::new(), 0);
    while let Some(bytes) = (answer.chunk().await).map_err(|e| NotSaved::CutOff(in_words(e)))? {
        size += bytes.len() as u64;
        if size > content.size {
            return Err(NotSaved::Damaged);
        }
        sum.update(&bytes);
        file.write_all(&bytes).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    match secret::hex(&sum.finalize()) == content.sha256 {
        true => Ok(()),
        false => Err(NotSaved::Damaged),
    }
}

async fn outcome(
    answer: reqwest::Result<Response>,
) -> Result<Result<Response, Passing>, CallError> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(Passing::Unanswered(in_words(error)))),
    };
    let status = answer.status();
    if status.is_success() {
        return Ok(Ok(answer));
    }
    let reason = detail(answer).await;
    let may_pass = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    match status {
        StatusCode::UNAUTHORIZED => Err(CallError::Void),
        StatusCode::GONE => Err(CallError::Over),
        status if may_pass => Ok(Err(Passing::Answered(format!("{status}: {reason}")))),
        status => Err(CallError::Refused(status, reason)),
    }
}

async fn detail(answer: Response) -> String {
    let body: serde_json::Value = answer.json().await.unwrap_or_default();
    body["detail"].as_str().unwrap_or_default().to_owned()
}

pub(super) fn not_understood(error: reqwest::Error) -> CallError {
    CallError::Gone(format!("its answer is not understood: {}", in_words(error)))
}

/// A client without the proxies of the environment: the address that a worker
/// is given is the server's own.
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

    use super::*;

    #[tokio::test]
    async fn a_content_with_another_sum_or_size_is_not_taken() {
        let routes = Router::new().route("/api/v1/worker/data", get(async || "good"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let server = Server::new(&url, "t".into(), &Authorities::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content = |bytes: &str, size| WorkContent {
            sha256: secret::hex(&Sha256::digest(bytes)),
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
