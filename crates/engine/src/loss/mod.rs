//! Loss functions, built by name.
//!
//! Names, options and defaults are those of pytorch-metric-learning and
//! sentence-transformers, except for a few losses of the Python Finetuner.
//! [`Criterion`] is a loss that is ready to train with, including its miner and its own
//! weights.

mod adaptive_layer;
mod batch;
mod batch_triplets;
mod build;
mod class;
mod cosent;
mod criterion;
mod distance;
mod distill;
mod gist;
mod maker;
mod math;
mod matryoshka;
mod memory;
mod neighbours;
mod pair_scores;
mod pairs;
mod pairwise;
mod proxies;
mod reduce;
mod registry;
mod sigmoid;
mod spec;
mod triplet;
mod triplets;
mod tuples;
mod wrappers;

pub use criterion::{Beside, Criterion, Target};
pub(crate) use distance::{Limit, Metric};
pub use pairwise::{MAX_LOGIT_SCALE, clip_loss};
pub(crate) use registry::LossKind;
pub use spec::LossSpec;
pub(crate) use tuples::Labels;
pub use tuples::Tuples;
