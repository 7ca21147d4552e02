//! Client for fine-tuning embedding models as jobs on a backend.
//!
//! Log in, call `fit`, watch the run, save the model. Names and meanings are those
//! of Jina AI's Python Finetuner. Instead of the hosted service, your own
//! `finetuner-server` trains the models: on this machine, on a team's server, or
//! inside your program.
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
//! | task | start here | guide |
//! | --- | --- | --- |
//! | run a complete example | the example `text_to_image` | `first-run` |
//! | choose a backend, log in | [`Finetuner`], [`Builder`], [`Login`] | `first-run`, `settings` |
//! | choose a model and a loss | [`describe_models`], [`list_models`], [`list_model_options`], [`Loss`] | `choose` |
//! | provide data | [`DataSource`]: [`Document`]s, [`Csv`] files, [`Dataset`]s of JSON Lines, Parquet and images, [`DocumentSource`]s; [`Finetuner::push`] | `data` |
//! | train | [`Finetuner::fit`], [`Fit`], [`Synthesize`] | `training`, `cross-encoders` |
//! | compare the model before and after | [`EvaluationCallback`], [`Run::metrics`], [`Run::display_examples`] | `evaluate` |
//! | follow a run, save the model | [`Run`], [`Watch`], [`LogStream`] | |
//! | find earlier runs | [`Finetuner::get_run`], [`Experiment`], [`List`] | |
//! | handle errors | [`Error`] | `troubleshooting` |
//! | test your own code | the crate `finetuner-test`, [`Builder::http_service`] | `testing` |
//! | operate a server, use a cluster | the crate `finetuner-server` | `server`, `cluster` |
//! | migrate from Python | | `python-and-rust` |
//!
//! The guides are Markdown files in `docs/` of the source. The crate
//! `finetuner-docs` contains them, and every server shows them at `/docs/`.
//!
//! Handles ([`Experiment`], [`Run`]) are cheap to clone. Dropping a handle stops
//! nothing: the run continues on the server.
//!
//! # Features
//!
//! | feature | effect |
//! | --- | --- |
//! | `rustls` (default) | https, without a system package |
//! | `native-tls` | https with the system's TLS library, if `rustls` is disabled |
//! | `http2` (default) | one connection for parallel transfers, if the server offers it |
//! | `keyring` (default) | tokens in the keyring of the operating system |
//! | `progress` (default) | progress bars for uploads and downloads |
//! | `blocking` | the same calls for programs without `async` |
//! | `local` | inference with models on this machine |
//! | `bundled-models` (default) | with `local`: the small models that need no download, 24 MB |
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
    ExamplesTable, Experiment, ListAllRuns, LogStream, MetricsTable, ResumeFrom, Run, RunProgress,
    SaveArtifact, Update, Watch,
};
pub use secret::Secret;
pub use transport::{
    DEFAULT_ADDRESS, HUBBLE_VARIABLE, List, ListStream, PLAIN_HTTP_VARIABLE, PROJECT_VARIABLE,
    Progress, REGISTRY_VARIABLE, RequestBody, RetryPolicy,
};

/// Less common parts of the wire format: parts of run configurations, callbacks
/// as sent, and the events of a run.
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
