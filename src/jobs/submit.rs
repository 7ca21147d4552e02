//! Submits a job: asks the backend, uploads the data, creates the run.

use std::time::Duration;

use finetuner_data::{Csv, CsvOptions, DocumentSource, Layout, Problems};
use finetuner_protocol::{
    Config, Device, Generation, NewRun, RunTask, Task, listed_task, text::cut,
};
use reqwest::Method;
use serde_json::Value;

use crate::{
    client::Finetuner,
    data::{self, DataSource, Upload, send_documents},
    error::{Error, Result},
    runs::Run,
    transport::{self, Call, ProgressSink},
};

/// Version of the wire schema that later Python clients use.
const SCHEMA_VERSION: &str = "0.13.10";

/// Time limit for creating a run, during which the backend checks the data.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum number of bytes that experiment and run contribute to a data set's name.
const MAX_NAME: usize = 180;

/// The data of a run that is still to be uploaded.
///
/// Each submission uploads under its own names, which end with a random number:
/// `a-b` and `c` give the same name as `a` and `b-c`, and a refused run must not
/// have replaced another run's data.
pub(crate) struct Pushing {
    generation: Generation,
    /// Start of the names, before the purpose.
    prefix: String,
    /// End of the names.
    suffix: String,
    csv_options: Option<CsvOptions>,
    /// Name, argument and data of each source.
    sources: Vec<(String, &'static str, DataSource)>,
}

impl Pushing {
    pub(crate) fn new(
        generation: Generation,
        experiment: &str,
        run: &str,
        csv_options: Option<CsvOptions>,
    ) -> Self {
        let unique = &transport::random_id()[..12];
        let (prefix, point) = match generation {
            Generation::V0_2 => ("finetuner.dastorage.", '.'),
            Generation::V0_8 => ("finetuner-dastorage-", '-'),
        };
        let names = format!("{experiment}{point}{run}");
        let names = cut(&names, MAX_NAME);
        Self {
            generation,
            prefix: format!("{prefix}{names}{point}"),
            suffix: format!("{point}{unique}"),
            csv_options,
            sources: Vec::new(),
        }
    }

    /// Returns an evaluation's default number of documents embedded at once.
    pub(crate) fn batch_size(&self) -> u64 {
        match self.generation {
            Generation::V0_2 => 8,
            Generation::V0_8 => 32,
        }
    }

    /// Returns the name of the data, and schedules the upload of unnamed data.
    pub(crate) fn name_of(
        &mut self,
        data: DataSource,
        purpose: &str,
        argument: &'static str,
    ) -> String {
        let data = match data {
            DataSource::Name(name) => return name,
            DataSource::Csv(csv) => DataSource::Csv(self.with_options(csv)),
            other => other,
        };
        if let Some((name, ..)) = self
            .sources
            .iter()
            .find(|(_, _, known)| known.is_same(&data))
        {
            return name.clone();
        }
        // Several callbacks may each have query data.
        let taken = |name: &String| self.sources.iter().any(|(known, ..)| known == name);
        let named = |purpose: &str| format!("{}{purpose}{}", self.prefix, self.suffix);
        let name = std::iter::once(named(purpose))
            .chain((2..).map(|n| named(&format!("{purpose}-{n}"))))
            .find(|name| !taken(name))
            .unwrap_or_default();
        self.sources.push((name.clone(), argument, data));
        name
    }

    fn with_options(&self, csv: Csv) -> Csv {
        match &self.csv_options {
            Some(options) if csv.has_default_options() => csv.options(options.clone()),
            _ => csv,
        }
    }

    /// Checks all data, then uploads it. Appends the names of uploaded data to
    /// `pushed`.
    async fn push_all(
        self,
        finetuner: &Finetuner,
        columns: &Columns,
        public: bool,
        progress: ProgressSink,
        pushed: &mut Vec<String>,
    ) -> Result<()> {
        let mut sources = Vec::new();
        for (name, argument, data) in self.sources {
            let source = match data {
                DataSource::Name(_) => continue,
                DataSource::Documents(documents) => DocumentSource::from(documents),
                DataSource::Stream(source) => source,
                DataSource::Csv(csv) => {
                    // The layout is required only for files.
                    let layout = columns.layout()?;
                    data::blocking(move || Ok(csv.documents(layout)?)).await?
                }
                DataSource::Dataset(rows) => {
                    let layout = columns.layout()?;
                    data::blocking(move || Ok(rows.documents(layout)?)).await?
                }
            };
            let checking = source.clone();
            let checked = data::blocking(move || {
                let checked = checking.check(argument)?;
                if argument == "train_data"
                    && let Err(reason) = checked.labels.check()
                {
                    return Err(Problems::whole(argument, reason).into());
                }
                Ok(checked)
            })
            .await?;
            sources.push((name, argument, source, checked));
        }
        // An evaluation finds nothing if its labels are written differently.
        let (train, others): (Vec<_>, Vec<_>) = sources
            .iter()
            .partition(|(_, argument, ..)| *argument == "train_data");
        for (_, argument, _, checked) in others {
            let mut reason = Ok(());
            for (.., train) in &train {
                reason = checked.labels.compare(&train.labels);
                if reason.is_ok() {
                    break;
                }
            }
            reason.map_err(|reason| Problems::whole(*argument, reason))?;
        }
        for (name, _, source, checked) in sources {
            let upload = Upload {
                name: name.clone(),
                public,
                progress: progress.clone(),
            };
            // Recorded before the upload, because its answer may be lost.
            pushed.push(name);
            send_documents(&finetuner.transport, source, checked.summary, upload).await?;
        }
        Ok(())
    }
}

/// Source of the column layout of a run's files.
pub(crate) enum Columns {
    /// The layout is known.
    Known(Layout),
    /// The backend's answer about the model, or the list entry of that name. `None`
    /// if the run continues from an artifact.
    OfModel(Option<String>),
    /// The task of the model.
    OfTask(Task),
}

impl Columns {
    fn layout(&self) -> Result<Layout> {
        match self {
            Self::Known(layout) => Ok(*layout),
            Self::OfTask(task) => Ok(Layout::of_task(task)?),
            Self::OfModel(name) => match name.as_deref().and_then(listed_task) {
                Some(task) => Ok(Layout::of_task(&task)?),
                None => Err(Error::setup(
                    "the backend can't tell what the model embeds, so the columns of the file have \
                     no meaning: pass documents, or push the file first with `model` set to a similar \
                     model of the list",
                )),
            },
        }
    }
}

/// A run to create.
pub(crate) struct Submission {
    pub(crate) experiment: String,
    pub(crate) name: String,
    pub(crate) config: Config,
    /// `None` for clients up to 0.7.6.
    pub(crate) task: Option<RunTask>,
    pub(crate) device: Device,
    pub(crate) cpus: u64,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) note: String,
}

