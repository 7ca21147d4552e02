//! The one way from a call to its answer: headers, time-outs, retries.
//!
//! ```text
//! Call ──► request ──► attempt ──► read ──► answer
//!             ▲            │
//!             └── pause ◄──┘  where repeating is safe and may help
//! ```

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use reqwest::{
    Client, RequestBuilder, Response,
    header::{self, HeaderValue},
    multipart::{Form, Part},
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::Instrument;
use url::Url;

use super::{
    addresses::Addresses,
    call::{Body, ByteStream, Call, Outgoing},
    http,
    id::random_id,
    outage::{OUTAGE_LIMIT, Outage},
    proxy::Proxies,
    retry::{self, RetryPolicy, Tries},
    service::Sender,
    settings::{HttpSettings, PLAIN_HTTP_VARIABLE, project_header, user_agent},
    tls::HAS_TLS,
};
use crate::{
    error::{Error, Result},
    secret::Secret,
};

/// How long most answers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a download, an upload or a log stream may stand still. The server
/// sends something every ten seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of an answer that is held in memory.
const MAX_ANSWER: usize = 1 << 30;
/// The most bytes of an error page that are looked at.
const MAX_ERROR_PAGE: usize = 64 << 10;
/// Bytes of an upload that are handed over at once, so that progress is seen.
const PIECE: usize = 64 << 10;

/// How long things may take. What is not set has its default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeouts {
    pub(crate) request: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) outage: Option<Duration>,
}

/// Sends calls. Clones share connections.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Shared>);

#[derive(Clone)]
struct Shared {
    /// Makes requests, and sends them unless the program has a service for that.
    client: Client,
    sender: Sender,
    proxies: Proxies,
    addresses: Addresses,
    token: Option<Secret>,
    retry: RetryPolicy,
    timeouts: Timeouts,
    session: String,
    allow_plain_http: bool,
    /// Names the project that calls are about.
    project: Option<HeaderValue>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("backend", &self.0.addresses.finetuner_host())
            .finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(
        addresses: Addresses,
        http: &HttpSettings,
        retry: RetryPolicy,
        timeouts: Timeouts,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        for url in [&addresses.finetuner, &addresses.hubble] {
            if http::is_open(url) && !http.allow_plain_http {
                return Err(Error::setup(format!(
                    "the token would go to {} over plain http, where others can read it: use \
                     https, or allow it with `Finetuner::builder().allow_plain_http(true)` or \
                     {}=1",
                    url.host_str().unwrap_or_default(),
                    PLAIN_HTTP_VARIABLE,
                )));
            }
            if url.scheme() == "https" && !HAS_TLS && http.service.is_none() {
                return Err(Error::setup(
                    "https needs the feature `rustls` or `native-tls` of the crate `finetuner`",
                ));
            }
        }
        http.check_service()?;
        // A service of the program's own connects as it wants.
        let environment = |name: &str| match http.service {
            Some(_) => None,
            None => environment(name),
        };
        let proxies = Proxies::new(http.proxy.as_ref(), &addresses, environment)?;
        Ok(Self(Arc::new(Shared {
            client: http::client(http, &proxies)?,
            sender: Sender::new(http.service.as_ref(), &user_agent(http)),
            proxies,
            addresses,
            token: None,
            retry,
            timeouts,
            session: random_id(),
            allow_plain_http: http.allow_plain_http,
            project: project_header(http)?,
        })))
    }

    /// The same connections, with a token.
    pub(crate) fn with_token(&self, token: Secret) -> Self {
        let mut shared = Shared::clone(&self.0);
        shared.token = Some(token);
        Self(Arc::new(shared))
    }

    /// The same connections; each call is made once. For those who repeat
    /// calls by rules of their own.
    pub(crate) fn once(&self) -> Self {
        let mut shared = Shared::clone(&self.0);
        shared.retry = shared.retry.attempts(1);
        Self(Arc::new(shared))
    }

    pub(crate) fn token(&self) -> Option<&Secret> {
        self.0.token.as_ref()
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.0.addresses
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.0.retry
    }

    /// How long a backend may be away while somebody follows a run.
    pub(crate) fn outage(&self) -> Outage {
        let limit = self.0.timeouts.outage.unwrap_or(OUTAGE_LIMIT);
        Outage::new(limit, &self.0.retry)
    }

