//! Detection of answers over HTTP/2 that a client does not read.
//!
//! Each stream has its own flow-control window. A client that does not enlarge
//! it makes the server hold the answer in memory, although it answers the
//! connection's pings. Such a connection is closed.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

use super::Patience;

/// Bytes handed to hyper at once. What hyper has can't be observed any more.
const PIECE: usize = 16 << 10;
/// Number of checks within a client's time.
const LOOKS: u32 = 8;

/// The unfinished answers of one connection.
pub(crate) struct Answers {
    most: Duration,
    all: Mutex<Vec<Weak<Mutex<Pace>>>>,
    /// Notified when an answer starts.
    begun: Notify,
}

impl Answers {
    /// Creates the list. `most` is the time for which a client may keep the server
    /// waiting.
    pub(crate) fn new(most: Duration) -> Arc<Self> {
        Arc::new(Self {
            most,
            all: Mutex::default(),
            begun: Notify::new(),
        })
    }

    /// Wraps the body of an answer to observe how fast it is read.
    pub(crate) fn watch(&self, body: Body) -> Body {
        let pace = Arc::new(Mutex::new(Pace {
            patience: Patience::new(self.most),
            waits: Some((Instant::now(), 0)),
        }));
        let mut all = self.all();
        all.retain(|pace| pace.strong_count() > 0);
        all.push(Arc::downgrade(&pace));
        self.begun.notify_one();
        Body::new(Watched {
            body,
            rest: Bytes::new(),
            pace,
        })
    }

    /// Returns when a client has kept the server waiting for too long.
    pub(crate) async fn stalled(&self) {
        loop {
            let count = {
                let all = self.all();
                let paces = || all.iter().filter_map(Weak::upgrade);
                if paces().any(|pace| locked(&pace).is_over()) {
                    return;
                }
                paces().count()
            };
            match count {
                // `notify_one` stores a notification that arrives in between.
                0 => self.begun.notified().await,
                _ => tokio::time::sleep(self.most / LOOKS).await,
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Mutex<Pace>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn locked(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pace at which an answer is read.
struct Pace {
    patience: Patience,
    /// Since when the client must make room, and the bytes handed over before.
    /// `None` while the server itself is not ready.
    waits: Option<(Instant, usize)>,
}

impl Pace {
    fn is_over(&self) -> bool {
        self.waits
            .is_some_and(|(since, _)| since.elapsed() > self.patience.left)
    }
}

/// The body of an answer. hyper polls it when its stream has room.
struct Watched {
    body: Body,
    /// Remainder of the current frame.
    rest: Bytes,
    pace: Arc<Mutex<Pace>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        {
            let mut pace = locked(&self.pace);
            if let Some((since, bytes)) = pace.waits.take() {
                pace.patience.moved(since.elapsed(), bytes);
            }
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        locked(&self.pace).waits = Some((Instant::now(), length));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
