//! All routes of the server: those of the API and of the console, with the
//! middleware that both share.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, MatchedPath, State},
    http::{HeaderValue, Request, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    api,
    app::App,
    console,
    error::ApiError,
    origin::{SCHEME, Secure},
    pace,
    peer::Peer,
    secret,
};

/// Maximum size of a request that is not an upload, in bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// Returns the router with all routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, handler) in api::routes() {
        if path != "/" {
            router = router.route(&format!("{path}/"), handler.clone());
        }
        router = router.route(&path, handler);
    }
    layered(router.merge(console::router(&app)), app)
}

/// Returns the router with only the routes that workers use.
pub(crate) fn worker_router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, handler) in api::routes() {
        if path.starts_with("/api/v1/worker/") {
            router = router.route(&path, handler);
        }
    }
    layered(router, app)
}

fn layered(router: Router<Arc<App>>, app: Arc<App>) -> Router {
    router
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .fallback(api::nothing_here)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_request(pace::paced))
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                ApiError::internal(&"a request panicked; this is a bug").into_response()
            },
        ))
        .layer(middleware::from_fn(api::refusals_as_json))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observed))
        .with_state(app)
}

/// Middleware that counts and logs every answer, and gives it a request id: the
/// client's, or a new one. Also determines scheme, host and client address of the
/// request.
async fn observed(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    const NAME: &str = "x-request-id";
    let given = request.headers().get(NAME).filter(|id| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        id.len() <= 128 && id.as_bytes().iter().all(plain)
    });
    let id = match given {
        Some(id) => id.clone(),
        // Hex digits are allowed in a header.
        None => HeaderValue::from_str(&secret::new_id())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
    };
    if let Some(Secure(true)) = request.extensions().get() {
        let https = HeaderValue::from_static("https");
        request.headers_mut().insert(SCHEME, https);
    }
    with_host(&mut request);
    if let Some(&peer) = request.extensions().get::<Peer>() {
        let client = peer.behind(request.headers(), &app.settings.trusted_proxies);
        request.extensions_mut().insert(client);
    }
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let begun = Instant::now();
    let mut answer = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let status = answer.status();
    app.counters
        .answer(method.as_str(), route, status.as_u16(), begun.elapsed());
    if status.is_server_error() {
        tracing::error!("{method} {route}: {status} [request {id:?}]");
    } else {
        tracing::debug!(
            "{method} {route}: {status} in {:?} [request {id:?}]",
            begun.elapsed()
        );
    }
    let headers = answer.headers_mut();
    headers.insert(NAME, id);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// Sets `Host` from the request's URI, which contains the host in HTTP/2.
fn with_host(request: &mut Request<Body>) {
    if request.headers().contains_key(header::HOST) {
        return;
    }
    let authority = Uri::authority(request.uri()).map(|a| HeaderValue::from_str(a.as_str()));
    if let Some(Ok(host)) = authority {
        request.headers_mut().insert(header::HOST, host);
    }
}
