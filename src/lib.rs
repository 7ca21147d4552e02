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
//! | to do this | look at |
//! | --- | --- |
//! | choose a backend, log in | [`Finetuner`], [`Builder`] |
//! | choose a model | [`describe_models`] |
//! | bring data | [`Document`], [`DocumentArray`], [`Finetuner::push`] |
//! | train | [`Finetuner::fit`], [`Fit`] |
//! | follow and save | [`Run`] |
//! | find things again | [`Finetuner::get_run`], [`Experiment`] |
//! | know what went wrong | [`Error`] |
//!
//! Handles ([`Experiment`], [`Run`]) are cheap to clone, and dropping one stops
//! nothing: a run goes on without anybody looking.

mod address;
mod artifact;
mod auth;
mod client;
mod data;
mod error;
mod experiment;
mod fit;
mod logs;
mod models;
mod names;
mod retry;
mod run;
mod secret;
mod transport;

pub use address::{DEFAULT_ADDRESS, HUBBLE_VARIABLE, REGISTRY_VARIABLE};
pub use auth::{FOLDER_VARIABLE, TOKEN_VARIABLE};
pub use client::{Builder, Finetuner, User};
pub use data::TrainingData;
pub use error::{Error, Result};
pub use experiment::Experiment;
#[doc(inline)]
pub use finetuner_protocol::{
    Backbone, BestModelCheckpoint, Callback, Content, Device, Document, DocumentArray,
    DocumentError, EvaluationCallback, Generation, LABEL_TAG, Loss, MAX_EPOCHS, MetricsInfo,
    NamedScore, NdArray, Optimizer, RunConfig, SCORE_TAG, Status, StatusInfo, Task,
};
pub use fit::Fit;
pub use logs::LogStream;
pub use models::{ModelTable, describe_models, list_models};
pub use retry::RetryPolicy;
pub use run::Run;
pub use secret::Secret;

/// The code of the README, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
