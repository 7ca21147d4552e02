//! The HTTP API, one file for each group of routes.
//!
//! Both generations of the Python client are served: every route answers with
//! and without a slash at its end.

mod artifacts;
mod auth;
mod experiments;
mod identity;
mod logs;
mod pages;
mod runs;
mod tokens;
mod uploads;
mod worker;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, Request},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post, put},
};

pub(crate) use uploads::Uploads;

use crate::{app::App, error::ApiError, secret};

/// The most bytes of a request that is not an upload.
const MAX_BODY_BYTES: usize = 4 << 20;

/// How often a log stream without lines sends something.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let run = "/api/v1/experiments/{experiment}/runs/{run}";
    let mut router = Router::new();
    let routes: [(String, MethodRouter<Arc<App>>); 34] = [
        (
            "/".into(),
            get(async || concat!("finetuner-server ", env!("CARGO_PKG_VERSION"), "\n")),
        ),
        (
            "/api/v1/experiments".into(),
            get(experiments::list)
                .post(experiments::create)
                .delete(experiments::delete_all),
        ),
        (
            "/api/v1/experiments/{experiment}".into(),
            get(experiments::get).delete(experiments::delete),
        ),
        (
            "/api/v1/experiments/{experiment}/runs".into(),
            get(runs::list).post(runs::create).delete(runs::delete_all),
        ),
        (run.into(), get(runs::get).delete(runs::delete)),
        (format!("{run}/status"), get(runs::status)),
        (format!("{run}/metrics"), get(runs::metrics)),
        (format!("{run}/examples"), get(runs::examples)),
        (format!("{run}/history"), get(runs::history)),
        (format!("{run}/cancel"), post(runs::cancel)),
        (format!("{run}/logs"), get(logs::logs)),
        (format!("{run}/logstream"), get(logs::stream)),
        ("/api/v1/worker/job".into(), get(worker::job)),
        ("/api/v1/worker/data".into(), get(worker::data)),
        ("/api/v1/worker/events".into(), post(worker::events)),
        (
            "/api/v1/worker/artifact".into(),
            post(worker::artifact).layer(DefaultBodyLimit::disable()),
        ),
        ("/api/v1/worker/outcome".into(), post(worker::outcome)),
        (
            "/v2/rpc/user.identity.whoami".into(),
            get(identity::whoami).post(identity::whoami),
        ),
        (
            "/v2/rpc/artifact.upload".into(),
            post(artifacts::upload).layer(DefaultBodyLimit::disable()),
        ),
        (
            "/v2/rpc/artifact.getDownloadUrl".into(),
            get(artifacts::url_by_query).post(artifacts::url_by_form),
        ),
        ("/v2/rpc/artifact.beginUpload".into(), post(uploads::begin)),
        (
            "/v2/rpc/artifact.uploadPart".into(),
            put(uploads::part).layer(DefaultBodyLimit::max(2 * uploads::PART_BYTES)),
        ),
        (
            "/v2/rpc/artifact.finishUpload".into(),
            post(uploads::finish),
        ),
        ("/v2/rpc/artifact.list".into(), post(artifacts::list)),
        ("/v2/rpc/artifact.getDetail".into(), post(artifacts::detail)),
        ("/v2/rpc/artifact.delete".into(), post(artifacts::delete)),
        (
            "/v2/rpc/artifact.deleteMany".into(),
            post(artifacts::delete_many),
        ),
        ("/v2/rpc/artifact.update".into(), post(artifacts::update)),
        ("/v2/rpc/user.pat.create".into(), post(tokens::create)),
        ("/v2/rpc/user.pat.list".into(), post(tokens::list)),
        ("/v2/rpc/user.pat.delete".into(), post(tokens::delete)),
        ("/v2/rpc/user.session.dismiss".into(), post(tokens::dismiss)),
        ("/v2/download/{key}".into(), get(artifacts::download)),
        ("/health".into(), get(async || "ok\n")),
    ];
    for (path, handler) in routes {
        if path != "/" {
            router = router.route(&format!("{path}/"), handler.clone());
        }
        router = router.route(&path, handler);
    }
    router
        .fallback(async || ApiError::not_found("there is nothing at this address"))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(with_request_id))
        .with_state(app)
}

/// Gives every answer the name of its request: the client's, or a new one. The
/// log of a failed request has it too.
async fn with_request_id(request: Request<axum::body::Body>, next: Next) -> Response {
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
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut answer = next.run(request).await;
    if answer.status().is_server_error() {
        // Addresses of downloads are keys.
        let path = if path.starts_with("/v2/download/") {
            "/v2/download/..."
        } else {
            &path
        };
        tracing::error!("{method} {path}: {} [request {id:?}]", answer.status());
    }
    answer.headers_mut().insert(NAME, id);
    answer
}
