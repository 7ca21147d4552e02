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

mod account;
mod address;
mod artifact;
mod auth;
#[cfg(feature = "blocking")]
pub mod blocking;
mod builder;
mod callbacks;
mod client;
mod data;
mod environment;
mod error;
mod experiment;
mod fit;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod list;
#[cfg(feature = "local")]
pub mod local;
mod logs;
mod models;
mod names;
mod progress;
mod results;
mod run;
mod secret;
mod submit;
mod synthesize;
mod table;
mod tables;
mod transport;
mod watch;

pub use account::{CreateToken, PersonalToken, User};
pub use address::{DEFAULT_ADDRESS, HUBBLE_VARIABLE, REGISTRY_VARIABLE};
pub use artifact::SaveArtifact;
pub use auth::{FOLDER_VARIABLE, TOKEN_VARIABLE, TokenStorage};
pub use builder::{Builder, Login, PLAIN_HTTP_VARIABLE};
pub use callbacks::{EvaluationCallback, FitCallback, list_callbacks};
pub use client::{Finetuner, ListAllRuns};
pub use data::{
    ArtifactInfo, DataSource, DocumentSource, DocumentStream, MAX_PROBLEMS, Problem, Problems,
    Pull, Push, load_documents, save_documents,
};
pub use error::{Error, Result};
pub use experiment::Experiment;
pub use finetuner_protocol as protocol;
#[doc(inline)]
pub use finetuner_protocol::{
    Backbone, CheckpointInfo, Class, Config, Content, Device, Document, DocumentArray,
    DocumentError, ExamplesInfo, Generation, HardNegatives, LABEL_TAG, Lora, Loss, MAX_EPOCHS,
    MetricPoint, MetricsInfo, Miner, ModelOption, MultiDatasetBatchSampler, NamedScore, NdArray,
    Optimizer, Options, Page, Prompts, RunConfig, RunTask, SCORE_TAG, Sampler, Scheduler,
    SchedulerOptions, Status, StatusInfo, Summary, SynthesisConfig, Task,
    callback::{
        BestModelCheckpoint, EarlyStopping, MLFlowLogger, TrainingCheckpoint, WandBLogger,
        WiSEFTCallback,
    },
};
pub use fit::Fit;
pub use list::{List, Stream};
pub use logs::LogStream;
pub use models::{ModelTable, describe_models, list_model_options, list_models};
pub use progress::Progress;
pub use results::{ExamplesTable, MetricsTable};
pub use run::Run;
pub use secret::Secret;
pub use synthesize::{SynthesisModels, Synthesize};
pub use tables::{Columns, Csv, CsvOptions, Dataset, Dialect};
pub use transport::{RequestBody, RetryPolicy};
pub use watch::{RunProgress, Update, Watch};

/// The code of the README, compiled as tests.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../README.md")]
struct Readme;
