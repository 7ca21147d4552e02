//! Losses: what training makes smaller.
//!
//! Names, options and defaults are those of pytorch-metric-learning, beside the
//! few that the Python Finetuner had of its own. [`Criterion`] is a loss ready
//! for a run: with its miner, and with the weights that some losses have.

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

/// Embeddings of a batch, and what they are compared with, in double precision
/// on the CPU.
pub(crate) struct Batch<'a> {
    /// `[batch, dim]`
    pub(crate) x: &'a Tensor,
    /// What they are compared with: themselves, or others.
    pub(crate) y: &'a Tensor,
    pub(crate) labels: Labels<'a>,
    /// What a miner has chosen.
    pub(crate) tuples: Option<&'a Tuples>,
    /// Decides what is drawn at random.
    pub(crate) seed: u64,
    /// Whether weights of the loss get a gradient.
    pub(crate) training: bool,
}

impl Batch<'_> {
    /// The pairs that are looked at: those that a miner has chosen, or all.
    fn pairs(&self) -> (tuples::Pairs, tuples::Pairs) {
        match self.tuples {
            Some(tuples) => tuples.clone().into_pairs(),
            None => (self.labels.positive(), self.labels.negative()),
        }
    }

    /// A weight of the loss's own.
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
    /// A scalar.
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor>;
}
