//! Test-controlled runs.

use std::{collections::BTreeMap, sync::Arc};

use finetuner_protocol::{
    CheckpointInfo, DocumentArray, DocumentError, Event, ExamplesInfo, Level, MetricsInfo, Status,
    time,
};

use crate::{Submission, answer::CREATED_AT, model::zip_of, record::RunRecord, state::Shared};

/// A run that the test controls, from [`TestBackend::run`].
///
/// It may be prepared before the program submits it: earlier log lines, metrics and
/// its end take effect at submission. A run that has ended does not change.
///
/// [`TestBackend::run`]: crate::TestBackend::run
#[derive(Clone)]
#[must_use = "a run does only what the test tells it"]
pub struct TestRun {
    shared: Arc<Shared>,
    experiment: String,
    name: String,
}

impl TestRun {
    pub(crate) fn new(shared: Arc<Shared>, experiment: &str, name: &str) -> Self {
        // From now on, the run waits for the test.
        shared.change(|state| {
            state.prepared(experiment, name);
        });
        Self {
            shared,
            experiment: experiment.to_owned(),
            name: name.to_owned(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut RunRecord)) -> &Self {
        self.shared.change(|state| {
            change(state.prepared(&self.experiment, &self.name));
            state.keep_results(&self.experiment, &self.name);
        });
        self
    }

    /// Starts the run: its status becomes `STARTED`.
    pub fn start(&self) -> &Self {
        self.change(|run| run.set_status(Status::Started, "Run is in progress"))
    }

    /// Writes a line to the log, at level `INFO`.
    pub fn log(&self, line: impl Into<String>) -> &Self {
        self.log_at(Level::Info, line)
    }

    /// Writes a line to the log at this level.
    pub fn log_at(&self, level: Level, line: impl Into<String>) -> &Self {
        let message = line.into();
        self.event(Event::Log { level, message })
    }

    /// Adds an event, such as a step or an epoch, to the log and the metric points.
    pub fn event(&self, event: Event) -> &Self {
        self.change(|run| run.events.push(event))
    }

    /// Adds a training step. Steps and epochs are counted from 1.
    pub fn step(&self, (epoch, epochs): (u64, u64), (step, steps): (u64, u64), loss: f64) -> &Self {
        self.event(Event::Step {
            epoch,
            epochs,
            step,
            steps,
            loss,
            mean_loss: loss,
            learning_rate: 1e-5,
        })
    }

    /// Adds the end of an epoch, counted from 1.
    pub fn epoch(
        &self,
        (epoch, epochs): (u64, u64),
        train_loss: f64,
        val_loss: Option<f64>,
    ) -> &Self {
        self.event(Event::Epoch {
            epoch,
            epochs,
            train_loss,
            val_loss,
        })
    }

    /// Sets a metric of the fine-tuned model, such as `recall_at_k`.
    pub fn metric(&self, name: impl Into<String>, value: f64) -> &Self {
        self.change(|run| {
            run.metrics.after.insert(name.into(), value);
        })
    }

    /// Sets a metric of the model before training.
    pub fn metric_before(&self, name: impl Into<String>, value: f64) -> &Self {
        self.change(|run| {
            run.metrics.before.insert(name.into(), value);
        })
    }

    /// Sets the results of example queries.
    pub fn examples(&self, examples: ExamplesInfo) -> &Self {
        self.change(|run| run.examples = examples)
    }

    /// Adds a checkpoint after this number of epochs.
    pub fn checkpoint(&self, epochs: u64) -> &Self {
        self.change(|run| {
            let number = run.checkpoints.len() as u64 + 1;
            let created_at = time::parse(CREATED_AT);
            let info = CheckpointInfo::new(number, (epochs, 0), 0, "", created_at);
            run.checkpoints.push(info);
        })
    }

    /// Sets the bytes of the artifact, which need not be a zip.
    ///
    /// The default is a model without weights.
    pub fn artifact(&self, bytes: impl Into<Vec<u8>>) -> &Self {
        self.change(|run| run.model = Some(bytes.into()))
    }

    /// Sets the files of the model.
    ///
    /// The default is a model without weights.
    pub fn model<N: AsRef<str>, B: AsRef<[u8]>>(&self, files: &[(N, B)]) -> &Self {
        // `artifact` can set names that a zip can't have.
        self.artifact(zip_of(files).unwrap_or_default())
    }

    /// Sets the documents that a synthesis run creates; none by default.
    ///
    /// # Errors
    /// If a document is too large.
    pub fn data(&self, documents: &DocumentArray) -> Result<&Self, DocumentError> {
        let bytes = documents.to_bytes()?;
        Ok(self.change(|run| run.data = Some(bytes)))
    }

    /// Finishes the run.
    pub fn finish(&self) -> &Self {
        self.change(RunRecord::finish)
    }

    /// Finishes the run with these metrics of the fine-tuned model.
    pub fn finish_with<N: Into<String>>(
        &self,
        metrics: impl IntoIterator<Item = (N, f64)>,
    ) -> &Self {
        let metrics: BTreeMap<String, f64> = metrics
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect();
        self.change(|run| {
            run.metrics.after.extend(metrics);
            run.finish();
        })
    }

    /// Fails the run with this reason.
    pub fn fail(&self, reason: impl Into<String>) -> &Self {
        let reason = reason.into();
        self.change(|run| run.set_status(Status::Failed, reason))
    }

    /// Cancels the run, as another user would.
    pub fn cancel(&self) -> &Self {
        self.fail(CANCELLED)
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared
            .change(|state| state.prepared(&self.experiment, &self.name).status.clone())
    }

    /// Returns the metrics.
    #[must_use]
    pub fn metrics(&self) -> MetricsInfo {
        self.shared
            .change(|state| state.prepared(&self.experiment, &self.name).metrics.clone())
    }

    /// Waits until the program has submitted the run.
    pub async fn submitted(&self) -> Submission {
        let find = |run: &RunRecord| run.submission.clone();
        self.until(find).await
    }

    /// Waits until the run has ended, for example because the program cancels it.
    pub async fn ended(&self) -> Status {
        let find = |run: &RunRecord| run.status.is_final().then(|| run.status.clone());
        self.until(find).await
    }

    async fn until<T>(&self, find: impl Fn(&RunRecord) -> Option<T>) -> T {
        let is_it = |run: &&RunRecord| run.experiment == self.experiment && run.name == self.name;
        self.shared
            .until(|state| state.runs.iter().find(is_it).and_then(&find))
            .await
    }
}

/// Reason in the status of a cancelled run.
pub(crate) const CANCELLED: &str = "Run cancelled by tester";

impl std::fmt::Debug for TestRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRun")
            .field("experiment", &self.experiment)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
