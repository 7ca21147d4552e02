//! Builds a loss from its name and options.

use std::sync::Arc;

use candle_core::Tensor;
use finetuner_protocol::{Loss, Options};
use serde_json::Value;

use super::{
    batch::{Batch, MetricLoss},
    class::parse_loss_name,
    maker::{Made, Shape, build_loss},
    math::zero_loss,
    registry::{self, LossKind, Make},
    spec::{LossSpec, read_loss},
};
use crate::{
    Error, Result,
    options::{OptionReader, numbers},
    params::Param,
};

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
            let (name, inner) = read_loss(&read, "loss")?;
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
                Some(value) => Some(numbers(value))
                    .filter(|weights| weights.len() == names.len())
                    .ok_or_else(|| read.bad("weights", "give one number for each loss"))?,
            };
            read.finish()?;
            let mut losses = Vec::new();
            let mut params = Vec::new();
            for (i, (value, weight)) in names.iter().zip(weights).enumerate() {
                let (name, inner) = parse_loss_name(value).ok_or_else(|| {
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
    fn loss(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let mut sum = zero_loss()?;
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
    let Made { loss, params, .. } = build_loss(read, shape, prefix, make)?;
    Ok(Built {
        loss,
        params,
        memory: None,
    })
}
