//! Lists: as a whole, page by page, or as a stream.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use finetuner_protocol::Page;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};

/// Default and maximum size of a page.
const PAGE_SIZE: u64 = 100;

type FetchPage<T> =
    Arc<dyn Fn(u64, u64) -> Pin<Box<dyn Future<Output = Result<Page<T>>> + Send>> + Send + Sync>;

/// Stream of the items of a list, from [`List::stream`].
///
/// It implements [`Stream`]; [`ListStream::next`] needs no import.
///
/// # Cancel safety
/// [`ListStream::next`] may be dropped before it is ready, as in
/// `tokio::select!`: no item is lost.
#[must_use = "a list is fetched as it is read"]
pub struct ListStream<T>(Pin<Box<dyn Stream<Item = Result<T>> + Send>>);

impl<T> ListStream<T> {
    pub(crate) fn new(items: impl Stream<Item = Result<T>> + Send + 'static) -> Self {
        Self(Box::pin(items.fuse()))
    }

    /// Returns the next item; `None` after the last one or after an error.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.0.next().await
    }
}

impl<T> Stream for ListStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl<T> std::fmt::Debug for ListStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListStream").finish_non_exhaustive()
    }
}

/// A list at the backend. Awaiting it fetches all items.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// let all = finetuner.list_runs().await?;
/// let second_page = finetuner.list_experiments().page(2, 10).await?;
/// println!("{} of {}", second_page.items.len(), second_page.total);
///
/// // Fetch pages as they are needed:
/// let mut runs = finetuner.list_runs().stream();
/// while let Some(run) = runs.next().await {
///     println!("{}", run?.name());
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a list is fetched when it is awaited"]
pub struct List<T> {
    fetch: FetchPage<T>,
}

impl<T: Send + 'static> List<T> {
    pub(crate) fn new<F>(fetch: impl Fn(u64, u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Page<T>>> + Send + 'static,
    {
        Self {
            fetch: Arc::new(move |page, size| Box::pin(fetch(page, size))),
        }
    }

    /// Fetches one page.
    ///
    /// Pages are counted from 1 and have `size` items, 1 to 100. A page past the end
    /// is empty.
    ///
    /// ```no_run
    /// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
    /// let page = finetuner.experiment("fashion").list_runs().page(2, 50).await?;
    /// println!("{} of {}", page.items.len(), page.total);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the call fails.
    pub async fn page(&self, page: u64, size: u64) -> Result<Page<T>> {
        (self.fetch)(page.max(1), size.clamp(1, PAGE_SIZE)).await
    }

    /// Returns a stream that fetches pages as they are needed.
    ///
    /// The first error ends the stream.
    pub fn stream(self) -> ListStream<T> {
        let pages = stream::try_unfold(Some((1, 0)), move |next| {
            let fetch = Arc::clone(&self.fetch);
            async move {
                let Some((number, before)) = next else {
                    return Ok::<_, Error>(None);
                };
                let page = fetch(number, PAGE_SIZE).await?;
                let seen = before + page.items.len() as u64;
                let is_last = page.items.is_empty() || seen >= page.total;
                let next = (!is_last).then_some((number + 1, seen));
                Ok(Some((stream::iter(page.items).map(Ok), next)))
            }
        });
        ListStream::new(pages.try_flatten())
    }
}

impl<T: Send + 'static> IntoFuture for List<T> {
    type Output = Result<Vec<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.stream().try_collect())
    }
}

impl<T> std::fmt::Debug for List<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("List").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn numbers(total: u64, calls: Arc<AtomicU64>) -> List<u64> {
        List::new(move |page, size| {
            calls.fetch_add(1, Ordering::SeqCst);
            let items = (0..total)
                .skip(((page - 1) * size) as usize)
                .take(size as usize)
                .collect();
            std::future::ready(Ok(Page::new(items, total, page, size)))
        })
    }

    #[tokio::test]
    async fn only_the_requested_pages_are_fetched() {
        for (total, pages) in [(0, 1), (99, 1), (100, 1), (101, 2), (250, 3)] {
            let calls = Arc::new(AtomicU64::new(0));
            let all = numbers(total, Arc::clone(&calls)).await.unwrap();
            assert_eq!(all, (0..total).collect::<Vec<_>>());
            assert_eq!(calls.load(Ordering::SeqCst), pages, "{total} items");
        }
        let calls = Arc::new(AtomicU64::new(0));
        let first = numbers(250, Arc::clone(&calls)).stream().next().await;
        assert_eq!(first.unwrap().unwrap(), 0);
        assert_eq!(
            calls.load(Ordering::SeqCst),
            1,
            "only the pages that are read"
        );
        let page = numbers(250, calls).page(3, 100).await.unwrap();
        assert_eq!(page.items.len(), 50);
    }
}
