//! The backend's runs.

use std::collections::BTreeSet;

use finetuner_protocol::{
    Annotations, CheckpointInfo, Config, Event, ExamplesInfo, MetricsInfo, NewRun, RunConfig,
    RunTask, Status, check_name,
};
use serde_json::{Value, json};

use crate::{
    answer::{Refusal, Result},
    artifact::{Asked, DOCUMENTS, MODEL, UploadFields},
    model::empty_model,
    state::{CREATED_AT, Experiment, State},
};

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
    fn data(&self) -> Vec<(&'static str, &str)> {
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
    is_kept: bool,
}

impl RunRecord {
    fn new(experiment: &str, name: &str, artifact_id: String) -> Self {
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

    fn is_synthesis(&self) -> bool {
        self.submission
            .as_ref()
            .is_some_and(Submission::is_synthesis)
    }

    /// Returns the name of the data that a synthesis run creates.
    fn train_data(&self) -> String {
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

impl State {
    fn run_place(&self, experiment: &str, name: &str) -> Option<usize> {
        let same = |run: &RunRecord| run.experiment == experiment && run.name == name;
        self.runs.iter().position(same)
    }

    /// Returns a run, and creates it if the test has not prepared it.
    pub(crate) fn prepared(&mut self, experiment: &str, name: &str) -> &mut RunRecord {
        let at = self.run_place(experiment, name).unwrap_or_else(|| {
            let id = self.new_id();
            self.runs.push(RunRecord::new(experiment, name, id));
            self.runs.len() - 1
        });
        &mut self.runs[at]
    }

    pub(crate) fn submitted_run(&self, experiment: &str, name: &str) -> Result<&RunRecord> {
        self.experiment(experiment)?;
        let run = self.run_place(experiment, name).map(|at| &self.runs[at]);
        run.filter(|run| run.submission.is_some()).ok_or_else(|| {
            Refusal::not_found(format!(
                "there is no run `{name}` in experiment `{experiment}`"
            ))
        })
    }

    pub(crate) fn submitted_runs(&self, experiment: &str) -> Vec<&RunRecord> {
        let of_it = |run: &&RunRecord| run.submission.is_some() && run.experiment == experiment;
        self.runs.iter().filter(of_it).collect()
    }

    pub(crate) fn experiment(&self, name: &str) -> Result<&Experiment> {
        let mut experiments = self.experiments.iter();
        let found = experiments.find(|experiment| experiment.info.name == name);
        found.ok_or_else(|| {
            Refusal::not_found(format!(
                "there is no experiment `{name}`; create it with `create_experiment`"
            ))
        })
    }

    /// Refuses a run whose data neither exists nor is about to be pushed.
    pub(crate) fn check_data(&self, run: &Submission, pushing: &BTreeSet<String>) -> Result<()> {
        if self.accepts_any_data {
            return Ok(());
        }
        let missing = |(_, name): &(&str, &str)| !pushing.contains(*name) && !self.has_data(name);
        match run.data().into_iter().find(missing) {
            None => Ok(()),
            Some((field, name)) => Err(Refusal::unprocessable(format!(
                "`{field}`: there is no data named `{name}`; push it first, or check the name"
            ))),
        }
    }

    /// Stores a submission. Returns the run, and whether it is new.
    pub(crate) fn submit(&mut self, run: Submission, key: Option<String>) -> Result<(Value, bool)> {
        self.experiment(&run.experiment)?;
        if let Ok(existing) = self.submitted_run(&run.experiment, &run.name) {
            return match key.is_some() && existing.key == key {
                true => Ok((existing.info(), false)),
                false => Err(Refusal::conflict(format!(
                    "`run_name`: experiment `{}` has a run `{}` already; choose another name",
                    run.experiment, run.name
                ))),
            };
        }
        self.check_data(&run, &BTreeSet::new())?;
        let (experiment, name) = (run.experiment.clone(), run.name.clone());
        let finishes = !self.holds_runs && self.run_place(&experiment, &name).is_none();
        let record = self.prepared(&experiment, &name);
        record.annotations.clone_from(&run.annotations);
        record.submission = Some(run);
        record.key = key;
        if finishes {
            record.finish();
        }
        self.keep_results(&experiment, &name);
        Ok((self.prepared(&experiment, &name).info(), true))
    }

    /// Stores the results of a run that is submitted and has finished.
    pub(crate) fn keep_results(&mut self, experiment: &str, name: &str) {
        let run = self.prepared(experiment, name);
        if run.status != Status::Finished || run.submission.is_none() || run.is_kept {
            return;
        }
        run.is_kept = true;
        let (id, bytes, fields) = match run.is_synthesis() {
            false => {
                let fields = UploadFields {
                    kind: Some(MODEL.to_owned()),
                    ..UploadFields::default()
                };
                let model = run.model.take().unwrap_or_else(empty_model);
                (Some(run.artifact_id.clone()), model, fields)
            }
            true => {
                let fields = UploadFields {
                    name: Some(run.train_data()),
                    kind: Some(DOCUMENTS.to_owned()),
                    ..UploadFields::default()
                };
                let no_documents = || finetuner_protocol::stream_head(0).to_vec();
                (None, run.data.take().unwrap_or_else(no_documents), fields)
            }
        };
        self.put_artifact(id, fields, bytes.into());
    }

    /// Deletes a run and its model, and returns the run.
    pub(crate) fn delete_run(&mut self, experiment: &str, name: &str) -> Result<Value> {
        let run = self.submitted_run(experiment, name)?;
        let (info, id) = (run.info(), run.artifact_id.clone());
        let model = Asked {
            id: Some(id),
            name: None,
        };
        // Only a finished run has a model.
        let _ = self.remove_artifact(&model);
        self.runs
            .retain(|run| run.experiment != experiment || run.name != name);
        Ok(info)
    }
}
