//! The one way from a call to its answer: headers, time-outs, retries.
//!
//! ```text
//! Call ──► request ──► attempt ──► read ──► answer
//!             ▲            │
//!             └── pause ◄──┘  where repeating is safe and may help
//! ```

mod call;
mod http;
mod proxy;
mod retry;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use reqwest::{
    Client, RequestBuilder, Response,
    header::{self, HeaderValue},
    multipart::{Form, Part},
};
use serde::de::DeserializeOwned;
use tracing::Instrument;
use url::Url;

use crate::{Error, Result, Secret, address::Addresses};

pub(crate) use call::{Body, ByteStream, Call, LateText, MakeFile, NotMade, Outgoing};
pub(crate) use http::HttpSettings;
use proxy::Proxies;
pub use retry::RetryPolicy;
pub(crate) use retry::may_repeat;

/// How long most answers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a download, an upload or a log stream may stand still. The server
/// sends something every 15 seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long things may take. What is not set has its default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeouts {
    pub(crate) request: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

/// Sends calls. Clones share connections.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Shared>);

#[derive(Clone)]
struct Shared {
    client: Client,
    proxies: Proxies,
    addresses: Addresses,
    token: Option<Secret>,
    retry: RetryPolicy,
    timeouts: Timeouts,
    session: String,
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
                    crate::PLAIN_HTTP_VARIABLE,
                )));
            }
            if url.scheme() == "https" && !http::HAS_TLS {
                return Err(Error::setup(
                    "https needs the feature `rustls` or `native-tls` of the crate `finetuner`",
                ));
            }
        }
        let proxies = Proxies::new(http.proxy.as_ref(), &addresses, environment)?;
        Ok(Self(Arc::new(Shared {
            client: http::client(http, &proxies)?,
            proxies,
            addresses,
            token: None,
            retry,
            timeouts,
            session: random_id(),
        })))
    }

    /// The same connections, with a token.
    pub(crate) fn with_token(&self, token: Secret) -> Self {
        let mut shared = Shared::clone(&self.0);
        shared.token = Some(token);
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

    /// As [`Transport::json`], where nothing of the answer is wanted.
    pub(crate) async fn done(&self, call: Call) -> Result<()> {
        self.bytes(&call).await.map(drop)
    }

    /// As [`Transport::json`], for an answer that is a text.
    pub(crate) async fn text(&self, call: Call) -> Result<String> {
        let (body, _) = self.bytes(&call).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn bytes(&self, call: &Call) -> Result<(Bytes, Seen)> {
        self.attempt(call, async |answer, seen, limit| {
            let body = answer.bytes().await;
            Ok((body.map_err(|e| Error::transport(e, limit))?, seen))
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
        let started = Instant::now();
        let url = call.url(&self.0.addresses);
        let limit = call
            .timeout
            .or(self.0.timeouts.request)
            .unwrap_or(REQUEST_TIMEOUT);
        let id = random_id();
        let mut attempt = 1;
        loop {
            let span = tracing::debug_span!(
                "finetuner.request",
                method = %call.method,
                route = call.route(),
                attempt,
                request_id = %id,
                status = tracing::field::Empty,
            );
            let seen = Seen {
                url: url.clone(),
                proxy: self.0.proxies.name(&url),
                request_id: id.clone(),
            };
            let answered = async {
                let answer = self.send(call, &url, &id, limit).await;
                let (error, asked) = match answer {
                    Ok(answer) => {
                        let status = answer.status();
                        tracing::Span::current().record("status", status.as_u16());
                        if status.is_success() || status == reqwest::StatusCode::NOT_MODIFIED {
                            match read(answer, seen.clone(), limit).await {
                                Ok(value) => return Ok(value),
                                Err(error) => (error, None),
                            }
                        } else {
                            self.failure(answer).await
                        }
                    }
                    Err(error) => (error, None),
                };
                let error = seen.mark(error).after(attempt, started.elapsed());
                // Not the error itself, which names runs and data.
                tracing::debug!(kind = error.kind_name(), "the call failed");
                Err((error, asked))
            };
            let (error, asked) = match answered.instrument(span).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            if !may_repeat(&error, call.repeatable) {
                return Err(error);
            }
            let Some(pause) = self.0.retry.pause(attempt, started.elapsed(), asked) else {
                return Err(error);
            };
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Sends a call once.
    async fn send(&self, call: &Call, url: &Url, id: &str, limit: Duration) -> Result<Response> {
        let sent = Arc::new(AtomicU64::new(0));
        let mut request = self.request(call, url, id, &sent)?;
        if !call.is_upload() && !call.streaming {
            request = request.timeout(limit);
        }
        let answer = request.send();
        if call.is_upload() {
            return tokio::select! {
                answer = answer => answer.map_err(|e| Error::transport(e, limit)),
                limit = self.stands_still(&sent, limit) => Err(Error::timeout(limit)),
            };
        }
        if call.streaming {
            // The head has a limit, what follows is watched as it is read.
            return match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer.map_err(|e| Error::transport(e, limit)),
                Err(_) => Err(Error::timeout(limit)),
            };
        }
        answer.await.map_err(|e| Error::transport(e, limit))
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

    /// What an answer says that is not a success, and how long it asks to wait.
    async fn failure(&self, answer: Response) -> (Error, Option<Duration>) {
        let status = answer.status();
        let asked = retry::retry_after(status, answer.headers());
        let request_id = answer.headers().get("x-request-id");
        let request_id = request_id.and_then(|id| id.to_str().ok().map(str::to_owned));
        // An error page that breaks off is still an error page.
        let body = answer.bytes().await.unwrap_or_default();
        let error = Error::status_of(status, &self.redacted(&body));
        let error = match request_id {
            Some(id) => error.request(&id),
            None => error,
        };
        (error, asked)
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

    fn request(
        &self,
        call: &Call,
        url: &Url,
        id: &str,
        sent: &Arc<AtomicU64>,
    ) -> Result<RequestBuilder> {
        let mut request = self
            .0
            .client
            .request(call.method.clone(), url.clone())
            .headers(call.headers.clone())
            .header(header::ACCEPT_CHARSET, "utf-8")
            .header("x-request-id", id);
        if let Some(token) = self.0.token.as_ref().filter(|_| call.with_token()) {
            let mut value = HeaderValue::from_str(&format!("token {}", token.expose()))
                .map_err(|_| Error::setup("the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request = request
                .header(header::AUTHORIZATION, value)
                .header("jinameta-session-id", &self.0.session);
        }
        Ok(match &call.body {
            Body::Empty => request,
            Body::Json(json) => request.json(json),
            Body::Form(fields) => request.form(fields),
            Body::Bytes(bytes) => request.body(bytes.clone()),
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

/// 32 hex digits that nobody has drawn before.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
