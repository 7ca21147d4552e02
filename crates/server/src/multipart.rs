//! Forms that come in parts. The framework keeps the head of a part in memory until
//! all of it is there, so its bytes are counted here.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartRejection},
    },
};
use futures_util::Stream;

use crate::error::{ApiError, Result};

/// Bytes of a part's head.
const MAX_HEAD: usize = 64 << 10;
/// Bytes after which the framework has to look at what it has.
const BURST: usize = 256 << 10;

/// A form whose parts are read one after the other, each to its end.
pub(crate) struct Form {
    parts: Multipart,
    count: Arc<Mutex<Count>>,
}

/// Bytes of a form's body that were read.
#[derive(Default)]
struct Count {
    /// Bytes of the current head; none while the content of a part is read.
    head: Option<usize>,
    /// Bytes since the framework last looked at what it has.
    burst: usize,
    /// Whether a head was too long.
    is_over: bool,
}

fn lock(count: &Mutex<Count>) -> MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = MultipartRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, MultipartRejection> {
        let count = Arc::<Mutex<Count>>::default();
        let request = request.map(|body| {
            Body::from_stream(Counted {
                body: body.into_data_stream(),
                count: Arc::clone(&count),
            })
        });
        let parts = Multipart::from_request(request, state).await?;
        Ok(Self { parts, count })
    }
}

impl Form {
    /// Returns the next part; none at the end of the form.
    pub(crate) async fn next_field(&mut self) -> Result<Option<Field<'_>>> {
        lock(&self.count).head = Some(0);
        let field = self.parts.next_field().await;
        let mut count = lock(&self.count);
        count.head = None;
        field.map_err(|error| match count.is_over {
            true => ApiError::too_large(format!(
                "the head of a part of the form has more than {} KiB: use fewer headers and \
                 shorter names",
                MAX_HEAD >> 10
            )),
            false => ApiError::bad_request(format!("the form broke off: send it again ({error})")),
        })
    }
}

/// The body of a form.
struct Counted {
    body: BodyDataStream,
    count: Arc<Mutex<Count>>,
}

impl Stream for Counted {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut count = lock(&this.count);
        // The framework reads until it has to wait, and only then looks for the end of
        // the head.
        if count.burst >= BURST {
            count.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if count.head.is_some_and(|bytes| bytes > MAX_HEAD) {
            count.is_over = true;
            let error = std::io::Error::other("the head of a part is too long");
            return Poll::Ready(Some(Err(axum::Error::new(error))));
        }
        let read = Pin::new(&mut this.body).poll_next(cx);
        match &read {
            Poll::Ready(Some(Ok(bytes))) => {
                count.burst += bytes.len();
                if let Some(head) = &mut count.head {
                    *head += bytes.len();
                    // It may contain the end of the head and much of the content.
                    if *head > MAX_HEAD {
                        count.burst = BURST;
                    }
                }
            }
            Poll::Pending => count.burst = 0,
            Poll::Ready(_) => {}
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, header};
    use futures_util::stream;

    use super::*;

    /// A form in chunks that are all there at once.
    async fn form(chunks: Vec<Vec<u8>>) -> Form {
        let chunks = chunks
            .into_iter()
            .map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
        let request = Request::builder()
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=x")
            .body(Body::from_stream(stream::iter(chunks)))
            .unwrap();
        Form::from_request(request, &()).await.unwrap()
    }

    const HEAD: &str = "--x\r\ncontent-disposition: form-data; name=\"file\"\r\n";

    #[tokio::test]
    async fn contents_are_of_any_length_and_heads_are_not() {
        let mut chunks = vec![format!("{HEAD}\r\n").into_bytes()];
        chunks.extend((0..30).map(|_| vec![b'a'; 50 << 10]));
        chunks.push(format!("\r\n{HEAD}").into_bytes());
        chunks.extend((0..30).map(|_| b"a: b\r\n".repeat(1 << 10)));
        chunks.push(b"\r\nb\r\n--x--\r\n".to_vec());
        let mut form = form(chunks).await;
        let file = form.next_field().await.unwrap().unwrap();
        assert_eq!(file.bytes().await.unwrap().len(), 30 * (50 << 10));
        let error = form.next_field().await.err().unwrap();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(error.message().contains("64 KiB"), "{}", error.message());
    }

    #[tokio::test]
    async fn a_head_may_come_with_much_content() {
        let mut whole = format!("{HEAD}\r\n").into_bytes();
        whole.extend(vec![b'a'; 3 << 19]);
        whole.extend(b"\r\n--x--\r\n");
        // In one piece, and in many.
        for size in [usize::MAX, 1000] {
            let mut form = form(whole.chunks(size).map(<[u8]>::to_vec).collect()).await;
            let file = form.next_field().await.unwrap().unwrap();
            assert_eq!(file.bytes().await.unwrap().len(), 3 << 19);
            assert!(form.next_field().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_form_that_breaks_off_is_refused() {
        let mut form = form(vec![HEAD.as_bytes().to_vec()]).await;
        let error = form.next_field().await.err().unwrap();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }
}
