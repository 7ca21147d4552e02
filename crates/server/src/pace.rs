//! Protection against slow clients, which would hold memory and a connection
//! forever: request bodies that arrive too slowly, and answers that are not
//! read.
//!
//! A client may keep the server waiting for a minute in total. Each KiB that
//! moves gives one second back. A slow line can therefore continue, and a
//! client that sends one byte a minute can't.
//!
//! Over HTTP/1.1, a client that does not read blocks its connection. Over
//! HTTP/2, a client can block one stream while the connection stays active;
//! [`answers`] detects that.

pub(crate) mod answers;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody},
    http::{Request, header},
};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// Time for which a client may keep the server waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Rate in bytes a second at which a client never uses up its time.
const LEAST_RATE: f64 = 1024.0;

/// Remaining time for which a client may keep the server waiting.
#[derive(Clone, Copy, Debug)]
struct Patience {
    most: Duration,
    left: Duration,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self { most, left: most }
    }

    /// Accounts for `bytes` that moved after a wait.
    fn moved(&mut self, waited: Duration, bytes: usize) {
        let earned = Duration::from_secs_f64(bytes as f64 / LEAST_RATE);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.most);
    }
}

/// Aborts the body of a request that arrives too slowly. Only time spent
/// waiting for the client counts.
pub(crate) async fn paced(request: Request<Body>) -> Request<Body> {
    // With `Expect: 100-continue`, the client sends nothing until the server starts
    // to read.
    let is_sent = !request.headers().contains_key(header::EXPECT);
    request.map(|body| paced_body(body, PATIENCE, is_sent))
}

fn paced_body(body: Body, most: Duration, is_sent: bool) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let rest = Rest {
        body: Some(body.into_data_stream()),
        is_sent,
    };
    Body::from_stream(stream::try_unfold(
        (rest, Patience::new(most)),
        |(mut rest, mut patience)| async move {
            let begun = Instant::now();
            match tokio::time::timeout(patience.left, rest.next()).await {
                Err(_) => {
                    rest.give_up();
                    let reason = "the request body arrived too slowly: send it again";
                    Err(axum::Error::new(slow(reason)))
                }
                Ok(None) => Ok(None),
                Ok(Some(Err(error))) => Err(error),
                Ok(Some(Ok(bytes))) => {
                    patience.moved(begun.elapsed(), bytes.len());
                    Ok(Some((bytes, (rest, patience))))
                }
            }
        },
    ))
}

/// Limits on draining a refused body: bytes and time.
const DRAINED: (usize, Duration) = (16 << 20, Duration::from_secs(10));

/// The unread rest of a body.
///
/// If it is dropped before the end, the request was refused. The rest is then
/// read and discarded, because closing the connection while the client sends
/// would lose the answer with the reason.
struct Rest {
    /// `None` at the end.
    body: Option<BodyDataStream>,
    /// Whether the client is sending it or may have started to.
    is_sent: bool,
}

impl Rest {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        self.is_sent = true;
        let next = self.body.as_mut()?.next().await;
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        next
    }

    /// Stops reading.
    fn give_up(&mut self) {
        self.body = None;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let (Some(mut body), true) = (self.body.take(), self.is_sent) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (most, time) = DRAINED;
        runtime.spawn(tokio::time::timeout(time, async move {
            let mut left = most;
            while let Some(Ok(bytes)) = body.next().await {
                match left.checked_sub(bytes.len()) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        }));
    }
}

fn slow(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// A connection whose writes fail when the other side reads too slowly.
pub(crate) struct Paced<T> {
    inner: T,
    patience: Patience,
    /// Start of the wait of a blocked write, and its deadline.
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<T> Paced<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self::with_patience(inner, PATIENCE)
    }

    fn with_patience(inner: T, most: Duration) -> Self {
        Self {
            inner,
            patience: Patience::new(most),
            blocked: None,
        }
    }

    /// Accounts for a write that moved bytes, or checks the deadline of one that
    /// waits.
    fn watch(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                let waited = self.blocked.take().map(|(since, _)| since.elapsed());
                self.patience.moved(waited.unwrap_or_default(), bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                let left = self.patience.left;
                let (_, timer) = self
                    .blocked
                    .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(slow("the client reads too slowly")))
            }
        }
    }

    fn watch_end(
        &mut self,
        done: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.watch(done.map_ok(|()| 0), cx).map_ok(drop)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch_end(done, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch_end(done, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    #[test]
    fn slow_connections_continue_and_trickling_ones_are_ended() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(PATIENCE);
        for _ in 0..10_000 {
            patience.moved(second, 2048);
        }
        assert_eq!(
            patience.left, PATIENCE,
            "2 KiB a second may continue without limit"
        );
        let mut seconds = 0;
        while patience.left > 10 * second {
            patience.moved(10 * second, 1);
            seconds += 10;
        }
        assert_eq!(seconds, 60, "a byte every ten seconds may not");
    }

    #[tokio::test]
    async fn a_stalled_body_is_ended() {
        let first = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"{")) });
        let body = Body::from_stream(first.chain(stream::pending()));
        let all = axum::body::to_bytes(paced_body(body, MOMENT, true), 100);
        let error = all.await.unwrap_err();
        assert!(error.to_string().contains("too slowly"), "{error}");
        let whole = paced_body(Body::from("whole"), MOMENT, true);
        assert_eq!(axum::body::to_bytes(whole, 100).await.unwrap(), "whole");
    }

    /// A body that counts the pieces read.
    fn counted(pieces: usize) -> (Body, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let pieces = stream::iter(0..pieces).map(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, io::Error>(Bytes::from_static(b"piece"))
        });
        (Body::from_stream(pieces), read)
    }

    #[tokio::test]
    async fn a_refused_body_is_drained_if_its_client_has_begun_to_send() {
        // Refused before the client may send: reading would allow it to.
        let (body, read) = counted(5);
        drop(paced_body(body, PATIENCE, false));
        tokio::task::yield_now().await;
        assert_eq!(read.load(Ordering::SeqCst), 0);
        // Refused after a part was read, or sent without `Expect`.
        for (is_sent, pieces_read) in [(false, 1), (true, 0)] {
            let (body, read) = counted(5);
            let mut body = paced_body(body, PATIENCE, is_sent).into_data_stream();
            for _ in 0..pieces_read {
                body.next().await.unwrap().unwrap();
            }
            drop(body);
            while read.load(Ordering::SeqCst) < 5 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_write_without_a_reader_fails() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut ours = Paced::with_patience(ours, MOMENT);
        ours.write_all(&[7; 16]).await.unwrap();
        let error = ours.write_all(&[7; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // A client that reads receives everything.
        let (ours, mut theirs) = tokio::io::duplex(16);
        let writing = tokio::spawn(async move { Paced::new(ours).write_all(&[7; 4096]).await });
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(read.len(), 4096);
    }
}
