//! The HTTP API, one file for each group of routes.
//!
//! Both generations of the Python client are served: every route answers with
//! and without a slash at its end.

mod admin;
mod annotations;
mod artifact_update;
mod artifacts;
mod auth;
mod continuation;
mod dry_run;
mod experiments;
mod fields;
mod identity;
mod json;
mod logins;
mod logs;
mod models;
mod openai;
mod pages;
mod projects;
mod runs;
mod shares;
mod tokens;
mod told;
mod uploads;
mod webhooks;
mod worker;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, MatchedPath, State},
    http::{HeaderMap, HeaderValue, Request, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use admin::check_open_runs;
pub(crate) use annotations::{annotate, invalid as invalid_annotation};
pub(crate) use auth::by_token;
pub(crate) use continuation::{Continuation, check_keys, continue_from};
pub(crate) use logins::Logins;
pub(crate) use logs::{as_it_comes, follow, text as log_text};
pub(crate) use openai::check_picture;
pub(crate) use projects::{check_project_name, role};
pub(crate) use runs::{create_from, examples_of, find as find_run, status_of};
pub(crate) use shares::{MAX_DAYS as MAX_SHARE_DAYS, create_share, share_address};
pub(crate) use uploads::Uploads;

use crate::{
    app::App,
    console,
    error::{ApiError, Result},
    pace,
    peer::Peer,
    secret,
};

/// The most bytes of a request that is not an upload.
const MAX_BODY_BYTES: usize = 4 << 20;

/// How long the database may take to answer before the server counts as not
/// ready.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a log stream without lines sends a comment. Proxies close streams
/// that are silent for a minute, some after 15 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The routes of the API.
fn routes() -> Vec<(String, MethodRouter<Arc<App>>)> {
    let run = "/api/v1/experiments/{experiment}/runs/{run}";
    vec![
        ("/".into(), get(front)),
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
            "/api/v1/experiments/{experiment}/check".into(),
            post(dry_run::check),
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
        (format!("{run}/events"), get(runs::events)),
        (format!("{run}/checkpoints"), get(runs::checkpoints)),
        (
            format!("{run}/checkpoints/{{number}}/runs"),
            post(continuation::go_on),
        ),
        (
            format!("{run}/annotations"),
            get(annotations::get).put(annotations::put),
        ),
        (format!("{run}/cancel"), post(runs::cancel)),
        (
            format!("{run}/shares"),
            get(shares::list).post(shares::create),
        ),
        (format!("{run}/shares/{{share}}"), delete(shares::delete)),
        (format!("{run}/logs"), get(logs::logs)),
        (format!("{run}/logstream"), get(logs::stream)),
        ("/api/v1/models".into(), get(models::task)),
        (
            "/api/v1/admin/users".into(),
            get(admin::users).post(admin::add_user),
        ),
        ("/api/v1/admin/users/{user}".into(), put(admin::change_user)),
        ("/api/v1/admin/storage".into(), get(admin::storage)),
        (
            "/api/v1/admin/storage/{project}".into(),
            put(admin::set_storage),
        ),
        ("/api/v1/admin/runs".into(), get(admin::runs)),
        ("/api/v1/admin/audit".into(), get(admin::audit)),
        (
            "/api/v1/projects".into(),
            get(projects::list).post(projects::create),
        ),
        (
            "/api/v1/projects/{project}".into(),
            get(projects::get).delete(projects::delete),
        ),
        (
            "/api/v1/projects/{project}/members/{user}".into(),
            put(projects::set_member).delete(projects::remove_member),
        ),
        (
            "/api/v1/webhooks".into(),
            get(webhooks::list).post(webhooks::create),
        ),
        (
            "/api/v1/webhooks/{webhook}".into(),
            get(webhooks::get).delete(webhooks::delete),
        ),
        (
            "/api/v1/webhooks/{webhook}/test".into(),
            post(webhooks::test),
        ),
        (
            "/api/v1/webhooks/{webhook}/deliveries".into(),
            get(webhooks::deliveries),
        ),
        (
            "/api/v1/webhooks/{webhook}/deliveries/{delivery}".into(),
            post(webhooks::redeliver),
        ),
        ("/api/v1/worker/start".into(), post(worker::start)),
        ("/api/v1/worker/job".into(), get(worker::job)),
        ("/api/v1/worker/content".into(), get(worker::content)),
        ("/api/v1/worker/data".into(), get(worker::data)),
        ("/api/v1/worker/events".into(), post(worker::events)),
        (
            "/api/v1/worker/checkpoint".into(),
            post(worker::checkpoint).layer(DefaultBodyLimit::disable()),
        ),
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
            "/v2/rpc/user.identity.proxiedAuthorize".into(),
            get(logins::proxied),
        ),
        (
            "/v2/rpc/user.identity.authorize".into(),
            get(logins::redirected),
        ),
        (
            "/v2/rpc/user.identity.grant.auto".into(),
            post(logins::grant),
        ),
        (
            "/v2/rpc/user.identity.grant.auth0Unified".into(),
            post(logins::grant),
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
            put(uploads::part).layer(DefaultBodyLimit::max(uploads::MAX_PART_BYTES)),
        ),
        (
            "/v2/rpc/artifact.finishUpload".into(),
            post(uploads::finish),
        ),
        ("/v2/rpc/artifact.abortUpload".into(), post(uploads::abort)),
        ("/v2/rpc/artifact.list".into(), post(artifacts::list)),
        ("/v2/rpc/artifact.getDetail".into(), post(artifacts::detail)),
        ("/v2/rpc/artifact.delete".into(), post(artifacts::delete)),
        (
            "/v2/rpc/artifact.deleteMany".into(),
            post(artifacts::delete_many),
        ),
        (
            "/v2/rpc/artifact.update".into(),
            post(artifact_update::update),
        ),
        ("/v2/rpc/user.pat.create".into(), post(tokens::create)),
        ("/v2/rpc/user.pat.list".into(), post(tokens::list)),
        ("/v2/rpc/user.pat.delete".into(), post(tokens::delete)),
        ("/v2/rpc/user.session.dismiss".into(), post(tokens::dismiss)),
        ("/v2/rpc/user.session.getRaw".into(), post(tokens::session)),
        (
            "/v2/rpc/dockerRegistry.listInternalRegistries".into(),
            post(identity::registries),
        ),
        (
            "/v2/.well-known/jwks.json".into(),
            get(identity::signing_keys),
        ),
        ("/v2/download/{key}".into(), get(artifacts::download)),
        (
            "/v1/embeddings".into(),
            post(openai::create_embeddings).layer(DefaultBodyLimit::max(openai::MAX_BODY)),
        ),
        ("/v1/models".into(), get(openai::list_models)),
        ("/v1/models/{model}".into(), get(openai::model)),
        (
            "/v1/models/{experiment}/{run}".into(),
            get(openai::model_of_experiment),
        ),
        ("/openapi.json".into(), get(openapi)),
        ("/health".into(), get(async || "ok\n")),
        ("/healthz".into(), get(async || "ok\n")),
        ("/readyz".into(), get(ready)),
        ("/metrics".into(), get(counters)),
    ]
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, handler) in routes() {
        if path != "/" {
            router = router.route(&format!("{path}/"), handler.clone());
        }
        router = router.route(&path, handler);
    }
    layered(router.merge(console::router(&app)), app)
}

