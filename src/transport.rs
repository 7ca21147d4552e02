//! The one way from a call to its answer: headers, time-outs, retries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{self, HeaderMap, HeaderValue},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::{
    Error, Result, RetryPolicy, Secret,
    address::Addresses,
    retry::{may_repeat, retry_after},
};

/// How long most answers may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to reach the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest connection that an upload must get through on.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

/// Sends calls. Clones share connections.
#[derive(Clone)]
pub(crate) struct Transport(Arc<Shared>);

struct Shared {
    client: Client,
    addresses: Addresses,
    token: Secret,
    retry: RetryPolicy,
    session: String,
}

/// What is sent with a call.
#[derive(Clone)]
pub(crate) enum Body {
    Empty,
    Json(Value),
    Form(Vec<(&'static str, String)>),
    /// A file and text fields, as `multipart/form-data`.
    Upload {
        file: Bytes,
        fields: Vec<(&'static str, String)>,
    },
}

/// A request that can be sent more than once.
pub(crate) struct Call {
    method: Method,
    url: Url,
    body: Body,
    headers: HeaderMap,
    with_token: bool,
    repeatable: bool,
    timeout: Option<Duration>,
}

impl Call {
    /// Reads something.
    pub(crate) fn get(url: Url) -> Self {
        Self::new(Method::GET, url, Body::Empty, true)
    }

    /// Creates something; it is repeated only where it can't have had an
    /// effect, unless [`Call::repeatable`] says otherwise.
    pub(crate) fn post(url: Url, body: Body) -> Self {
        Self::new(Method::POST, url, body, false)
    }

    fn new(method: Method, url: Url, body: Body, repeatable: bool) -> Self {
        let timeout = match &body {
            Body::Upload { file, .. } => {
                TIMEOUT + Duration::from_secs(file.len() as u64 / SLOWEST_BYTES_PER_SECOND)
            }
            _ => TIMEOUT,
        };
        Self {
            method,
            url,
            body,
            headers: HeaderMap::new(),
            with_token: true,
            repeatable,
            timeout: Some(timeout),
        }
    }

    /// Doing it twice is the same as doing it once.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Makes a creating call repeatable: the server knows it by the key.
    pub(crate) fn idempotent(self) -> Self {
        let key = format!("{:032x}", rand::random::<u128>());
        self.header("idempotency-key", &key).repeatable()
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The whole answer may take as long as it wants.
    pub(crate) fn streaming(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// The address itself says that we may.
    pub(crate) fn without_token(mut self) -> Self {
        self.with_token = false;
        self
    }
}

impl Transport {
    pub(crate) fn new(addresses: Addresses, token: Secret, retry: RetryPolicy) -> Result<Self> {
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("finetuner-rs/", env!("CARGO_PKG_VERSION")));
        if addresses.are_local() {
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|e| Error::setup(format!("no HTTP client: {e}")))?;
        Ok(Self(Arc::new(Shared {
            client,
            addresses,
            token,
            retry,
            session: format!("{:032x}", rand::random::<u128>()),
        })))
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.0.addresses
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.0.retry
    }

    /// Sends a call, again where that is safe and may help, and reads the JSON
    /// of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let url = call.url.clone();
        let body = self.bytes(call).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        serde_path_to_error::deserialize(&mut json).map_err(|e| Error::decode(e, &body).at(&url))
    }

    /// As [`Transport::json`], for the `data` of a Hubble answer.
    pub(crate) async fn rpc<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        #[derive(serde::Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        Ok(self.json::<Envelope<T>>(call).await?.data)
    }

    /// As [`Transport::json`], for an answer that is a text.
    pub(crate) async fn text(&self, call: Call) -> Result<String> {
        let body = self.bytes(call).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn bytes(&self, call: Call) -> Result<Bytes> {
        self.attempt(&call, async |answer, limit| {
            answer.bytes().await.map_err(|e| Error::transport(e, limit))
        })
        .await
    }

    /// Sends a call and returns as soon as the head of the answer is there.
    pub(crate) async fn open(&self, call: Call) -> Result<Response> {
        self.attempt(&call, async |answer, _| Ok(answer)).await
    }

    async fn attempt<T>(
        &self,
        call: &Call,
        read: impl AsyncFn(Response, Duration) -> Result<T>,
    ) -> Result<T> {
        let started = Instant::now();
        let limit = call.timeout.unwrap_or(CONNECT_TIMEOUT);
        let mut attempt = 1;
        loop {
            let (error, asked) = match self.request(call)?.send().await {
                Ok(answer) if answer.status().is_success() => match read(answer, limit).await {
                    Ok(value) => return Ok(value),
                    Err(error) => (error, None),
                },
                Ok(answer) => failure(answer).await,
                Err(error) => (Error::transport(error, limit), None),
            };
            let error = error.at(&call.url).after(attempt);
            if !may_repeat(&error, call.repeatable) {
                return Err(error);
            }
            let Some(pause) = self.0.retry.pause(attempt, started.elapsed(), asked) else {
                return Err(error);
            };
            tracing::debug!("{error}; again in {pause:?}");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    fn request(&self, call: &Call) -> Result<RequestBuilder> {
        let mut request = self
            .0
            .client
            .request(call.method.clone(), call.url.clone())
            .headers(call.headers.clone())
            .header(header::ACCEPT_CHARSET, "utf-8");
        if call.with_token {
            let mut value = HeaderValue::from_str(&format!("token {}", self.0.token.expose()))
                .map_err(|_| Error::setup("the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request = request
                .header(header::AUTHORIZATION, value)
                .header("jinameta-session-id", &self.0.session);
        }
        if let Some(timeout) = call.timeout {
            request = request.timeout(timeout);
        }
        Ok(match &call.body {
            Body::Empty => request,
            Body::Json(json) => request.json(json),
            Body::Form(fields) => request.form(fields),
            Body::Upload { file, fields } => {
                let file =
                    reqwest::multipart::Part::stream(file.clone()).file_name("DocumentArray");
                let form = reqwest::multipart::Form::new().part("file", file);
                request.multipart(
                    fields
                        .iter()
                        .fold(form, |form, (name, value)| form.text(*name, value.clone())),
                )
            }
        })
    }
}

async fn failure(answer: Response) -> (Error, Option<Duration>) {
    let status = answer.status();
    let asked = retry_after(status, answer.headers());
    let request_id = answer
        .headers()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok())
        .map(str::to_owned);
    // An error page that breaks off is still an error page.
    let body = answer.bytes().await.unwrap_or_default();
    (Error::status_of(status, request_id, &body), asked)
}

/// TLS of our own, so that a program around us keeps the choice of its own.
/// Where the machine has no root certificates, plain HTTP still works.
fn tls() -> Result<rustls::ClientConfig> {
    use rustls_platform_verifier::BuilderVerifierExt;

    let builder = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::setup(format!("no TLS: {e}")))
    };
    Ok(match builder()?.with_platform_verifier() {
        Ok(verified) => verified.with_no_client_auth(),
        Err(_) => builder()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth(),
    })
}
