//! Reads the options of a loss and collects its weights.

use std::sync::Arc;

use super::{
    batch::MetricLoss,
    distance::{Limit, Metric},
    reduce::{self, PartLoss, Reduced, Reducer},
};
use crate::{
    Result,
    options::OptionReader,
    params::Param,
    random::{normal_weights, uniform_weights},
};

/// Sizes and seed for the weights of a loss.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) classes: usize,
    pub(super) dim: usize,
    pub(super) seed: u64,
}

/// A loss with its weights and its `mini_batch_size`.
pub(super) struct Made<T> {
    pub(super) loss: T,
    pub(super) params: Vec<Arc<Param>>,
    pub(super) mini_batch: Option<usize>,
}

/// Builds a loss. All options must be known.
pub(super) fn build_loss<T>(
    read: OptionReader<'_>,
    shape: Shape,
    prefix: &str,
    make: fn(&mut Maker<'_>) -> Result<T>,
) -> Result<Made<T>> {
    let mut maker = Maker {
        read,
        shape,
        prefix,
        params: Vec::new(),
        mini_batch: None,
    };
    let loss = make(&mut maker)?;
    maker.read.finish()?;
    Ok(Made {
        loss,
        params: maker.params,
        mini_batch: maker.mini_batch,
    })
}

/// Options of a loss to build, and its weights.
pub(super) struct Maker<'a> {
    pub(super) read: OptionReader<'a>,
    shape: Shape,
    /// Prefix of the weights' names.
    prefix: &'a str,
    params: Vec<Arc<Param>>,
    mini_batch: Option<usize>,
}

impl Maker<'_> {
    /// Returns the number of classes, at least 1.
    pub(super) fn classes(&self) -> usize {
        self.shape.classes.max(1)
    }

    /// Returns the dimension of the embeddings, at least 1.
    pub(super) fn dim(&self) -> usize {
        self.shape.dim.max(1)
    }

    /// Returns the seed of random weights.
    pub(super) fn seed(&self) -> u64 {
        self.shape.seed
    }

    /// Reads `mini_batch_size`: the number of examples to embed at once.
    pub(super) fn mini_batch_size(&mut self, default: Option<usize>) -> Result<()> {
        let size = self
            .read
            .count("mini_batch_size", default.unwrap_or(0), 1)?;
        self.mini_batch = (size > 0).then_some(size);
        Ok(())
    }

    /// Reads the option `distance`.
    pub(super) fn metric(&self, default: Metric, limit: Limit) -> Result<Metric> {
        Metric::read(&self.read, default, limit)
    }

    /// Combines a loss with the option `reducer`.
    pub(super) fn reduced<L: PartLoss + 'static>(
        &self,
        loss: L,
        default: Reducer,
        shape: reduce::Shape,
    ) -> Result<Box<dyn MetricLoss>> {
        // The plan builds losses before the number of classes is known.
        let classes = if self.shape.dim > 0 {
            self.classes()
        } else {
            0
        };
        let reducer = Reducer::read(&self.read, default, shape, classes)?;
        Ok(Box::new(Reduced { loss, reducer }))
    }

    /// Adds a weight of the loss.
    pub(super) fn weight(
        &mut self,
        name: &str,
        shape: &[usize],
        values: Vec<f32>,
    ) -> Result<Arc<Param>> {
        let name = format!("{}{name}", self.prefix);
        let param = Param::trainable(&name, shape.to_vec(), values)?;
        self.params.push(param.clone());
        Ok(param)
    }

    /// Adds weight and bias of a linear layer with `rows` outputs.
    ///
    /// They are initialised like those of `torch.nn.Linear`.
    pub(super) fn linear(&mut self, name: &str, rows: usize) -> Result<(Arc<Param>, Arc<Param>)> {
        let (dim, seed) = (self.dim(), self.seed());
        let bound = 1.0 / (dim as f64).sqrt();
        let weight = uniform_weights(seed, rows * dim, bound);
        let bias = uniform_weights(seed.wrapping_add(1), rows, bound);
        Ok((
            self.weight(&format!("{name}.weight"), &[rows, dim], weight)?,
            self.weight(&format!("{name}.bias"), &[rows], bias)?,
        ))
    }

    /// Adds a weight from a normal distribution with mean 0 and deviation `spread`.
    pub(super) fn normal_weight(
        &mut self,
        name: &str,
        shape: [usize; 2],
        spread: f64,
    ) -> Result<Arc<Param>> {
        let values = normal_weights(self.seed(), shape[0] * shape[1], spread);
        self.weight(name, &shape, values)
    }
}
