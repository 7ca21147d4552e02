//! The modules of a sentence-transformers model behind its network: how texts
//! are pooled, what is applied to the pooled embeddings, and which prompts are
//! put before texts.
//!
//! A folder of sentence-transformers lists its modules in `modules.json`. All of
//! them are read, applied in training and inference alike, trained where they
//! have weights, and saved again, so that both libraries give the same
//! embeddings. A module or a setting that is unknown here is refused by name.

mod classifier;
mod dense;
mod layer;
mod list;
mod pooling;
mod prompts;
mod save;
mod sentence;

pub(crate) use classifier::ClassifierFiles;
pub use dense::Activation;
pub use layer::LayerSpec;
pub(crate) use layer::{Layer, PREFIX, head_place};
pub(crate) use list::{Found, Reader, is_file, network_folder, read};
pub(crate) use pooling::Pooling;
pub use prompts::Prompts;
pub(crate) use save::{Files, NamedFiles, Saved};
pub(crate) use sentence::SentenceConfig;

/// The list of modules.
pub(crate) const LIST_FILE: &str = "modules.json";
