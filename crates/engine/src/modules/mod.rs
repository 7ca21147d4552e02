//! The modules of a sentence-transformers model after its network: pooling,
//! transformations of the pooled embeddings, and prompts.
//!
//! `modules.json` lists the modules of a model. All of them are read, applied
//! in training and inference, trained if they have weights, and saved, so that
//! both libraries return the same embeddings. Unknown modules and settings are
//! refused by name.

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
pub(crate) use layer::{Layer, PREFIX, head_position};
pub(crate) use list::{Found, Reader, is_file, network_folder, read};
pub(crate) use pooling::Pooling;
pub use prompts::Prompts;
pub(crate) use save::{Files, FoldedLayer, NamedFiles, Saved};
pub(crate) use sentence::SentenceConfig;

/// The file with the list of modules.
pub(crate) const LIST_FILE: &str = "modules.json";
