//! Fine-tune embedding models for your own search, as jobs: log in, `fit`,
//! watch the run, save the model.
//!
//! The names are those of Jina AI's Python Finetuner. What the hosted service
//! did for it, a `finetuner-server` of your own does here: on this machine, on
//! a team's server, or inside a program.
//!
//! ```no_run
//! use finetuner::{BestModelCheckpoint, EvaluationCallback, Finetuner, Loss};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> finetuner::Result<()> {
//! let finetuner = Finetuner::login().await?;
//!
//! let run = finetuner
//!     .fit("openai/clip-vit-base-patch32", "clip-fashion-train-data")
//!     .run_name("clip-fashion-1")
//!     .eval_data("clip-fashion-eval-data")
//!     .epochs(5)
//!     .learning_rate(1e-5)
//!     .callback(BestModelCheckpoint::new())
//!     .callback(EvaluationCallback::new("clip-fashion-eval-data"))
//!     .loss(Loss::Clip)
//!     .image_modality("image")
//!     .text_modality("text")
//!     .multi_modal(true)
//!     .await?;
//! println!("{}", run.status().await?);
//!
//! // Later, perhaps in another program:
//! let run = finetuner.get_run("clip-fashion-1").await?;
//! let mut lines = run.stream_logs();
//! while let Some(line) = lines.next().await {
//!     println!("{}", line?);
//! }
//! run.save_model("clip-model").await?;
//! # Ok(())
//! # }
//! ```
//!
//! | to do this | look at | guide |
//! | --- | --- | --- |
//! | see it work | the example `text_to_image` | `first-run` |
//! | choose a backend, log in | [`Finetuner`], [`Builder`], [`Login`] | `first-run`, `settings` |
//! | choose a model and a loss | [`describe_models`], [`list_models`], [`list_model_options`], [`Loss`] | `choose` |
//! | bring data | [`DataSource`]: [`Document`]s, [`Csv`] files, [`Dataset`]s of JSON Lines, Parquet and pictures, [`DocumentSource`]s; [`Finetuner::push`] | `data` |
//! | train | [`Finetuner::fit`], [`Fit`], [`Synthesize`] | `training`, `cross-encoders` |
//! | know whether the model is better | [`EvaluationCallback`], [`Run::metrics`], [`Run::display_examples`] | `evaluate` |
//! | follow and save | [`Run`], [`Watch`], [`LogStream`] | |
//! | find things again | [`Finetuner::get_run`], [`Experiment`], [`List`] | |
//! | know what went wrong | [`Error`] | `troubleshooting` |
//! | test your own code | the crate `finetuner-test`, [`Builder::http_service`] | `testing` |
//! | run a server, or use a cluster | the crate `finetuner-server` | `server`, `cluster` |
//! | come from Python | | `python-and-rust` |
//!
//! The guides are the files of these names in `docs/` of the source, the crate
//! `finetuner-docs`, and pages of every server at `/docs/`.
//!
//! Handles ([`Experiment`], [`Run`]) are cheap to clone, and dropping one stops
//! nothing: a run goes on without anybody looking.
//!
//! # Features
//!
//! | feature | what it brings |
//! | --- | --- |
//! | `rustls` (default) | https, without a system package |
//! | `native-tls` | https by the system's own TLS, where `rustls` is off |
//! | `keyring` (default) | tokens in the keyring of the operating system |
//! | `progress` (default) | bars for uploads and downloads |
//! | `blocking` | the same calls for programs without `async` |
//! | `local` | using models on this machine |
//! | `bundled-models` (default) | with `local`: the small models that need no download, 24 MB of them |
//! | `parquet` | Parquet files as training data |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod auth;
#[cfg(feature = "blocking")]
pub mod blocking;
mod client;
mod data;
mod environment;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod jobs;
#[cfg(feature = "local")]
pub mod local;
mod runs;
mod secret;
mod transport;

pub use auth::{FOLDER_VARIABLE, TOKEN_VARIABLE, TokenStorage};
pub use client::{Builder, CreateToken, Finetuner, Login, PersonalToken, User};
pub use data::{
    ArtifactInfo, DataSource, DocumentStream, Pull, Push, load_documents, save_documents,
};
pub use error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use finetuner_data::{
    Columns, Csv, CsvOptions, Dataset, Dialect, DocumentSource, FirstRow, MAX_PROBLEMS, Problem,
    Problems,
};
#[doc(inline)]
pub use finetuner_protocol::{
    AnnotationChange, Annotations, Backbone, CheckpointInfo, Class, Config, Content, Device,
    Distance, Document, DocumentArray, DocumentError, ExamplesInfo, Generation, HardNegatives,
    InvalidField, LABEL_TAG, Lora, Loss, MAX_EPOCHS, MetricPoint, MetricsInfo, Miner, Modality,
    ModelOption, MonitorMode, MultiDatasetBatchSampler, NamedScore, NdArray, NegativesFormat,
    Optimizer, Options, Page, Prompts, RunConfig, RunTask, SCORE_TAG, Sampler, SamplingStrategy,
    Scheduler, SchedulerOptions, SchedulerStep, Status, StatusInfo, Summary, SynthesisConfig, Task,
    callback::{
        BestModelCheckpoint, EarlyStopping, MLFlowLogger, TrainingCheckpoint, WandBLogger,
        WiSEFTCallback,
    },
    time::Timestamp,
};
pub use jobs::{
    BaseModel, EvaluationCallback, Fit, FitCallback, ModelTable, SynthesisModels, Synthesize,
    describe_models, list_callbacks, list_model_options, list_models,
};
pub use runs::{
    ExamplesTable, Experiment, GoOnFrom, ListAllRuns, LogStream, MetricsTable, Run, RunProgress,
    SaveArtifact, Update, Watch,
};
pub use secret::Secret;
pub use transport::{
    DEFAULT_ADDRESS, HUBBLE_VARIABLE, List, ListStream, PLAIN_HTTP_VARIABLE, PROJECT_VARIABLE,
    Progress, REGISTRY_VARIABLE, RequestBody, RetryPolicy,
};

/// What travels between a client and its backend, as far as programs see it:
/// the parts of run configurations, the callbacks as they are sent, and what
/// happens in a run.
pub mod protocol {
    #[doc(inline)]
    pub use finetuner_protocol::{
        BACKBONES, Callback, Data, DocumentReader, Event, FoundDocuments, HyperParameters, Level,
        MAX_DOCUMENT_BYTES, MIN_LEARNING_RATE, Model, MoreData, RelationMining, Stage,
        SummaryCounter, SynthesisData, callback, greater_is_better,
    };
}

/// The code of the README, compiled as tests.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../README.md")]
struct Readme;
