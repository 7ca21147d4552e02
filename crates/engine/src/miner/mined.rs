//! The interface of miners: their input, and the trait that they implement.

use candle_core::{Device, Tensor};

use crate::{
    Result,
    loss::{Labels, Limit, Metric, Tuples},
    options::OptionReader,
};

/// Input of a miner: embeddings of a batch and of its reference.
///
/// The batch is compared with the reference.
pub(crate) struct Mined<'a> {
    pub(crate) labels: Labels<'a>,
    /// Embeddings of the batch, `dim` values each.
    pub(crate) batch: &'a [f64],
    /// Embeddings of the reference.
    pub(crate) reference: &'a [f64],
    pub(crate) dim: usize,
    /// Seed of random selections.
    pub(crate) seed: u64,
}

impl Mined<'_> {
    pub(super) fn row(rows: &[f64], dim: usize, i: u32) -> &[f64] {
        &rows[i as usize * dim..(i as usize + 1) * dim]
    }

    /// Returns the distances or similarities, `[batch][reference]`.
    pub(super) fn matrix(&self, metric: Metric) -> Result<Vec<Vec<f64>>> {
        let tensor = |rows: &[f64]| {
            let shape = (rows.len() / self.dim.max(1), self.dim);
            Tensor::from_slice(rows, shape, &Device::Cpu)
        };
        let matrix = metric.matrix(&tensor(self.batch)?, &tensor(self.reference)?)?;
        Ok(matrix.to_vec2()?)
    }

    /// Returns the distances.
    ///
    /// The sign of similarities is flipped: smaller is nearer.
    pub(super) fn distances(&self, metric: Metric) -> Result<Vec<Vec<f64>>> {
        let mut matrix = self.matrix(metric)?;
        if metric.is_similarity() {
            matrix.iter_mut().flatten().for_each(|x| *x = -*x);
        }
        Ok(matrix)
    }
}

/// Selects pairs or triplets.
pub(crate) trait Mine: Send {
    fn mine(&self, batch: &Mined<'_>) -> Result<Tuples>;
}

/// A miner of tuples, or of a subset of the batch.
pub(crate) enum Miner {
    Tuples(Box<dyn Mine>),
    /// `MaximumLossMiner`: selects a subset of a batch.
    ///
    /// Of several random subsets, the one with the highest loss is used.
    Subset {
        output_batch_size: usize,
        num_trials: usize,
    },
}

impl Miner {
    /// Reads the option `distance`.
    pub(super) fn metric(read: &OptionReader<'_>, default: Metric, limit: Limit) -> Result<Metric> {
        Metric::read(read, default, limit)
    }

    pub(super) fn tuples(miner: impl Mine + 'static) -> Self {
        Self::Tuples(Box::new(miner))
    }
}
