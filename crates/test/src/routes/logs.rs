//! A run's log as text and as server-sent events.

use std::{convert::Infallible, fmt::Write, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::IntoResponse,
};
use futures_util::stream;

use crate::{
    answer::Result,
    record::RunRecord,
    state::{Shared, State as Backend},
};

pub(super) async fn text(
    State(shared): State<Arc<Shared>>,
    Path((experiment, run)): Path<(String, String)>,
) -> Result<impl IntoResponse> {
    let text = shared.look(|state| -> Result<String> {
        let run = state.submitted_run(&experiment, &run)?;
        Ok(run.lines(0).map(|(_, lines)| lines + "\n").collect())
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text))
}

/// Streams the lines of the log until the run has ended. `Last-Event-ID` resumes after
/// the line with that id.
pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Path((experiment, run)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<impl IntoResponse> {
    shared.look(|state| state.submitted_run(&experiment, &run).map(drop))?;
    let seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<usize>().ok());
    let first = seen.map_or(0, |id| id.saturating_add(1));
    let messages = stream::unfold(first, move |next| {
        let (shared, experiment, run) = (Arc::clone(&shared), experiment.clone(), run.clone());
        async move {
            let new = |state: &Backend| match state.submitted_run(&experiment, &run) {
                Ok(run) => messages(run, next),
                // A deleted run has no more lines.
                Err(_) => Some(None),
            };
            let (text, next) = shared.until(new).await?;
            Some((Ok::<_, Infallible>(text), next))
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((kind, Body::from_stream(messages)))
}

/// Returns the messages from an event on and the number of the next event. The outer
/// `None` means that there are none yet, the inner that the log has ended.
fn messages(run: &RunRecord, from: usize) -> Option<Option<(String, usize)>> {
    let mut text = String::new();
    for (number, lines) in run.lines(from) {
        let _ = writeln!(text, "id: {number}");
        for line in lines.lines() {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
    }
    match text.is_empty() {
        false => Some(Some((text, run.events.len()))),
        true => run.status.is_final().then_some(None),
    }
}
