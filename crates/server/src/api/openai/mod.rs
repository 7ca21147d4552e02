//! `/v1/*`: finished models for programs that use OpenAI's API. Requests, answers
//! and errors have its format.

mod caller;
mod embeddings;
mod error;
mod input;
mod models;

pub(crate) use embeddings::{MAX_BODY, create as create_embeddings};
pub(crate) use error::nothing_here;
pub(crate) use models::{
    list as list_models, one as model, one_of_experiment as model_of_experiment,
};
