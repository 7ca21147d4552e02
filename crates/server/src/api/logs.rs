//! A run's log, as text and as a stream of server-sent events.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, header},
    response::IntoResponse,
};

use super::auth::User;
use crate::{
    app::App,
    error::Result,
    runs::{as_it_comes, find_run, follow, log_text},
};

pub(crate) async fn logs(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
) -> Result<impl IntoResponse> {
    let run = find_run(&app, user.namespace, path).await?;
    let text = log_text(&app, run.id).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text))
}

/// Streams the lines of the log, and new ones as they are written, until the run
/// has ended. `Last-Event-ID` resumes after the line with that id.
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    User(user): User,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<impl IntoResponse> {
    let run = find_run(&app, user.namespace.clone(), path).await?;
    Ok(as_it_comes(follow(app, user, run.id, &headers)))
}
