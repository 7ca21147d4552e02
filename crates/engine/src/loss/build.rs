//! Builds a loss from its name and options.

use std::sync::Arc;

use finetuner_protocol::{Loss, Options};
use serde_json::Value;

use super::{
    MetricLoss,
    class::named,
    distance::{Limit, Metric},
    reduce::{self, PartLoss, Reduced, Reducer},
    registry::{self, LossKind, Make},
    spec::{LossSpec, nested},
};
use crate::{
    Error, Result,
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

/// A loss over labels, with its weights and the size of its memory.
pub(super) struct Built {
    pub(super) loss: Box<dyn MetricLoss>,
    pub(super) params: Vec<Arc<Param>>,
    pub(super) memory: Option<usize>,
}

/// Builds a loss over labels. The names of its weights start with `prefix`.
pub(super) fn build(
    loss: &Loss,
    options: Option<&Options>,
    shape: Shape,
    prefix: &str,
) -> Result<Built> {
    match loss {
        Loss::CrossBatchMemory => {
            let read = OptionReader::new("loss_options", options);
            let (name, inner) = nested(&read, "loss")?;
            if !registry::with_memory().any(|known| *known == name) {
                let known: Vec<&str> = registry::with_memory().map(Loss::as_str).collect();
                return Err(read.bad("loss", &format!("give one of {}", known.join(", "))));
            }
            let size = read.count("memory_size", 1024, 2)?;
            read.value("loss_options");
            read.finish()?;
            let built = build(&name, inner.as_ref(), shape, prefix)?;
            Ok(Built {
                memory: Some(size),
                ..built
            })
        }
        Loss::MultipleLosses => {
            let read = OptionReader::new("loss_options", options);
            let names = read.value("losses").and_then(Value::as_array).cloned();
            let names = names.filter(|names| !names.is_empty());
            let names = names.ok_or_else(|| read.bad("losses", "give a list of losses"))?;
            let weights = match read.value("weights") {
                None => vec![1.0; names.len()],
                Some(value) => value
                    .as_array()
                    .map(|list| list.iter().filter_map(Value::as_f64).collect::<Vec<_>>())
                    .filter(|weights| weights.len() == names.len())
                    .ok_or_else(|| read.bad("weights", "give one number for each loss"))?,
            };
            read.finish()?;
            let mut losses = Vec::new();
            let mut params = Vec::new();
            for (i, (value, weight)) in names.iter().zip(weights).enumerate() {
                let (name, inner) = named(value).ok_or_else(|| {
                    read.bad("losses", "give names, or objects with `name` and `options`")
                })?;
                if matches!(name, Loss::MultipleLosses | Loss::CrossBatchMemory)
                    || LossSpec::new(name.clone()).kind() != LossKind::Labels
                {
                    return Err(read.bad("losses", "give losses over labels"));
                }
                let shape = Shape {
                    seed: shape.seed.wrapping_add(i as u64),
                    ..shape
                };
                let built = build(&name, inner.as_ref(), shape, &format!("{i}."))?;
                losses.push((weight, built.loss));
                params.extend(built.params);
            }
            Ok(Built {
                loss: Box::new(Sum(losses)),
                params,
                memory: None,
            })
        }
        _ => single(loss, options, shape, prefix),
    }
}

/// Weighted sum of losses.
struct Sum(Vec<(f64, Box<dyn MetricLoss>)>);

impl MetricLoss for Sum {
    fn loss(&self, batch: &super::Batch<'_>) -> Result<candle_core::Tensor> {
        let mut sum = super::math::zero()?;
        for (weight, loss) in &self.0 {
            sum = (sum + loss.loss(batch)?.affine(*weight, 0.0)?)?;
        }
        Ok(sum)
    }
}

fn single(loss: &Loss, options: Option<&Options>, shape: Shape, prefix: &str) -> Result<Built> {
    let read = OptionReader::new("loss_options", options);
    // Data and model define these. A given value must be equal.
    let has_shape = LossSpec::new(loss.clone()).has_classes();
    for (name, own, counts) in [
        (
            "num_classes",
            shape.classes,
            has_shape || *loss == Loss::Margin,
        ),
        ("embedding_size", shape.dim, has_shape),
    ] {
        if counts && shape.dim > 0 && read.count(name, own, 1)? != own {
            return Err(read.bad(name, &format!("this run has {own}; remove the option")));
        }
    }
    let make = match registry::find(loss)?.make {
        Make::Labels(_, make) => make,
        _ => {
            let reason =
                format!("`{loss}` is not a loss over labels, so it can't be part of another loss");
            return Err(Error::config("loss", reason));
        }
    };
    let Made { loss, params, .. } = made(read, shape, prefix, make)?;
    Ok(Built {
        loss,
        params,
        memory: None,
    })
}

/// A loss with its weights and its `mini_batch_size`.
pub(super) struct Made<T> {
    pub(super) loss: T,
    pub(super) params: Vec<Arc<Param>>,
    pub(super) mini_batch: Option<usize>,
}

/// Builds a loss. All options must be known.
pub(super) fn made<T>(
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
