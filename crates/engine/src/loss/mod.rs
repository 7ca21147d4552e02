//! Losses.
//!
//! Names, options and defaults are those of pytorch-metric-learning and
//! sentence-transformers, except for a few losses of the Python Finetuner.
//! [`Criterion`] is a loss that is ready to train with, including its miner and its own
//! weights.

mod adaptive_layer;
mod batch_triplets;
mod build;
mod class;
mod cosent;
mod criterion;
mod distance;
mod distill;
mod gist;
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

use std::sync::Arc;

use candle_core::{DType, Tensor};

use build::Maker;
pub use criterion::{Beside, Criterion, Target};
pub(crate) use distance::{Limit, Metric};
pub use pairwise::{MAX_LOGIT_SCALE, clip_loss};
pub(crate) use registry::LossKind;
pub use spec::LossSpec;
pub(crate) use tuples::Labels;
pub use tuples::Tuples;

use crate::{Result, params::Param};

/// Embeddings of a batch and of the examples that it is compared with.
///
/// Both are in double precision on the CPU.
pub(crate) struct Batch<'a> {
    /// `[batch, dim]`
    pub(crate) x: &'a Tensor,
    /// Embeddings to compare with: the batch itself, or others.
    pub(crate) y: &'a Tensor,
    pub(crate) labels: Labels<'a>,
    /// Tuples that a miner selected.
    pub(crate) tuples: Option<&'a Tuples>,
    /// Seed of random selections.
    pub(crate) seed: u64,
    /// Whether the weights of the loss get gradients.
    pub(crate) training: bool,
}

impl Batch<'_> {
    /// Returns the pairs to compare: the miner's, or all.
    fn pairs(&self) -> (tuples::Pairs, tuples::Pairs) {
        match self.tuples {
            Some(tuples) => tuples.clone().into_pairs(),
            None => (self.labels.positive(), self.labels.negative()),
        }
    }

    /// Returns the value of a weight of the loss.
    fn own(&self, param: &Arc<Param>) -> Result<Tensor> {
        let value = param.tensor();
        let value = if self.training {
            value.clone()
        } else {
            value.detach()
        };
        Ok(value.to_dtype(DType::F64)?)
    }
}

/// A loss over the embeddings and labels of a batch.
pub(crate) trait MetricLoss: Send {
    /// Returns the loss as a scalar.
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor>;
}
