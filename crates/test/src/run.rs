//! What a test lets a run do.

use std::{collections::BTreeMap, sync::Arc};

use finetuner_protocol::{
    CheckpointInfo, DocumentArray, DocumentError, Event, ExamplesInfo, Level, MetricsInfo, Status,
    time,
};

use crate::{
    Submission,
    model::zip_of,
    runs::RunRecord,
    state::{CREATED_AT, Shared},
};

/// A run, as the test controls it; from [`TestBackend::run`].
///
/// It may be prepared before the program submits it: what was logged, measured
/// and ended before is there at once. A run that has ended stays as it is.
///
/// [`TestBackend::run`]: crate::TestBackend::run
#[derive(Clone)]
#[must_use = "a run does what it is told to"]
pub struct TestRun {
    shared: Arc<Shared>,
    experiment: String,
    name: String,
}

impl TestRun {
    pub(crate) fn new(shared: Arc<Shared>, experiment: &str, name: &str) -> Self {
        // From now on the run waits for the test.
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

    /// Writes a line to the log.
    pub fn log_at(&self, level: Level, line: impl Into<String>) -> &Self {
        let message = line.into();
        self.event(Event::Log { level, message })
    }

    /// Adds an event, such as a step or an epoch: a point of the run's curves.
    pub fn event(&self, event: Event) -> &Self {
        self.change(|run| run.events.push(event))
    }

    /// Adds a training step. Steps and epochs count from 1.
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

    /// Adds the end of an epoch, which counts from 1.
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

    /// Sets a metric of the model as it was before the training.
    pub fn metric_before(&self, name: impl Into<String>, value: f64) -> &Self {
        self.change(|run| {
            run.metrics.before.insert(name.into(), value);
        })
    }

    /// Sets what example queries found.
    pub fn examples(&self, examples: ExamplesInfo) -> &Self {
        self.change(|run| run.examples = examples)
    }

    /// Adds a checkpoint after so many epochs.
    pub fn checkpoint(&self, epochs: u64) -> &Self {
        self.change(|run| {
            let number = run.checkpoints.len() as u64 + 1;
            let created_at = time::parse(CREATED_AT);
            let info = CheckpointInfo::new(number, (epochs, 0), 0, "", created_at);
            run.checkpoints.push(info);
        })
    }

    /// Sets the bytes of the artifact, in place of a model without weights. They
    /// need not be a zip.
    pub fn artifact(&self, bytes: impl Into<Vec<u8>>) -> &Self {
        self.change(|run| run.model = Some(bytes.into()))
    }

    /// Sets the files of the model, in place of one without weights.
    pub fn model<N: AsRef<str>, B: AsRef<[u8]>>(&self, files: &[(N, B)]) -> &Self {
        // Names that a zip can't have are left to `artifact`.
        self.artifact(zip_of(files).unwrap_or_default())
    }

    /// Sets the documents that a synthesis run makes; none otherwise.
    ///
    /// # Errors
    /// If the documents can't be written.
    pub fn data(&self, documents: &DocumentArray) -> Result<&Self, DocumentError> {
        let bytes = documents.to_bytes()?;
        Ok(self.change(|run| run.data = Some(bytes)))
    }

    /// Ends the run well.
    pub fn finish(&self) -> &Self {
        self.change(RunRecord::finish)
    }

    /// Ends the run well, with these metrics of the fine-tuned model.
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

    /// Ends the run with a failure.
    pub fn fail(&self, reason: impl Into<String>) -> &Self {
        let reason = reason.into();
        self.change(|run| run.set_status(Status::Failed, reason))
    }

    /// Cancels the run, as somebody else would.
    pub fn cancel(&self) -> &Self {
        self.fail(CANCELLED)
    }

    /// The run's status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared
            .change(|state| state.prepared(&self.experiment, &self.name).status.clone())
    }

    /// The run's metrics.
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

    /// Waits until the run has ended, such as by the program's cancelling it.
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

/// Why a cancelled run failed.
pub(crate) const CANCELLED: &str = "Run cancelled by tester";

impl std::fmt::Debug for TestRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRun")
            .field("experiment", &self.experiment)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
