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
mod worker;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{MethodRouter, get, post},
};

use crate::{app::App, error::ApiError};

/// The most bytes of a request that is not an upload.
const MAX_BODY_BYTES: usize = 4 << 20;

/// How often a log stream without lines sends something.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let run = "/api/v1/experiments/{experiment}/runs/{run}";
    let mut router = Router::new();
    let routes: [(String, MethodRouter<Arc<App>>); 19] = [
        (
            "/".into(),
            get(async || concat!("finetuner-server ", env!("CARGO_PKG_VERSION"), "\n")),
        ),
        (
            "/api/v1/experiments".into(),
            get(experiments::list).post(experiments::create),
        ),
        (
            "/api/v1/experiments/{experiment}".into(),
            get(experiments::get),
        ),
        (
            "/api/v1/experiments/{experiment}/runs".into(),
            get(runs::list).post(runs::create),
        ),
        (run.into(), get(runs::get)),
        (format!("{run}/status"), get(runs::status)),
        (format!("{run}/metrics"), get(runs::metrics)),
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
        .with_state(app)
}
