//! Wire types that a Finetuner client and its backend exchange.
//!
//! The crate defines types and their serialization, for both generations of the
//! Python client. It does no I/O.
//!
//! | module | content |
//! | --- | --- |
//! | [`config`], [`synthesis`] | the configuration of a run |
//! | [`hard_negatives`] | options for mining negatives from a corpus |
//! | [`limits`] | limits of settings |
//! | [`options`], [`lora`] | options of losses, optimizers, models and others |
//! | [`callback`] | callbacks: evaluation, checkpoints, early stopping, logging |
//! | [`names`] | losses, optimizers, statuses: names that may be unknown |
//! | [`run`] | experiments, runs, their status and metrics |
//! | [`annotations`] | tags and notes |
//! | [`event`] | the events of a run |
//! | [`backbone`] | models that runs can start from |
//! | [`mod@open_clip`] | models of open_clip by name |
//! | [`document`], [`document_array`], [`summary`] | training data, its byte stream and its summary |
//! | [`origin`] | whether a document was received or created by this program |
//! | `worker` (feature `worker`) | messages between a server and its workers |
//! | [`time`] | timestamps in the formats of backends |
//! | [`text`] | blank and missing texts, and shortened texts for errors |
//!
//! Unknown members and names are not errors: they are kept and written back.

pub mod annotations;
pub mod backbone;
pub mod callback;
pub mod config;
pub mod document;
pub mod document_array;
mod document_error;
mod document_stream;
pub mod event;
mod generation;
pub mod hard_negatives;
mod invalid_field;
pub mod limits;
pub mod lora;
mod members;
mod model_option;
mod more_data;
pub mod names;
pub mod open_clip;
pub mod options;
pub mod origin;
mod page;
mod prompts;
mod proto;
pub mod run;
pub mod summary;
pub mod synthesis;
pub mod text;
pub mod time;
#[cfg(feature = "worker")]
pub mod worker;

pub use annotations::{
    AnnotationChange, Annotations, MAX_NOTE_BYTES, MAX_TAG_BYTES, MAX_TAGS, split_tags,
};
pub use backbone::{
    BACKBONES, Backbone, CLIP_SMALL, EFFICIENTNET_SMALL, MINILM_SMALL, ModelOption,
    TWO_TOWERS_SMALL, cross_encoder_hub_name, find_backbone, listed_task,
};
pub use callback::Callback;
pub use config::{Data, Generation, HyperParameters, Model, RunConfig, SchedulerOptions};
pub use document::{Content, Document, LABEL_TAG, NamedScore, NdArray, SCORE_TAG};
pub use document_array::{
    DocumentArray, DocumentError, DocumentReader, MAX_DOCUMENT_BYTES, stream_frame, stream_head,
};
pub use event::{CheckpointInfo, Event, FoundDocuments, Level, Stage};
pub use hard_negatives::HardNegatives;
pub use limits::{InvalidField, MAX_EPOCHS, MIN_LEARNING_RATE, check_name, check_workers};
pub use lora::Lora;
pub use more_data::MoreData;
pub use names::{
    Device, Distance, Loss, Miner, Modality, MonitorMode, MultiDatasetBatchSampler,
    NegativesFormat, Optimizer, RunTask, Sampler, SamplingStrategy, Scheduler, SchedulerStep,
    Status, Task,
};
pub use open_clip::{OpenClip, open_clip, open_clip_names};
pub use options::{Class, Options};
pub use prompts::Prompts;
pub use run::{
    Config, ExamplesInfo, ExperimentInfo, MAX_POINTS, MetricPoint, MetricsInfo, NewRun, Page,
    RunInfo, StatusInfo, greater_is_better,
};
pub use summary::{Summary, SummaryCounter};
pub use synthesis::{RelationMining, SynthesisConfig, SynthesisData};
