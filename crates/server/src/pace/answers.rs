//! Answers over HTTP/2 that their client does not take. Each stream has a window
//! of its own: a client that leaves it empty holds the answer's memory, while it
//! answers the connection's pings. Such a connection is closed.

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

/// The most bytes that are handed over at once. What was handed over can't be
/// watched any more.
const PIECE: usize = 16 << 10;
/// How often answers are looked at, in parts of a client's patience.
const LOOKS: u32 = 8;

/// The answers of one connection that are under way.
pub(crate) struct Answers {
    most: Duration,
    all: Mutex<Vec<Weak<Mutex<Pace>>>>,
    /// There is one to watch.
    begun: Notify,
}

impl Answers {
    /// `most` is how long a client may keep us waiting.
    pub(crate) fn new(most: Duration) -> Arc<Self> {
        Arc::new(Self {
            most,
            all: Mutex::default(),
            begun: Notify::new(),
        })
    }

    /// Watches how an answer is taken.
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

    /// Returns once a client keeps us waiting for too long.
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
                // A notification that came in between is kept for this call.
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

/// How an answer is taken.
struct Pace {
    patience: Patience,
    /// Since when the client has to make room, and how many bytes it was given
    /// then. None while we are not ready ourselves.
    waits: Option<(Instant, usize)>,
}

impl Pace {
    fn is_over(&self) -> bool {
        self.waits
            .is_some_and(|(since, _)| since.elapsed() > self.patience.left)
    }
}

/// The body of an answer. It is polled when its client has room.
struct Watched {
    body: Body,
    /// What is left of a frame.
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
