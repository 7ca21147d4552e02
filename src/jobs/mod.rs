//! Builders for jobs: they collect settings, upload the data, and create a run.

mod base_model;
mod callbacks;
mod fit;
mod models;
mod names;
mod submit;
mod synthesize;

pub use base_model::BaseModel;
pub use callbacks::{EvaluationCallback, FitCallback, list_callbacks};
pub use fit::Fit;
pub use models::{ModelTable, describe_models, list_model_options, list_models};
pub use synthesize::{SynthesisModels, Synthesize};
