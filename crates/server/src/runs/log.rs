//! A run's log, as text and as a stream of server-sent events.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as Message, KeepAlive},
    },
};
use finetuner_protocol::Event;
use futures_util::{Stream, stream};

use crate::{
    app::App,
    changes::Follow,
    database::{Identity, StoredEvent},
    error::Result,
};

/// Interval of comments on a log stream without lines. Proxies close silent
/// streams after a minute, some after 15 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Number of events that are read from the database at once.
const CHUNK: usize = 500;

/// Kinds of events that contain log lines.
const LINES: Option<&[&str]> = Some(&["log"]);

/// Returns the whole log of a run.
pub(crate) async fn log_text(app: &App, run_id: i64) -> Result<String> {
    let mut text = String::new();
    let mut next = 0;
    loop {
        let events = app.database.events(run_id, LINES, next, CHUNK).await?;
        let Some(last) = events.last() else { break };
        next = last.number + 1;
        for line in events.iter().flat_map(lines) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// Returns an answer of server-sent events that proxies forward at once. Comments
/// keep an idle stream open.
pub(crate) fn as_it_comes(
    messages: impl Stream<Item = rusqlite::Result<Message>> + Send + 'static,
) -> Response {
    let messages = Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    ([("x-accel-buffering", "no")], messages).into_response()
}

/// Streams the lines of a run's log after the one that `Last-Event-ID` names, and
/// new ones as they are written. Ends with the run, or when the user loses access
/// to the project. An error of the database breaks the connection, so that clients
/// don't take the lines so far for the whole log.
pub(crate) fn follow(
    app: Arc<App>,
    user: Identity,
    run_id: i64,
    headers: &HeaderMap,
) -> impl Stream<Item = rusqlite::Result<Message>> + use<> {
    let last_seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let follower = Follower {
        changes: app.changes.subscribe(run_id),
        app,
        user,
        run_id,
        next: last_seen.map_or(0, |id| id.saturating_add(1)),
        ready: VecDeque::new(),
    };
    stream::try_unfold(follower, |mut follower| async move {
        let message = follower.next().await.inspect_err(|error| {
            tracing::warn!("A log stream broke off because of the database: {error}");
        })?;
        Ok::<_, rusqlite::Error>(message.map(|message| (message, follower)))
    })
}

/// State of a client that follows a run's log.
struct Follower {
    app: Arc<App>,
    user: Identity,
    changes: Follow,
    run_id: i64,
    next: u64,
    ready: VecDeque<Message>,
}

impl Follower {
    /// Returns the next line. `None` once the run has ended and all lines were
    /// sent, or when the user has lost access.
    async fn next(&mut self) -> rusqlite::Result<Option<Message>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            if !self.app.database.has_access(&self.user).await? {
                return Ok(None);
            }
            // Read the status before the events: lines are written before the run
            // ends, so none is missed.
            let Some(run) = self.app.database.run_by_id(self.run_id).await? else {
                return Ok(None);
            };
            let events = self
                .app
                .database
                .events(self.run_id, LINES, self.next, CHUNK)
                .await?;
            if let Some(last) = events.last() {
                self.next = last.number + 1;
                // One message per event, so that a connection never breaks
                // between two lines with the same id.
                let messages = events.iter().filter_map(|event| {
                    let lines = lines(event);
                    let message = Message::default().id(event.number.to_string());
                    (!lines.is_empty()).then(|| message.data(lines.join("\n")))
                });
                self.ready.extend(messages);
            } else if run.status().is_final() || self.changes.changed().await.is_none() {
                return Ok(None);
            }
        }
    }
}

/// Returns the lines of an event: `[HH:MM:SS] LEVEL    message`.
fn lines(stored: &StoredEvent) -> Vec<String> {
    let Event::Log { level, message } = &stored.event else {
        return Vec::new();
    };
    let seconds = stored.at / 1000;
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    message
        .lines()
        .map(|line| format!("[{h:02}:{m:02}:{s:02}] {level:<8} {line}"))
        .collect()
}
