//! Following a run to its end.

use std::{
    collections::VecDeque,
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use finetuner_protocol::{Event, MetricPoint, Status, StatusInfo};
use futures_util::{Stream, StreamExt, stream};

use super::run::Run;
use crate::{
    error::{Error, Result},
    transport::Outage,
};

/// First and longest pause between two polls. A change resets the pause to the
/// first.
const POLL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

impl Run {
    /// Waits until the run has finished.
    ///
    /// The future may be dropped at any time. An outage of the backend is tolerated
    /// up to [`Builder::outage_limit`](crate::Builder::outage_limit).
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// run.wait().await?;
    /// run.save_model("clip-model").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_run_failed`] if the run fails.
    pub async fn wait(&self) -> Result<StatusInfo> {
        self.watch().await
    }

    /// Follows the run.
    ///
    /// Awaiting the returned value gives the final status; as a stream, it gives
    /// the updates until then. See [`Watch`].
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// use finetuner::Update;
    ///
    /// let mut watch = run.watch();
    /// while let Some(update) = watch.next().await {
    ///     if let Update::Progress(progress) = update? {
    ///         println!("step {} of {}", progress.step, progress.steps);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone())
    }
}

/// An update of a run, from [`Watch`].
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// use finetuner::Update;
///
/// let mut watch = run.watch();
/// while let Some(update) = watch.next().await {
///     match update? {
///         Update::Status(status) => println!("{status}"),
///         Update::Point(point) => println!("{:?}", point.event),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Update {
    /// The status changed.
    Status(StatusInfo),
    /// The training advanced.
    Progress(RunProgress),
    /// A new metric point.
    Point(MetricPoint),
}

/// Progress of a training.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// use finetuner::Update;
///
/// let mut watch = run.watch();
/// while let Some(update) = watch.next().await {
///     if let Update::Progress(progress) = update? {
///         println!("{:.0} %", 100.0 * progress.step as f64 / progress.steps as f64);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RunProgress {
    /// Completed steps, over all epochs.
    pub step: u64,
    /// Steps in total, over all epochs.
    pub steps: u64,
    /// Current epoch, counted from 1.
    pub epoch: u64,
    /// Number of epochs.
    pub epochs: u64,
}

impl RunProgress {
    /// Creates a progress value, for tests of code that displays it.
    #[must_use]
    pub fn new(step: u64, steps: u64, epoch: u64, epochs: u64) -> Self {
        Self {
            step,
            steps,
            epoch,
            epochs,
        }
    }
}

/// A run that is followed, from [`Run::watch`].
///
/// Awaiting it gives the final status; as a [`Stream`], it gives the updates until
/// then. Dropping it does not stop the run.
///
/// ```no_run
/// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
/// use finetuner::Update;
///
/// let mut watch = run.watch();
/// while let Some(update) = watch.next().await {
///     match update? {
///         Update::Progress(p) => println!("step {} of {}", p.step, p.steps),
///         Update::Status(status) => println!("{status}"),
///         _ => {}
///     }
/// }
/// // Or wait for the end only, with an error if the run fails:
/// run.watch().await?;
/// # Ok(())
/// # }
/// ```
///
/// Progress and points require a backend that keeps the history of runs; others
/// give only changes of the status. The stream ends after the final status.
///
/// An outage of the backend (a restart or a network failure) is tolerated up to
/// [`Builder::outage_limit`](crate::Builder::outage_limit). Any other error ends the
/// stream.
///
/// # Cancel safety
/// [`Watch::next`] may be dropped before it is ready, as in `tokio::select!`: no
/// update is lost.
#[must_use = "a run is followed when it is awaited or read"]
pub struct Watch {
    run: Run,
    updates: Pin<Box<dyn Stream<Item = Result<Update>> + Send>>,
}

impl Watch {
    pub(crate) fn new(run: Run) -> Self {
        // `Outage` decides about retries, not the transport.
        let run = run.with_calls_made_once();
        let looker = Looker {
            outage: run.transport.outage(),
            run: run.clone(),
            ready: VecDeque::new(),
            last: None,
            seen: None,
            keeps_history: true,
            pause: None,
            ended: false,
        };
        let updates = stream::unfold(looker, |mut looker| async {
            let update = looker.next().await?;
            looker.ended |= update.is_err();
            Some((update, looker))
        });
        Self {
            run,
            updates: Box::pin(updates.fuse()),
        }
    }

    /// Returns the next update; `None` after the final status.
    ///
    /// ```no_run
    /// # async fn example(run: finetuner::Run) -> finetuner::Result<()> {
    /// let mut watch = run.watch();
    /// let first = watch.next().await.transpose()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Update>> {
        self.updates.next().await
    }

    async fn end(self) -> Result<StatusInfo> {
        let mut pause = POLL.0;
        let mut outage = self.run.transport.outage();
        loop {
            let status = match self.run.status().await {
                Ok(status) => status,
                Err(error) => {
                    outage.wait(error).await?;
                    continue;
                }
            };
            outage.over();
            match status.status {
                Status::Finished => return Ok(status),
                Status::Failed => {
                    return Err(Error::run_failed(self.run.name(), &status.details));
                }
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(POLL.1);
        }
    }
}

impl Stream for Watch {
    type Item = Result<Update>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.updates.poll_next_unpin(context)
    }
}

impl IntoFuture for Watch {
    type Output = Result<StatusInfo>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.end())
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

struct Looker {
    run: Run,
    outage: Outage,
    ready: VecDeque<Update>,
    last: Option<StatusInfo>,
    /// Number of the last point that was returned.
    seen: Option<u64>,
    keeps_history: bool,
    /// Pause before the next poll; `None` before the first.
    pause: Option<Duration>,
    ended: bool,
}

impl Looker {
    async fn next(&mut self) -> Option<Result<Update>> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Some(Ok(update));
            }
            if self.ended {
                return None;
            }
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            match self.look().await {
                Ok(()) => self.outage.over(),
                Err(error) => match self.outage.wait(error).await {
                    Ok(()) => {
                        self.pause = None;
                        continue;
                    }
                    Err(error) => return Some(Err(error)),
                },
            }
            self.pause = Some(match self.pause {
                Some(pause) if self.ready.is_empty() => (pause * 2).min(POLL.1),
                _ => POLL.0,
            });
        }
    }

    /// Fetches the status before the points, so that no point is missed if the run
    /// ends in between.
    async fn look(&mut self) -> Result<()> {
        let status = self.run.status().await?;
        if self.keeps_history {
            match self.run.metric_history(self.seen).await {
                Ok(points) => points.into_iter().for_each(|point| self.take(point)),
                Err(error) if error.is_unsupported() => self.keeps_history = false,
                Err(error) => return Err(error),
            }
        }
        self.ended = status.status.is_final();
        if self.last.as_ref() != Some(&status) {
            self.last = Some(status.clone());
            self.ready.push_back(Update::Status(status));
        }
        Ok(())
    }

    fn take(&mut self, point: MetricPoint) {
        self.seen = Some(point.number);
        if let Event::Step {
            epoch,
            epochs,
            step,
            steps,
            ..
        } = &point.event
        {
            let (epoch, epochs, step, steps) = (*epoch, *epochs, *step, *steps);
            // The backend may return any number.
            let before = epoch.saturating_sub(1).saturating_mul(steps);
            self.ready.push_back(Update::Progress(RunProgress {
                step: before.saturating_add(step),
                steps: epochs.saturating_mul(steps),
                epoch,
                epochs,
            }));
        }
        self.ready.push_back(Update::Point(point));
    }
}