    /// Reads an address that the server gave: relative ones are meant from the
    /// backend's own, and none may send what was private in the open.
    pub(crate) fn given_address(&self, text: &str) -> Result<Url> {
        let bad =
            |reason: &str| Error::decode(format!("the address that the server gave {reason}"), b"");
        let url = self.0.addresses.hubble.join(text);
        let url = url.map_err(|e| bad(&format!("can't be read: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(&format!(
                "begins with `{}:`, not with https",
                url.scheme()
            )));
        }
        if http::is_open(&url) && !self.0.allow_plain_http {
            return Err(bad(&format!(
                "leads to {} over plain http, where others can read it: allow it with \
                 `Finetuner::builder().allow_plain_http(true)` or {}=1",
                url.host_str().unwrap_or_default(),
                PLAIN_HTTP_VARIABLE,
            )));
        }
        Ok(url)
    }

    /// How long a stream may be silent.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.0.timeouts.idle.unwrap_or(IDLE_TIMEOUT)
    }

    /// Sends a call, again where that is safe and may help, and reads the JSON
    /// of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let (body, seen) = self.bytes(&call).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        serde_path_to_error::deserialize(&mut json)
            .map_err(|e| seen.mark(Error::decode(e, &self.redacted(&body))))
    }

    /// As [`Transport::json`], for the `data` of a Hubble answer.
    pub(crate) async fn rpc<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        #[derive(serde::Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        Ok(self.json::<Envelope<T>>(call).await?.data)
    }

    /// As [`Transport::json`], where nothing of the answer is wanted. What was
    /// deleted by a try whose answer was lost counts as deleted.
    pub(crate) async fn done(&self, call: Call) -> Result<()> {
        match self.bytes(&call).await {
            Err(error) if call.deletes && error.is_not_found() && error.is_maybe_done() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// As [`Transport::json`], for an answer that is a text.
    pub(crate) async fn text(&self, call: Call) -> Result<String> {
        let (body, _) = self.bytes(&call).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn bytes(&self, call: &Call) -> Result<(Bytes, Seen)> {
        self.attempt(call, async |mut answer, seen, limit| {
            let mut body = BytesMut::new();
            while let Some(bytes) = answer
                .chunk()
                .await
                .map_err(|e| Error::transport(e, limit))?
            {
                body.extend_from_slice(&bytes);
                if body.len() > MAX_ANSWER {
                    return Err(Error::decode("it has more than 1 GiB", b""));
                }
            }
            Ok((body.freeze(), seen))
        })
        .await
    }

    /// Sends a call and returns as soon as the head of the answer is there.
    pub(crate) async fn open(&self, call: Call) -> Result<Response> {
        self.attempt(&call, async |answer, _, _| Ok(answer)).await
    }

    async fn attempt<T>(
        &self,
        call: &Call,
        read: impl AsyncFn(Response, Seen, Duration) -> Result<T>,
    ) -> Result<T> {
        call.check_names()?;
        let url = call.url(&self.0.addresses);
        let seen = Seen {
            proxy: self.0.proxies.name(&url),
            request_id: random_id(),
            url,
        };
        let mut tries = Tries::new(&self.0.retry);
        loop {
            let span = tracing::debug_span!(
                "finetuner.request",
                method = %call.method,
                route = call.route(),
                attempt = tries.number(),
                request_id = %seen.request_id,
                status = tracing::field::Empty,
            );
            match self.try_once(call, &seen, &read).instrument(span).await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let allowed = call.may_repeat(&error);
                    tries.again(error, allowed).await?;
                }
            }
        }
    }

    /// Sends a call once, and reads its answer. Each step has a limit: the head
    /// of the answer, the body of an error, and the body that is read whole.
    async fn try_once<T>(
        &self,
        call: &Call,
        seen: &Seen,
        read: &impl AsyncFn(Response, Seen, Duration) -> Result<T>,
    ) -> Result<T> {
        let limit = self.limit_of(call);
        let started = Instant::now();
        let answered = async {
            let answer = self.send(call, seen, limit).await?;
            let status = answer.status();
            tracing::Span::current().record("status", status.as_u16());
            // An upload takes as long as it moves; its answer has a limit.
            let started = match call.is_upload() {
                true => Instant::now(),
                false => started,
            };
            let is_good = status.is_success() || status == reqwest::StatusCode::NOT_MODIFIED;
            if !is_good || is_html(&answer) {
                let left = limit.saturating_sub(started.elapsed());
                return Err(self.failure(answer, left).await);
            }
            let read = read(answer, seen.clone(), limit);
            let left = limit.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, read).await {
                Ok(value) => value,
                Err(_) => Err(Error::timeout(limit)),
            }
        };
        answered.await.map_err(|error| {
            // Not the error itself, which names runs and data.
            tracing::debug!(kind = error.kind().as_str(), "the call failed");
            seen.mark(error)
        })
    }

    /// How long an answer may take. Calls that need longer than others say so.
    fn limit_of(&self, call: &Call) -> Duration {
        let usual = self.0.timeouts.request.unwrap_or(REQUEST_TIMEOUT);
        call.timeout.map_or(usual, |longer| longer.max(usual))
    }

    /// Sends a call, and waits for the head of the answer.
    async fn send(&self, call: &Call, seen: &Seen, limit: Duration) -> Result<Response> {
        let sent = Arc::new(AtomicU64::new(0));
        let request = self.request(call, seen, &sent)?.build();
        let request = request.map_err(|e| Error::transport(e, limit))?;
        let answer = self.0.sender.send(&self.0.client, request, limit);
        if call.is_upload() {
            tokio::select! {
                answer = answer => answer,
                limit = self.stands_still(&sent, limit) => Err(Error::timeout(limit)),
            }
        } else {
            let answer = tokio::time::timeout(limit, answer).await;
            answer.unwrap_or_else(|_| Err(Error::timeout(limit)))
        }
    }

    /// Ends once nothing of an upload has gone out for too long; returns how
    /// long that was.
    async fn stands_still(&self, sent: &AtomicU64, limit: Duration) -> Duration {
        // After the last byte the server may take as long as for other answers.
        let limit = limit.max(self.idle_timeout());
        let mut before = sent.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(limit).await;
            let now = sent.load(Ordering::Relaxed);
            if now == before {
                return limit;
            }
            before = now;
        }
    }

    /// What an answer says that is not a success, or not one of a backend.
    async fn failure(&self, mut answer: Response, limit: Duration) -> Error {
        let status = answer.status();
        let asked = retry::retry_after(status, answer.headers());
        let request_id = answer.headers().get("x-request-id");
        let request_id = request_id.and_then(|id| id.to_str().ok().map(str::to_owned));
        // An error page that breaks off or stalls is still an error page.
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(bytes)) = answer.chunk().await {
                body.extend_from_slice(&bytes);
                if body.len() >= MAX_ERROR_PAGE {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(limit, read).await;
        let body = self.redacted(&body);
        let error = match status.is_success() {
            true => Error::decode("a web page", &body),
            false => Error::status_of(status, &body),
        };
        let error = error.asking_to_wait(asked);
        match request_id {
            Some(id) => error.request(&id),
            None => error,
        }
    }

    /// A body as errors may show it: some servers repeat what they were sent.
    fn redacted<'a>(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(token) = self.0.token.as_ref().map(Secret::expose) else {
            return body.into();
        };
        let text = String::from_utf8_lossy(body);
        match token.is_empty() || !text.contains(token) {
            true => body.into(),
            false => text.replace(token, "[redacted]").into_bytes().into(),
        }
    }

    fn request(&self, call: &Call, seen: &Seen, sent: &Arc<AtomicU64>) -> Result<RequestBuilder> {
        let mut request = self
            .0
            .client
            .request(call.method.clone(), seen.url.clone())
            .headers(call.headers.clone())
            .header(header::ACCEPT_CHARSET, "utf-8")
            .header("x-request-id", &seen.request_id);
        if let Some(token) = self.0.token.as_ref().filter(|_| call.with_token()) {
            let mut value = HeaderValue::from_str(&format!("token {}", token.expose()))
                .map_err(|_| Error::setup("the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request = request
                .header(header::AUTHORIZATION, value)
                .header("jinameta-session-id", &self.0.session);
            if let Some(project) = &self.0.project {
                request = request.header("x-finetuner-project", project);
            }
        }
        Ok(match &call.body {
            Body::Empty => request,
            Body::Json(json) => request.json(json),
            Body::Form(fields) => request.form(fields),
            Body::Bytes(bytes) => request
                .header(header::CONTENT_LENGTH, bytes.len())
                .body(counted(in_pieces(bytes.clone()), sent)),
            Body::Multipart { file, fields } => {
                let Outgoing { file, trailing } = file();
                let file = Part::stream(counted(file, sent)).file_name("DocumentArray");
                let mut form = Form::new().part("file", file);
                for (name, value) in fields {
                    form = form.text(*name, value.clone());
                }
                for (name, value) in trailing {
                    let value = futures_util::stream::once(value);
                    form = form.part(name, Part::stream(reqwest::Body::wrap_stream(value)));
                }
                request.multipart(form)
            }
        })
    }
}

/// Whether an answer is a web page. No call of either API has one.
fn is_html(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start()
        .to_ascii_lowercase()
        .starts_with("text/html")
}

/// Bytes in memory, handed over piece by piece.
fn in_pieces(mut bytes: Bytes) -> ByteStream {
    let pieces = std::iter::from_fn(move || {
        let length = bytes.len().min(PIECE);
        (length > 0).then(|| Ok(bytes.split_to(length)))
    });
    Box::pin(futures_util::stream::iter(pieces))
}

/// A body that notes how much of it has gone out.
fn counted(bytes: ByteStream, sent: &Arc<AtomicU64>) -> reqwest::Body {
    let sent = Arc::clone(sent);
    reqwest::Body::wrap_stream(bytes.inspect_ok(move |bytes| {
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }))
}

/// Which request an answer belongs to.
#[derive(Clone)]
pub(crate) struct Seen {
    url: Url,
    proxy: Option<String>,
    request_id: String,
}

impl Seen {
    fn mark(&self, error: Error) -> Error {
        let error = error.at(&self.url).through(self.proxy.clone());
        error.request(&self.request_id)
    }
}
