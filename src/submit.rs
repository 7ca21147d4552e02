//! From a described job to a run: its data is pushed, then the run is created.

use std::time::Duration;

use finetuner_protocol::{Config, Device, Generation, NewRun, RunTask, check_name};
use reqwest::Method;

use crate::{
    Csv, CsvOptions, DataSource, DocumentSource, Error, Finetuner, Result, Run,
    csv::Layout,
    data::{self, Upload, upload_documents},
    progress::ProgressSink,
    transport::Call,
};

/// The version of the wire's schema that later clients speak.
const SCHEMA_VERSION: &str = "0.13.10";

/// How long the backend may take to look at the data before it says yes.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(600);

/// The data of a run that is not at the backend yet.
pub(crate) struct Pushing {
    generation: Generation,
    /// What comes before the purpose in the names under which data is pushed.
    prefix: String,
    csv_options: Option<CsvOptions>,
    /// Name, argument, data.
    sources: Vec<(String, &'static str, DataSource)>,
}

impl Pushing {
    pub(crate) fn new(
        generation: Generation,
        experiment: &str,
        run: &str,
        csv_options: Option<CsvOptions>,
    ) -> Self {
        let prefix = match generation {
            Generation::V0_2 => format!("finetuner.dastorage.{experiment}.{run}."),
            Generation::V0_8 => format!("finetuner-dastorage-{experiment}-{run}-"),
        };
        Self {
            generation,
            prefix,
            csv_options,
            sources: Vec::new(),
        }
    }

    /// Documents that an evaluation embeds at once where nothing else is said.
    pub(crate) fn batch_size(&self) -> usize {
        match self.generation {
            Generation::V0_2 => 8,
            Generation::V0_8 => 32,
        }
    }

    /// The name that data has or will have.
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
        // Two callbacks may have query data of their own.
        let taken = |name: &String| self.sources.iter().any(|(known, ..)| known == name);
        let first = format!("{}{purpose}", self.prefix);
        let name = std::iter::once(first.clone())
            .chain((2..).map(|n| format!("{first}-{n}")))
            .find(|name| !taken(name))
            .unwrap_or(first);
        self.sources.push((name.clone(), argument, data));
        name
    }

    fn with_options(&self, csv: Csv) -> Csv {
        match &self.csv_options {
            Some(options) if csv.has_default_options() => csv.options(options.clone()),
            _ => csv,
        }
    }

    /// Checks everything, then pushes it.
    pub(crate) async fn push_all(
        self,
        finetuner: &Finetuner,
        layout: Result<Layout>,
        public: bool,
        progress: ProgressSink,
    ) -> Result<()> {
        let mut sources = Vec::new();
        let mut layout = Some(layout);
        let mut known = None;
        for (name, argument, data) in self.sources {
            check_name(argument, &name)?;
            let source = match data {
                DataSource::Name(_) => continue,
                DataSource::Documents(documents) => DocumentSource::of_array(documents),
                DataSource::Stream(source) => source,
                DataSource::Csv(csv) => {
                    // It matters only where there is a CSV file.
                    if let Some(layout) = layout.take() {
                        known = Some(layout?);
                    }
                    let layout = known.clone().unwrap_or(Layout::Texts);
                    data::blocking(move || csv.documents(layout)).await?
                }
            };
            let checked = source.clone();
            data::blocking(move || checked.check(argument).map(drop)).await?;
            sources.push((name, source));
        }
        for (name, source) in sources {
            let upload = Upload {
                name,
                public,
                progress: progress.clone(),
            };
            upload_documents(&finetuner.transport, source, upload).await?;
        }
        Ok(())
    }
}

/// A run to create.
pub(crate) struct Submission {
    pub(crate) experiment: String,
    pub(crate) name: String,
    pub(crate) config: Config,
    /// None for clients up to 0.7.6.
    pub(crate) task: Option<RunTask>,
    pub(crate) device: Device,
    pub(crate) cpus: u64,
    pub(crate) description: Option<String>,
}

/// Creates a run, and its experiment where that is not there.
pub(crate) async fn submit(finetuner: &Finetuner, submission: Submission) -> Result<Run> {
    let experiment = submission.experiment;
    let new = NewRun {
        name: submission.name,
        config: submission.config,
        finetuner_version: submission.task.is_some().then(|| SCHEMA_VERSION.to_owned()),
        task: submission.task,
        device: submission.device,
        cpus: submission.cpus,
        gpus: 1,
        description: submission.description,
    };
    let body = serde_json::to_value(new).map_err(Error::setup)?;
    // One key for all attempts, so that a lost answer never makes two runs.
    let call = Call::api(
        Method::POST,
        "experiments/{experiment}/runs",
        &[&experiment],
    )
    .json(body)
    .keyed()
    .repeatable()
    .timeout(SUBMIT_TIMEOUT);
    let transport = &finetuner.transport;
    let info = match transport.json(call.clone()).await {
        // Most often the experiment is there, and one request is enough.
        Err(error) if error.is_not_found() => {
            match finetuner.create_experiment(&experiment).await {
                // Something else was not found, or somebody was faster.
                Err(error) if error.is_conflict() => {}
                created => drop(created?),
            }
            transport.json(call).await?
        }
        info => info?,
    };
    Ok(Run::new(transport.clone(), &experiment, info))
}
