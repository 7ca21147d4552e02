//! Sends calls: headers, time-outs, retries.
//!
//! ```text
//! Call ──► request ──► attempt ──► read ──► answer
//!             ▲            │
//!             └── pause ◄──┘  if repeating is safe and may help
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
use serde::{Deserialize, de::DeserializeOwned};
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

/// Default time limit for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Default time limit for a transfer or log stream without progress. The server
/// sends something every ten seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of an answer in memory, in bytes.
const MAX_ANSWER: usize = 1 << 30;
/// Maximum number of bytes read from an error page.
const MAX_ERROR_PAGE: usize = 64 << 10;
/// Size in bytes of the pieces of an upload; progress is counted in these.
const PIECE: usize = 64 << 10;

/// Time limits; `None` selects the default.
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
    /// Builds requests, and sends them unless the program has its own service.
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

/// An answer of the Hubble API.
#[derive(Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) data: T,
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
        // The program's own service decides how it connects.
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

    /// Returns the same connections with a token.
    pub(crate) fn with_token(&self, token: Secret) -> Self {
        let mut shared = Shared::clone(&self.0);
        shared.token = Some(token);
        Self(Arc::new(shared))
    }

    /// Returns the same connections without retries, for callers with their own
    /// retry rules.
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

    /// Returns a fresh outage counter for following a run.
    pub(crate) fn outage(&self) -> Outage {
        let limit = self.0.timeouts.outage.unwrap_or(OUTAGE_LIMIT);
        Outage::new(limit, &self.0.retry)
    }

    /// Parses an address that the server returned, relative to the backend's own.
    /// Refuses plain http to other machines unless the user allows it.
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

    /// Returns the time limit for a stream without data.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.0.timeouts.idle.unwrap_or(IDLE_TIMEOUT)
    }

    /// Sends a call, with retries, and parses the JSON of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let (body, seen) = self.bytes(&call).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        serde_path_to_error::deserialize(&mut json)
            .map_err(|e| seen.mark(Error::decode(e, &self.redacted(&body))))
    }

    /// Like [`Transport::json`], for the `data` of a Hubble answer.
    pub(crate) async fn rpc<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        Ok(self.json::<Envelope<T>>(call).await?.data)
    }

    /// Like [`Transport::json`], but ignores the answer. A deletion that finds
    /// nothing succeeds if an earlier attempt may have deleted it.
    pub(crate) async fn done(&self, call: Call) -> Result<()> {
        match self.bytes(&call).await {
            Err(error) if call.deletes && error.is_not_found() && error.is_maybe_done() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Like [`Transport::json`], for a text answer.
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

    /// Sends a call and returns as soon as the head of the answer has arrived.
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

    /// Sends a call once and reads its answer. Separate limits apply to the head of
    /// the answer, the body of an error, and a body that is read as a whole.
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
            // An upload may take as long as it makes progress; only its answer is limited.
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
            // The error itself would name runs and data.
            tracing::debug!(kind = error.kind().as_str(), "the call failed");
            seen.mark(error)
        })
    }

    /// Returns the time limit for an answer; some calls need longer than others.
    fn limit_of(&self, call: &Call) -> Duration {
        let usual = self.0.timeouts.request.unwrap_or(REQUEST_TIMEOUT);
        call.timeout.map_or(usual, |longer| longer.max(usual))
    }

    /// Sends a call and waits for the head of the answer.
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

    /// Completes when an upload has made no progress for too long; returns that
    /// time limit.
    async fn stands_still(&self, sent: &AtomicU64, limit: Duration) -> Duration {
        // After the last byte, the server may take as long as for other answers.
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

    /// Creates the error of an answer that is not a success or not from a backend.
    async fn failure(&self, mut answer: Response, limit: Duration) -> Error {
        let status = answer.status();
        let asked = retry::retry_after(status, answer.headers());
        let request_id = answer.headers().get("x-request-id");
        let request_id = request_id.and_then(|id| id.to_str().ok().map(str::to_owned));
        // An incomplete error page is still an error page.
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

    /// Removes the token from a body, because some servers echo requests.
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
            let mut value =
                HeaderValue::from_str(&format!("token {}", token.expose())).map_err(|_| {
                    Error::setup("the token contains characters that are not allowed in a header")
                })?;
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

/// Whether an answer is a web page. Neither API returns one.
fn is_html(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start()
        .to_ascii_lowercase()
        .starts_with("text/html")
}

/// Splits bytes in memory into pieces.
fn in_pieces(mut bytes: Bytes) -> ByteStream {
    let pieces = std::iter::from_fn(move || {
        let length = bytes.len().min(PIECE);
        (length > 0).then(|| Ok(bytes.split_to(length)))
    });
    Box::pin(futures_util::stream::iter(pieces))
}

/// Returns a body that counts the bytes sent.
fn counted(bytes: ByteStream, sent: &Arc<AtomicU64>) -> reqwest::Body {
    let sent = Arc::clone(sent);
    reqwest::Body::wrap_stream(bytes.inspect_ok(move |bytes| {
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }))
}

/// Identifies the request that an answer belongs to.
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
