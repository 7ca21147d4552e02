//! Forms that come in parts. The framework keeps the head of a part in memory until
//! all of it is there, so its bytes are counted here. The number of parts is limited too.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError, MultipartRejection},
    },
    http::StatusCode,
};
use futures_util::Stream;

use crate::error::{ApiError, Result};

/// Bytes of a part's head.
const MAX_HEAD: usize = 64 << 10;
/// Parts of a form.
const MAX_PARTS: usize = 100;
/// Bytes of a form that is kept in memory. Routes that store files have no limit for the
/// whole form.
pub(crate) const MAX_IN_MEMORY: usize = 9 << 20;
/// Bytes after which the framework has to look at what it has.
const BURST: usize = 256 << 10;

/// A form whose parts are read one after the other, each to its end.
pub(crate) struct Form {
    parts: Multipart,
    /// Parts that were read.
    read: usize,
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
        Ok(Self {
            parts,
            read: 0,
            count,
        })
    }
}

impl Form {
    /// Returns the next part; none at the end of the form.
    pub(crate) async fn next_field(&mut self) -> Result<Option<Field<'_>>> {
        lock(&self.count).head = Some(0);
        let field = self.parts.next_field().await;
        let mut count = lock(&self.count);
        count.head = None;
        if matches!(field, Ok(Some(_))) {
            self.read += 1;
            if self.read > MAX_PARTS {
                return Err(ApiError::too_large(format!(
                    "the form has more than {MAX_PARTS} parts: send fewer"
                )));
            }
        }
        field.map_err(|error| match count.is_over {
            true => ApiError::too_large(format!(
                "the head of a part of the form has more than {} KiB: use fewer headers and \
                 shorter names",
                MAX_HEAD >> 10
            )),
            false => broken(&error),
        })
    }
}

fn broken(error: &MultipartError) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(format!(
            "the form has more than {} MiB: choose a smaller file",
            MAX_IN_MEMORY >> 20
        )),
        _ => ApiError::bad_request(format!("the form broke off: send it again ({error})")),
    }
}

/// Reads a part with at most `limit` bytes.
///
/// The rest of a longer one is read and dropped, because a client that is still sending
/// would not see the answer.
pub(crate) async fn content(name: &str, mut field: Field<'_>, limit: usize) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut is_over = false;
    while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
        is_over |= content.len() + bytes.len() > limit;
        match is_over {
            true => content = Vec::new(),
            false => content.extend_from_slice(&bytes),
        }
    }
    if is_over {
        let (limit, unit) = match limit >> 20 {
            0 => (limit >> 10, "KiB"),
            limit => (limit, "MiB"),
        };
        return Err(ApiError::too_large(format!(
            "`{name}` has more than {limit} {unit}: make it smaller"
        )));
    }
    Ok(content)
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
    use axum::http::header;
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
    async fn contents_are_limited_one_by_one() {
        let part = |length: usize| format!("{HEAD}\r\n{}\r\n", "a".repeat(length));
        let whole = format!(
            "{}{}{}--x--\r\n",
            part(1 << 10),
            part((1 << 10) + 1),
            part(3)
        );
        let mut form = form(whole.as_bytes().chunks(100).map(<[u8]>::to_vec).collect()).await;
        let field = form.next_field().await.unwrap().unwrap();
        let read = content("file", field, 1 << 10).await.unwrap();
        assert_eq!(read.len(), 1 << 10);
        let field = form.next_field().await.unwrap().unwrap();
        let error = content("file", field, 1 << 10).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(error.message().starts_with("`file` has more than 1 KiB"));
        // The part was read to its end.
        let field = form.next_field().await.unwrap().unwrap();
        assert_eq!(content("file", field, 3).await.unwrap(), b"aaa");
    }

    #[tokio::test]
    async fn a_form_with_many_parts_is_refused() {
        let mut whole = format!("{HEAD}\r\na\r\n").repeat(MAX_PARTS + 1);
        whole.push_str("--x--\r\n");
        let mut form = form(vec![whole.into_bytes()]).await;
        for _ in 0..MAX_PARTS {
            let field = form.next_field().await.unwrap().unwrap();
            content("file", field, 1).await.unwrap();
        }
        let error = form.next_field().await.err().unwrap();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(error.message().contains("100 parts"), "{}", error.message());
    }

    #[tokio::test]
    async fn a_form_that_breaks_off_is_refused() {
        let mut form = form(vec![HEAD.as_bytes().to_vec()]).await;
        let error = form.next_field().await.err().unwrap();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }
}
