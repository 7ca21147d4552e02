//! Blocking calls for programs without `async`.
//!
//! [`Wait::wait`] works on everything that can be awaited, and
//! [`WaitIter::wait_iter`] on every stream. There are no separate blocking types.
//!
//! ```no_run
//! use finetuner::{Finetuner, blocking::{Wait, WaitIter}};
//!
//! # fn main() -> finetuner::Result<()> {
//! let finetuner = Finetuner::login().wait()?;
//! let run = finetuner.fit("clip-base-en", "train").epochs(5).wait()?;
//! for line in run.stream_logs().wait_iter() {
//!     println!("{}", line?);
//! }
//! println!("{}", run.status().wait()?);
//! # Ok(())
//! # }
//! ```
//!
//! The calls run on a thread of this crate. They may therefore also be made inside
//! another async runtime, where they block the calling thread.

use std::{future::IntoFuture, pin::Pin, sync::OnceLock, thread};

use futures_util::{Stream, StreamExt};
use tokio::runtime::{Builder, Handle, Runtime};

/// Blocking wait for anything that can be awaited.
///
/// ```no_run
/// # fn example() -> finetuner::Result<()> {
/// use finetuner::{Finetuner, blocking::Wait};
///
/// let finetuner = Finetuner::login().wait()?;
/// # Ok(())
/// # }
/// ```
pub trait Wait: IntoFuture<IntoFuture: Send, Output: Send> + Send + Sized {
    /// Blocks the current thread until the result is available.
    ///
    /// ```no_run
    /// # fn example() -> finetuner::Result<()> {
    /// use finetuner::{Finetuner, blocking::Wait};
    ///
    /// let user = Finetuner::login().wait()?.whoami().wait()?;
    /// # Ok(())
    /// # }
    /// ```
    fn wait(self) -> Self::Output {
        let future = self.into_future();
        // A runtime can't be entered from within another one, so a fresh thread
        // enters it.
        thread::scope(|scope| {
            let done = scope.spawn(|| runtime().block_on(future)).join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl<T: IntoFuture<IntoFuture: Send, Output: Send> + Send> Wait for T {}

/// Blocking iteration over the items of a stream.
///
/// ```no_run
/// # fn example() -> finetuner::Result<()> {
/// use finetuner::{Finetuner, blocking::{Wait, WaitIter}};
///
/// let run = Finetuner::login().wait()?.get_run("clip-fashion-1").wait()?;
/// for line in run.stream_logs().wait_iter() {
///     println!("{}", line?);
/// }
/// # Ok(())
/// # }
/// ```
pub trait WaitIter: Stream<Item: Send> + Send + Sized + 'static {
    /// Returns an iterator that blocks until the next item is available.
    ///
    /// ```no_run
    /// # fn example() -> finetuner::Result<()> {
    /// use finetuner::{Finetuner, blocking::{Wait, WaitIter}};
    ///
    /// let run = Finetuner::login().wait()?.get_run("clip-fashion-1").wait()?;
    /// let lines = run.stream_logs().wait_iter().count();
    /// # Ok(())
    /// # }
    /// ```
    fn wait_iter(self) -> Iter<Self::Item> {
        Iter(Box::pin(self))
    }
}

impl<T: Stream<Item: Send> + Send + 'static> WaitIter for T {}

/// Blocking iterator over a stream, from [`WaitIter::wait_iter`].
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::blocking::WaitIter;
///
/// let mut lines = finetuner.get_run("clip-fashion-1").await?.stream_logs().wait_iter();
/// let first = lines.next();
/// # Ok(())
/// # }
/// ```
pub struct Iter<T>(Pin<Box<dyn Stream<Item = T> + Send>>);

impl<T: Send> Iterator for Iter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next().wait()
    }
}

impl<T> std::fmt::Debug for Iter<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

/// Returns the runtime of all blocking calls. It lives as long as the program, so
/// connections stay open between calls.
fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            let built = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("finetuner")
                .enable_all()
                .build();
            // No program can continue without threads or file descriptors.
            #[allow(clippy::expect_used)]
            built.expect("a thread for network calls can be started")
        })
        .handle()
}
