//! Progress of uploads and downloads, as data and as a bar.

use std::sync::Arc;

/// Progress of an upload or a download.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// run.save_artifact("artifacts")
///     .on_progress(|progress| eprintln!("{} of {:?} bytes", progress.done, progress.total))
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// Number of documents, or of bytes of a model, transferred so far.
    pub done: u64,
    /// Number in total, if known.
    pub total: Option<u64>,
    /// Number of bytes transferred so far.
    pub bytes: u64,
}

impl Progress {
    /// Creates a progress value, for tests of code that displays it.
    ///
    /// ```
    /// let half = finetuner::Progress::new(5, Some(10), 4096);
    /// assert_eq!(half.total, Some(10));
    /// ```
    #[must_use]
    pub fn new(done: u64, total: Option<u64>, bytes: u64) -> Self {
        Self { done, total, bytes }
    }
}

/// Defines the two methods for following a transfer, for a builder with a field
/// `progress`. `$what` is the thing counted, `$title` the label of the bar.
macro_rules! progress_methods {
    ($what:literal, |$self:ident| $title:expr) => {
        #[doc = concat!("Calls `watch` with the progress of the ", $what, ". It must not block.")]
        pub fn on_progress(
            mut self,
            watch: impl Fn($crate::Progress) + Send + Sync + 'static,
        ) -> Self {
            self.progress = $crate::transport::ProgressSink::new(watch);
            self
        }

        #[doc = concat!("Draws the progress of the ", $what, " on standard error, if that is a terminal.")]
        #[cfg(feature = "progress")]
        pub fn show_progress(mut self, show: bool) -> Self {
            let $self = &self;
            let title = $title;
            self.progress = match show {
                true => $crate::transport::ProgressSink::bar(title),
                false => $crate::transport::ProgressSink::default(),
            };
            self
        }
    };
}

pub(crate) use progress_methods;

/// Receiver of progress, called from the thread that does the work. The numbers
/// start over after a broken connection.
#[derive(Clone, Default)]
pub(crate) struct ProgressSink(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl ProgressSink {
    pub(crate) fn new(watch: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    pub(crate) fn report(&self, done: u64, total: impl Into<Option<u64>>, bytes: u64) {
        if let Some(watch) = &self.0 {
            watch(Progress {
                done,
                total: total.into(),
                bytes,
            });
        }
    }

    /// Draws a bar on standard error if that is a terminal.
    #[cfg(feature = "progress")]
    pub(crate) fn bar(title: String) -> Self {
        use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

        let bar = ProgressBar::new(0).with_message(title);
        if let Ok(style) =
            ProgressStyle::with_template("  {msg} {wide_bar} {pos}/{len} {eta} {elapsed} {prefix}")
        {
            bar.set_style(style.progress_chars("━━╺"));
        }
        Self::new(move |progress| {
            bar.set_length(progress.total.unwrap_or(0));
            bar.set_position(progress.done);
            bar.set_prefix(format!("• {}", HumanBytes(progress.bytes)));
            if progress.total == Some(progress.done) {
                bar.finish();
            }
        })
    }
}

impl std::fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProgressSink")
            .field(&self.0.is_some())
            .finish()
    }
}