/// The routes that workers use, and no others.
pub(crate) fn worker_router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, handler) in routes() {
        if path.starts_with("/api/v1/worker/") {
            router = router.route(&path, handler);
        }
    }
    layered(router, app)
}

fn layered(router: Router<Arc<App>>, app: Arc<App>) -> Router {
    router
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_request(pace::paced))
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                ApiError::internal(&"a request panicked; this is a bug").into_response()
            },
        ))
        .layer(middleware::from_fn(refusals_as_json))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observed))
        .with_state(app)
}

/// Answers at the root: with the console for people, with the name for programs.
async fn front(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    match accepts.is_some_and(|kinds| kinds.contains("text/html")) {
        true => Redirect::to("/console/").into_response(),
        false => concat!("finetuner-server ", env!("CARGO_PKG_VERSION"), "\n").into_response(),
    }
}

/// Answers for an address that is none of the server's. Hubble had services for
/// packages and payments too, whose calls an SDK may still make.
async fn nothing_here(address: Uri) -> Response {
    if address.path().starts_with("/v1/") {
        return openai::nothing_here();
    }
    let error = match address.path().strip_prefix("/v2/rpc/") {
        Some(method) => ApiError::no_method(method.trim_end_matches('/')),
        None => ApiError::not_found("there is nothing at this address"),
    };
    error.into_response()
}

/// The description of this API.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Whether the server can do its work.
async fn ready(State(app): State<Arc<App>>) -> Result<String> {
    if app.is_stopping() {
        return Err(ApiError::unavailable("the server is about to stop"));
    }
    let look = async || {
        let ready = tokio::time::timeout(READY_TIMEOUT, app.database.is_ready());
        let ready = ready.await.map_err(|_| "it took too long".to_owned());
        Ok::<_, ApiError>(ready.and_then(|ready| ready.map_err(|e| e.to_string())))
    };
    let ready = app.readiness.get(look).await?;
    ready.map_err(|e| ApiError::unavailable(format!("the database does not answer: {e}")))?;
    match app.queue.problem() {
        Some(problem) => Err(ApiError::unavailable(problem)),
        // Clients and workers are served all the same.
        None => Ok(match app.queue.note() {
            Some(note) => format!("ok\n{note}\n"),
            None => "ok\n".to_owned(),
        }),
    }
}

async fn counters(State(app): State<Arc<App>>) -> Result<Response> {
    let runs = app.run_counts.get(async || app.database.count_runs().await);
    let text = app.counters.text(runs.await?);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Whether a request came over TLS; said by the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secure(pub(crate) bool);

/// The address by which a client has reached us, which is one that it can
/// reach again: `https://host:port`.
pub(crate) fn address(headers: &HeaderMap) -> Result<String> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let host = text(header::HOST).filter(|host| is_host(host));
    let host = host.ok_or_else(|| ApiError::bad_request("the header `Host` is needed"))?;
    let scheme = match text(header::HeaderName::from_static(SCHEME)) {
        Some("https") => "https",
        _ => "http",
    };
    Ok(format!("{scheme}://{host}"))
}

/// Says by which scheme a client has come: set by a proxy before us, or by
/// ourselves where we speak TLS.
const SCHEME: &str = "x-forwarded-proto";

/// Returns whether a text can be a host, with or without a port.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}

/// Counts every answer and gives it the name of its request: the client's, or a
/// new one. The log of a failed request has it too.
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

/// HTTP/2 has the host in the address.
fn with_host(request: &mut Request<Body>) {
    if request.headers().contains_key(header::HOST) {
        return;
    }
    let authority = Uri::authority(request.uri()).map(|a| HeaderValue::from_str(a.as_str()));
    if let Some(Ok(host)) = authority {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// Turns the framework's own refusals, which are plain text, into the JSON that both
/// APIs promise.
async fn refusals_as_json(request: Request<Body>, next: Next) -> Response {
    let answer = next.run(request).await;
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !answer.status().is_client_error() || !is_text {
        return answer;
    }
    let status = answer.status();
    let text = axum::body::to_bytes(answer.into_body(), 4096).await;
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ApiError::rejected(status, text.unwrap_or_default()).into_response()
}
