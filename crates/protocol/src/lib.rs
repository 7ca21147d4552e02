//! What travels between a Finetuner client and its backend.
//!
//! Types and their forms on the wire, for both generations of the Python
//! client, and nothing that does any input or output of its own:
//!
//! | module | what it defines |
//! | --- | --- |
//! | [`config`] | the configuration of a run, and the limits of its values |
//! | [`callback`] | what happens beside the training |
//! | [`names`] | losses, optimizers, statuses: names that may be unknown |
//! | [`run`] | experiments, runs, their status and metrics |
//! | [`event`] | what happens in a run, and how a worker reports it |
//! | [`backbone`] | the models to start from |
//! | [`document`], [`document_array`] | training data, and its byte stream |
//!
//! Reading never fails on a member or a name that is new; both are kept and
//! written back.

pub mod backbone;
pub mod callback;
pub mod config;
pub mod document;
pub mod document_array;
pub mod event;
pub mod names;
mod proto;
pub mod run;

pub use backbone::{BACKBONES, Backbone, CLIP_SMALL, find_backbone};
pub use callback::{BestModelCheckpoint, Callback, EvaluationCallback};
pub use config::{
    Data, Generation, HyperParameters, InvalidField, MAX_EPOCHS, Model, RunConfig,
    SchedulerOptions, check_name,
};
pub use document::{Content, Document, LABEL_TAG, NamedScore, NdArray, SCORE_TAG};
pub use document_array::{DocumentArray, DocumentError, MAX_DOCUMENT_BYTES};
pub use event::{Event, EventBatch, Job, Level, Outcome, Stage, WorkerOrders};
pub use names::{Device, Loss, Optimizer, RunTask, Status, Task};
pub use run::{ExperimentInfo, MetricsInfo, NewRun, Page, RunInfo, StatusInfo};
