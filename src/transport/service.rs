//! Sends requests with the built-in HTTP client or with the program's own HTTP
//! service.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use reqwest::{
    Client, Request, Response,
    header::{ACCEPT, HeaderValue, USER_AGENT},
};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::error::{BoxError, Error, Result};

/// Request body, as passed to [`Builder::http_service`](crate::Builder::http_service).
///
/// It implements `http_body::Body`.
///
/// ```
/// use finetuner::RequestBody;
///
/// fn is_body<B: http_body::Body<Data = bytes::Bytes>>() {}
/// is_body::<RequestBody>();
/// ```
pub struct RequestBody(reqwest::Body);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = Pin::new(&mut self.get_mut().0);
        body.poll_frame(context).map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

/// HTTP service of the program.
#[derive(Clone)]
pub(crate) struct HttpService(BoxCloneSyncService<http::Request<RequestBody>, Response, BoxError>);

impl HttpService {
    pub(crate) fn new<S, B>(service: S) -> Self
    where
        S: Service<http::Request<RequestBody>, Response = http::Response<B>>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service.map_response(read_by_us::<B>).map_err(Into::into);
        Self(BoxCloneSyncService::new(service))
    }
}

/// Converts an answer into the type that the built-in client returns.
fn read_by_us<B>(answer: http::Response<B>) -> Response
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let answer = answer.map(|body| reqwest::Body::wrap_stream(body.into_data_stream()));
    Response::from(answer)
}

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").finish_non_exhaustive()
    }
}

/// Sends requests.
#[derive(Clone)]
pub(super) enum Sender {
    /// The built-in client, which also builds requests.
    Own,
    /// The program's own service.
    Service {
        service: HttpService,
        /// reqwest adds it only to requests that it sends itself.
        user_agent: Option<HeaderValue>,
    },
}

impl Sender {
    pub(super) fn new(service: Option<&HttpService>, user_agent: &str) -> Self {
        match service {
            None => Self::Own,
            Some(service) => Self::Service {
                service: service.clone(),
                user_agent: HeaderValue::from_str(user_agent).ok(),
            },
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        client: &Client,
        request: Request,
        limit: Duration,
    ) -> Result<Response> {
        let (service, user_agent) = match self {
            Self::Own => {
                let answer = client.execute(request).await;
                return answer.map_err(|e| Error::transport(e, limit));
            }
            Self::Service {
                service,
                user_agent,
            } => (service.clone(), user_agent.clone()),
        };
        let request: http::Request<reqwest::Body> =
            request.try_into().map_err(|e| Error::transport(e, limit))?;
        let mut request = request.map(RequestBody);
        let headers = request.headers_mut();
        if let Some(user_agent) = user_agent {
            headers.entry(USER_AGENT).or_insert(user_agent);
        }
        headers
            .entry(ACCEPT)
            .or_insert(HeaderValue::from_static("*/*"));
        let answer = service.0.oneshot(request).await;
        answer.map_err(|e| Error::service(e, limit))
    }
}
