//! Stores, finds and deletes runs.

use std::collections::BTreeSet;

use finetuner_protocol::Status;
use serde_json::Value;

use crate::{
    answer::{Refusal, Result},
    artifact::{Asked, DOCUMENTS, MODEL, UploadFields},
    model::empty_model,
    record::{RunRecord, Submission},
    state::{Experiment, State},
};

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
