//! The server itself: its name, the OpenAPI description, readiness, and metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Redirect, Response},
};

use crate::{
    app::App,
    error::{ApiError, Result},
};

/// Time limit for the database's answer, after which the server counts as not
/// ready.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers at the root: browsers are redirected to the console, programs get the
/// server's name.
pub(crate) async fn front(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    match accepts.is_some_and(|kinds| kinds.contains("text/html")) {
        true => Redirect::to("/console/").into_response(),
        false => concat!("finetuner-server ", env!("CARGO_PKG_VERSION"), "\n").into_response(),
    }
}

/// OpenAPI description of the API.
const OPENAPI: &str = include_str!("openapi.json");

pub(crate) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Whether the server is ready to serve (`/readyz`).
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<String> {
    if app.is_stopping() {
        return Err(ApiError::unavailable("the server is stopping"));
    }
    let look = async || {
        let ready = tokio::time::timeout(READY_TIMEOUT, app.database.is_ready());
        let ready = ready.await.map_err(|_| "no answer in time".to_owned());
        Ok::<_, ApiError>(ready.and_then(|ready| ready.map_err(|e| e.to_string())))
    };
    let ready = app.readiness.get(look).await?;
    ready.map_err(|e| ApiError::unavailable(format!("the database does not answer: {e}")))?;
    match app.queue.problem() {
        Some(problem) => Err(ApiError::unavailable(problem)),
        // Clients and workers are served even if the engine does not answer.
        None => Ok(match app.queue.note() {
            Some(note) => format!("ok\n{note}\n"),
            None => "ok\n".to_owned(),
        }),
    }
}

pub(crate) async fn counters(State(app): State<Arc<App>>) -> Result<Response> {
    let runs = app.run_counts.get(async || app.database.count_runs().await);
    let text = app.counters.text(runs.await?);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
