//! Submissions and runs.

use finetuner_protocol::{
    Annotations, CheckpointInfo, Config, Event, ExamplesInfo, MetricsInfo, NewRun, RunConfig,
    RunTask, Status, check_name,
};
use serde_json::{Value, json};

use crate::answer::{CREATED_AT, Refusal, Result};

/// Status details of a waiting run.
const WAITS: &str = "Run submitted and awaits execution";

/// Status details of a finished run.
const FINISHED: &str = "Run finished";

/// A run that the program under test submitted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Submission {
    /// The experiment.
    pub experiment: String,
    /// The name of the run.
    pub name: String,
    /// The description; empty without one.
    pub description: String,
    /// The first tags and the first note.
    pub annotations: Annotations,
    /// The configuration.
    pub config: Config,
    /// The body of the request.
    pub body: Value,
}

impl Submission {
    /// Returns the configuration of a training run.
    #[must_use]
    pub fn training(&self) -> Option<&RunConfig> {
        self.config.training()
    }

    /// Parses a submission and checks everything except its data.
    pub(crate) fn read(experiment: &str, body: Value) -> Result<Self> {
        let mut new: NewRun = serde_json::from_value(body.clone())
            .map_err(|e| Refusal::unprocessable(e.to_string()))?;
        check_name("run_name", &new.name).map_err(|e| Refusal::unprocessable(e.to_string()))?;
        // The address and the request's `name` take precedence over the configuration.
        match &mut new.config {
            Config::Training(config) => {
                config.run_name.clone_from(&new.name);
                experiment.clone_into(&mut config.experiment_name);
            }
            Config::Synthesis(config) => {
                config.run_name.clone_from(&new.name);
                experiment.clone_into(&mut config.experiment_name);
            }
            _ => {
                return Err(Refusal::unprocessable(
                    "`config` is neither that of a training run, which has a `model` and `data`, \
                     nor that of a synthesis run",
                ));
            }
        }
        let annotations = new.annotations();
        Ok(Self {
            experiment: experiment.to_owned(),
            annotations: annotations.map_err(|e| Refusal::unprocessable(e.to_string()))?,
            name: new.name,
            description: new.description.unwrap_or_default(),
            config: new.config,
            body,
        })
    }

    /// Returns the names of the run's data with their fields.
    pub(crate) fn data(&self) -> Vec<(&'static str, &str)> {
        match &self.config {
            Config::Training(config) => {
                let eval = config.data.eval_data.as_deref();
                let mut names = vec![("train_data", config.data.train_data.as_str())];
                names.extend(eval.map(|name| ("eval_data", name)));
                names
            }
            Config::Synthesis(config) => vec![
                ("queries", config.data.queries.as_str()),
                ("corpus", config.data.corpus.as_str()),
            ],
            _ => Vec::new(),
        }
    }

    /// Returns the configuration as sent.
    pub(crate) fn sent_config(&self) -> &Value {
        &self.body["config"]
    }

    pub(crate) fn is_synthesis(&self) -> bool {
        self.config.synthesis().is_some()
    }
}

/// A run, which a test may prepare before it is submitted.
pub(crate) struct RunRecord {
    pub(crate) experiment: String,
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) details: String,
    pub(crate) submission: Option<Submission>,
    pub(crate) annotations: Annotations,
    /// Idempotency key of the creating request.
    pub(crate) key: Option<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) metrics: MetricsInfo,
    pub(crate) examples: ExamplesInfo,
    pub(crate) checkpoints: Vec<CheckpointInfo>,
    pub(crate) artifact_id: String,
    /// Zip of the model, if the test has set one.
    pub(crate) model: Option<Vec<u8>>,
    /// Document stream of a synthesis run, if the test has set one.
    pub(crate) data: Option<Vec<u8>>,
    /// Whether the results are stored.
    pub(crate) is_kept: bool,
}

impl RunRecord {
    pub(crate) fn new(experiment: &str, name: &str, artifact_id: String) -> Self {
        Self {
            experiment: experiment.to_owned(),
            name: name.to_owned(),
            status: Status::Created,
            details: WAITS.to_owned(),
            submission: None,
            annotations: Annotations::default(),
            key: None,
            events: Vec::new(),
            metrics: MetricsInfo::default(),
            examples: ExamplesInfo::default(),
            checkpoints: Vec::new(),
            artifact_id,
            model: None,
            data: None,
            is_kept: false,
        }
    }

    /// Changes the status, unless the run has ended.
    pub(crate) fn set_status(&mut self, status: Status, details: impl Into<String>) {
        if !self.status.is_final() {
            self.status = status;
            self.details = details.into();
        }
    }

    pub(crate) fn finish(&mut self) {
        self.set_status(Status::Finished, FINISHED);
    }

    pub(crate) fn is_synthesis(&self) -> bool {
        self.submission
            .as_ref()
            .is_some_and(Submission::is_synthesis)
    }

    /// Returns the name of the data that a synthesis run creates.
    pub(crate) fn train_data(&self) -> String {
        format!(
            "finetuner-synthesis-{}-{}-{}",
            self.experiment, self.name, self.artifact_id
        )
    }

    /// Returns the lines of the log with the numbers of their events.
    pub(crate) fn lines(&self, from: usize) -> impl Iterator<Item = (usize, String)> {
        let events = self.events.iter().enumerate().skip(from);
        events.filter_map(|(number, event)| {
            let Event::Log { level, message } = event else {
                return None;
            };
            // One event per second.
            let (h, m, s) = (number / 3600 % 24, number / 60 % 60, number % 60);
            let line = |line| format!("[{h:02}:{m:02}:{s:02}] {level:<8} {line}");
            let lines: Vec<String> = message.lines().map(line).collect();
            Some((number, lines.join("\n")))
        })
    }

    /// Returns the run with the fields that either generation of the client reads.
    pub(crate) fn info(&self) -> Value {
        let is_made = self.is_synthesis() && self.status == Status::Finished;
        let submission = self.submission.as_ref();
        let task = match self.is_synthesis() {
            true => RunTask::Generation,
            false => RunTask::Training,
        };
        json!({
            "name": self.name,
            "description": submission.map(|s| s.description.as_str()).unwrap_or_default(),
            "tags": self.annotations.tags,
            "note": self.annotations.note,
            "config": submission.map(Submission::sent_config),
            "created_at": CREATED_AT,
            "task": task,
            "train_data": is_made.then(|| self.train_data()),
            "artifact_id": self.artifact_id,
            "model_ids": json!([self.artifact_id]).to_string(),
        })
    }
}
