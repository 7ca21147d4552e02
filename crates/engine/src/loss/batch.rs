//! Batches, and losses over their labels.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::tuples::{Labels, Pairs, Tuples};
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
    pub(super) fn pairs(&self) -> (Pairs, Pairs) {
        match self.tuples {
            Some(tuples) => tuples.clone().into_pairs(),
            None => (self.labels.positive(), self.labels.negative()),
        }
    }

    /// Returns the value of a weight of the loss.
    pub(super) fn own(&self, param: &Arc<Param>) -> Result<Tensor> {
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