impl Submission {
    fn into_body(self) -> Result<(String, Value)> {
        let mut new = NewRun::new(self.name, self.config);
        new.finetuner_version = self.task.is_some().then(|| SCHEMA_VERSION.to_owned());
        new.task = self.task;
        new.device = self.device;
        new.cpus = Some(self.cpus);
        new.gpus = Some(1);
        new.description = self.description;
        new.tags = self.tags;
        new.note = self.note;
        // Refuse invalid tags and notes before anything is sent.
        new.annotations()?;
        let body = serde_json::to_value(new).map_err(Error::setup)?;
        Ok((self.experiment, body))
    }
}

/// Uploads the data of a run and creates the run. Asks the backend first whether it
/// would accept the run, to avoid a useless upload.
pub(crate) async fn push_and_submit(
    finetuner: &Finetuner,
    pushing: Pushing,
    mut columns: Columns,
    public: bool,
    progress: ProgressSink,
    submission: Submission,
) -> Result<Run> {
    let (experiment, body) = submission.into_body()?;
    if !pushing.sources.is_empty() {
        let task = ask(finetuner, &experiment, body.clone(), &pushing).await?;
        if let (Columns::OfModel(_), Some(task)) = (&columns, task) {
            columns = Columns::OfTask(task);
        }
    }
    let mut pushed = Vec::new();
    let mut submitted = false;
    let created = async {
        let pushing = pushing.push_all(finetuner, &columns, public, progress, &mut pushed);
        pushing.await?;
        submitted = true;
        submit(finetuner, &experiment, body).await
    };
    let created = created.await;
    // The data of a run that was not created is useless. After a lost answer, the
    // run may exist, so its data is kept.
    if let Err(error) = &created
        && (!submitted || is_refusal(error))
    {
        for name in &pushed {
            if let Err(error) = finetuner.delete_documents(name).await {
                tracing::debug!(
                    kind = error.kind().as_str(),
                    "pushed data could not be deleted"
                );
            }
        }
    }
    created
}

/// Whether the backend has certainly not created the run.
fn is_refusal(error: &Error) -> bool {
    let refused = |status| (400..500).contains(&status) && status != 408;
    !error.is_maybe_done() && error.status().is_some_and(refused)
}

/// Asks whether a run would be accepted. Returns the task of its model, if the
/// backend returns it. A backend without this call answers with an error status,
/// and the run is submitted without the check.
async fn ask(
    finetuner: &Finetuner,
    experiment: &str,
    mut body: Value,
    pushing: &Pushing,
) -> Result<Option<Task>> {
    let names: Vec<&str> = pushing
        .sources
        .iter()
        .map(|(name, ..)| name.as_str())
        .collect();
    body["pushing"] = names.into();
    let call = Call::api(
        Method::POST,
        "experiments/{experiment}/check",
        &[experiment],
    );
    match finetuner.transport.text(call.json(body).repeatable()).await {
        Err(error) if matches!(error.status(), None | Some(401 | 409 | 422 | 429)) => Err(error),
        Err(_) => Ok(None),
        Ok(answer) => {
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            Ok(answer["task"].as_str().map(Task::from))
        }
    }
}

/// Returns the call that creates a run. All attempts have the same idempotency key,
/// so that a lost answer never creates two runs. It is not repeated after its long
/// time-out: the user decides then.
fn creation(experiment: &str, body: Value) -> Call {
    Call::api(Method::POST, "experiments/{experiment}/runs", &[experiment])
        .json(body)
        .keyed()
        .repeatable()
        .timeout(SUBMIT_TIMEOUT)
        .once_if_slow()
}

/// Creates a run, and its experiment if that does not exist.
async fn submit(finetuner: &Finetuner, experiment: &str, body: Value) -> Result<Run> {
    let call = creation(experiment, body);
    let transport = &finetuner.transport;
    let info = match transport.json(call.clone()).await {
        // Usually the experiment exists, and one request is enough.
        Err(error) if error.is_not_found() => {
            match finetuner.create_experiment(experiment).await {
                // Something else was not found, or another program created it.
                Err(error) if error.is_conflict() => {}
                created => drop(created?),
            }
            transport.json(call).await?
        }
        info => info?,
    };
    Ok(Run::new(transport.clone(), experiment, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_is_not_retried_after_its_time_limit() {
        let call = creation("fashion", Value::Null);
        assert!(!call.may_repeat(&Error::timeout(SUBMIT_TIMEOUT)));
        assert!(call.may_repeat(&Error::broken_off("the answer broke off")));
    }
}
