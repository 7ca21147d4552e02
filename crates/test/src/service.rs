//! The backend as an HTTP service.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, header, request::Parts},
    response::IntoResponse,
};
use bytes::Bytes;
use tower::{Service, ServiceExt};

use crate::{Fault, Received, answer::Refusal, artifact::DOWNLOADS, fault::Before, state::Shared};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The backend as an HTTP service for `Finetuner::builder().http_service(..)`.
///
/// [`TestBackend::service`](crate::TestBackend::service) returns it.
#[derive(Clone)]
pub struct TestService {
    shared: Arc<Shared>,
    router: Router,
}

/// Error of a connection that broke before the answer.
#[derive(Debug)]
pub struct TestError(BoxError);

impl TestError {
    fn of(kind: io::ErrorKind) -> Self {
        Self(io::Error::from(kind).into())
    }
}

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test backend did not answer")
    }
}

impl std::error::Error for TestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

impl TestService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let router = crate::routes::router(Arc::clone(&shared));
        Self { shared, router }
    }

    async fn answer(self, parts: Parts, body: Body) -> Result<Response<Body>, TestError> {
        if self.shared.is_away() {
            return Err(TestError::of(io::ErrorKind::ConnectionRefused));
        }
        let body = axum::body::to_bytes(body, usize::MAX).await;
        let body = body.map_err(|e| TestError(e.into()))?;
        let fault = self.note(&parts, &body);
        if let Some(fault) = &fault {
            match fault.before().await {
                Before::Answer(answer) => return Ok(answer),
                Before::Break => return Err(TestError::of(io::ErrorKind::ConnectionReset)),
                Before::Nothing => {}
            }
        }
        let answer = match self.is_allowed(&parts) {
            true => {
                let request = Request::from_parts(parts, Body::from(body));
                let answered: Result<_, Infallible> = self.router.oneshot(request).await;
                answered.unwrap_or_else(|never| match never {})
            }
            false => Refusal::new(
                StatusCode::UNAUTHORIZED,
                "Token invalid or expired: log in with a token issued by this server",
            )
            .into_response(),
        };
        let answer = match fault {
            Some(fault) => fault.after(answer),
            None => Some(answer),
        };
        answer.ok_or_else(|| TestError::of(io::ErrorKind::ConnectionReset))
    }

    /// Records a request and returns its fault.
    fn note(&self, parts: &Parts, body: &Bytes) -> Option<Fault> {
        let mut headers = parts.headers.clone();
        if let Some(token) = headers.get_mut(header::AUTHORIZATION) {
            token.set_sensitive(true);
        }
        let received = Received {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers,
            body: body.clone(),
        };
        self.shared.change(|state| {
            let fault = Fault::take(&mut state.faults, &received.method, &received.path);
            state.received.push(received);
            fault
        })
    }

    fn is_allowed(&self, parts: &Parts) -> bool {
        let token = token(&parts.headers);
        let is_known = |token: &str| self.shared.look(|s| s.tokens.values().any(|t| t == token));
        parts.uri.path().starts_with(DOWNLOADS) || token.is_some_and(is_known)
    }
}

/// Returns the token of a request.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("token ")
}

impl<B> Service<Request<B>> for TestService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = TestError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, TestError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TestError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        Box::pin(self.clone().answer(parts, Body::new(body)))
    }
}

impl fmt::Debug for TestService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestService").finish_non_exhaustive()
    }
}
