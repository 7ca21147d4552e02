//! Builds an optimizer from its name and options.

use std::collections::HashMap;

use finetuner_protocol::{Optimizer as Name, Options};

use super::{adam::Adam, rule::Optimizer, rules, stepper::Stepper};
use crate::{
    Error, Result,
    models::ModelConfig,
    options::{OptionReader, numbers},
};

/// Largest weight decay. Larger values would push all weights to zero or
/// beyond.
const MOST_DECAY: f64 = 1e3;

/// An optimizer, as a run's configuration names it.
#[derive(Clone, Debug)]
pub struct OptimizerSpec {
    /// The optimizer.
    pub name: Name,
    /// Its options.
    pub options: Option<Options>,
    /// The configuration fields for name and options, for messages.
    pub fields: [&'static str; 2],
}

/// Settings that the options of every optimizer accept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Extras {
    /// Ratio of a layer's learning rate to that of the layer above.
    pub(crate) layer_wise_lr_decay: Option<f64>,
    /// Largest total norm of the gradients; larger ones are scaled down.
    pub(crate) max_grad_norm: Option<f64>,
}

impl OptimizerSpec {
    /// Returns the default learning rate of `torch.optim`.
    #[must_use]
    pub fn default_learning_rate(&self) -> f64 {
        match self.name {
            Name::Adadelta => 1.0,
            Name::Adamax | Name::NAdam => 2e-3,
            Name::Adagrad | Name::Asgd | Name::RmsProp | Name::Rprop => 1e-2,
            _ => 1e-3,
        }
    }

    /// Returns the learning rate of a loss's own weights: the option `lr`, or
    /// else that of the model.
    #[must_use]
    pub(crate) fn learning_rate(&self, of_model: f64) -> f64 {
        let own = self.options.as_ref().and_then(|options| options.get("lr"));
        own.and_then(serde_json::Value::as_f64).unwrap_or(of_model)
    }

    /// Refuses a weight decay that would flip the sign of weights in one step.
    ///
    /// # Errors
    /// [`Error::Config`] with the value and its limit.
    pub(crate) fn check_decay(&self, learning_rate: f64) -> Result<()> {
        let given = self.options.as_ref().and_then(|o| o.get("weight_decay"));
        let Some(decay) = given.and_then(serde_json::Value::as_f64) else {
            return Ok(());
        };
        if decay * learning_rate < 1.0 {
            return Ok(());
        }
        let limit = 1.0 / learning_rate;
        Err(Error::config(
            self.fields[1],
            format!(
                "`weight_decay` is {decay}: with a learning rate of {learning_rate} it must be \
                 less than {limit}; a common value is 0.01"
            ),
        ))
    }

    /// Builds the optimizer; `scales` are factors of the parameters' learning
    /// rates.
    ///
    /// # Errors
    /// [`Error::Config`] names an invalid option, or says why an optimizer
    /// can't be used here.
    pub(crate) fn build(
        &self,
        scales: HashMap<String, f64>,
    ) -> Result<(Box<dyn Optimizer>, Extras)> {
        let read = OptionReader::new(self.fields[1], self.options.as_ref());
        let optional = |name: &str, low: f64, high: f64| -> Result<Option<f64>> {
            match read.value(name) {
                None => Ok(None),
                Some(_) => read.number(name, 0.0, low, high).map(Some),
            }
        };
        if self.fields[0] == "loss_optimizer" {
            read.positive("lr", 1e-3)?;
        }
        let extras = Extras {
            layer_wise_lr_decay: optional("layer_wise_lr_decay", f64::MIN_POSITIVE, 1.0)?,
            max_grad_norm: optional("max_grad_norm", f64::MIN_POSITIVE, f64::INFINITY)?,
        };
        let decay = |default: f64| read.number("weight_decay", default, 0.0, MOST_DECAY);
        let eps = |default: f64| read.number("eps", default, 0.0, 1.0);
        let betas = || read.rates("betas", (0.9, 0.999));
        let optimizer: Box<dyn Optimizer> = match &self.name {
            Name::Adam | Name::AdamW => {
                let adam = if self.name == Name::Adam {
                    Adam::new().weight_decay(decay(0.0)?)
                } else {
                    Adam::adamw().weight_decay(decay(0.01)?)
                };
                let (beta1, beta2) = betas()?;
                adam.betas(beta1, beta2)
                    .eps(eps(1e-8)?)
                    .amsgrad(read.flag("amsgrad", false)?)
                    .scaled(scales)
            }
            Name::Sgd => {
                let rule = rules::Sgd {
                    momentum: read.number("momentum", 0.0, 0.0, 1.0)?,
                    dampening: read.any_number("dampening", 0.0)?,
                    weight_decay: decay(0.0)?,
                    nesterov: read.flag("nesterov", false)?,
                };
                if rule.nesterov && (rule.momentum == 0.0 || rule.dampening != 0.0) {
                    let wanted = "it needs a `momentum` above 0 and no `dampening`";
                    return Err(read.bad("nesterov", wanted));
                }
                Box::new(Stepper::new(rule, scales))
            }
            Name::Adadelta => Box::new(Stepper::new(
                rules::Adadelta {
                    rho: read.number("rho", 0.9, 0.0, 1.0)?,
                    eps: eps(1e-6)?,
                    weight_decay: decay(0.0)?,
                },
                scales,
            )),
            Name::Adagrad => Box::new(Stepper::new(
                rules::Adagrad {
                    lr_decay: read.number("lr_decay", 0.0, 0.0, f64::INFINITY)?,
                    initial_accumulator_value: read.number(
                        "initial_accumulator_value",
                        0.0,
                        0.0,
                        f64::INFINITY,
                    )?,
                    eps: eps(1e-10)?,
                    weight_decay: decay(0.0)?,
                },
                scales,
            )),
            Name::Adamax => Box::new(Stepper::new(
                rules::Adamax {
                    betas: betas()?,
                    eps: eps(1e-8)?,
                    weight_decay: decay(0.0)?,
                },
                scales,
            )),
            Name::Asgd => {
                // torch.optim keeps an average from this step on, which nothing
                // reads.
                read.any_number("t0", 1e6)?;
                let rule = rules::Asgd {
                    lambd: read.any_number("lambd", 1e-4)?,
                    alpha: read.any_number("alpha", 0.75)?,
                    weight_decay: decay(0.0)?,
                };
                Box::new(Stepper::new(rule, scales))
            }
            Name::NAdam => Box::new(Stepper::new(
                rules::NAdam {
                    betas: betas()?,
                    eps: eps(1e-8)?,
                    weight_decay: decay(0.0)?,
                    momentum_decay: read.number("momentum_decay", 4e-3, 0.0, f64::INFINITY)?,
                    decoupled: read.flag("decoupled_weight_decay", false)?,
                },
                scales,
            )),
            Name::RAdam => Box::new(Stepper::new(
                rules::RAdam {
                    betas: betas()?,
                    eps: eps(1e-8)?,
                    weight_decay: decay(0.0)?,
                    decoupled: read.flag("decoupled_weight_decay", false)?,
                },
                scales,
            )),
            Name::RmsProp => Box::new(Stepper::new(
                rules::RmsProp {
                    alpha: read.number("alpha", 0.99, 0.0, 1.0)?,
                    eps: eps(1e-8)?,
                    weight_decay: decay(0.0)?,
                    momentum: read.number("momentum", 0.0, 0.0, 1.0)?,
                    centered: read.flag("centered", false)?,
                },
                scales,
            )),
            Name::Rprop => {
                let pair = |name: &str, default: (f64, f64)| -> Result<(f64, f64)> {
                    let Some(value) = read.value(name) else {
                        return Ok(default);
                    };
                    match *numbers(value) {
                        [a, b] if 0.0 < a && a < b => Ok((a, b)),
                        _ => Err(read.bad(name, "give two rising numbers above 0")),
                    }
                };
                let rule = rules::Rprop {
                    etas: pair("etas", (0.5, 1.2))?,
                    step_sizes: pair("step_sizes", (1e-6, 50.0))?,
                };
                Box::new(Stepper::new(rule, scales))
            }
            Name::Lbfgs => {
                return Err(self.refused(
                    "it evaluates the loss of a batch several times in a step, which training \
                     over batches doesn't support; use AdamW",
                ));
            }
            Name::SparseAdam => {
                return Err(self.refused("gradients are dense here; use Adam"));
            }
            _ => {
                let known: Vec<&str> = Name::KNOWN.iter().map(Name::as_str).collect();
                return Err(
                    self.refused(&format!("it is not known; use one of {}", known.join(", ")))
                );
            }
        };
        read.finish()?;
        Ok((optimizer, extras))
    }

    fn refused(&self, reason: &str) -> Error {
        Error::config(self.fields[0], format!("`{}`: {reason}", self.name))
    }
}

/// Returns factors of the parameters' learning rates for layer-wise decay, in
/// which each layer's rate is that of the layer above times `decay` (Howard and
/// Ruder 2018, arXiv:1801.06146). Embeddings are below the first layer.
/// Parameters outside layers, such as projections, have the full rate.
///
/// Empty for models without uniform layers.
#[must_use]
pub fn layer_scales<'a>(
    config: &ModelConfig,
    params: impl Iterator<Item = &'a str>,
    decay: f64,
) -> HashMap<String, f64> {
    let prefixes = config.architecture().layer_prefixes();
    if prefixes.is_empty() {
        return HashMap::new();
    }
    let layer_of = |name: &str| -> Option<(String, i32)> {
        for prefix in prefixes {
            if let Some((tower, rest)) = name.split_once(prefix) {
                let number = rest.split('.').next()?.parse().ok()?;
                return Some((tower.to_owned(), number));
            }
        }
        None
    };
    let tensors = config.tensors();
    let params: Vec<&str> = params.collect();
    let mut layers: HashMap<String, i32> = HashMap::new();
    for (tower, number) in tensors.iter().filter_map(|(name, _)| layer_of(name)) {
        let count = layers.entry(tower).or_default();
        *count = (*count).max(number + 1);
    }
    params
        .into_iter()
        .filter_map(|name| {
            let below = if let Some((tower, number)) = layer_of(name) {
                layers.get(&tower)? - 1 - number
            } else {
                let (tower, _) = name.split_once("embeddings.")?;
                *layers.get(tower)?
            };
            Some((name.to_owned(), decay.powi(below)))
        })
        .collect()
}

#[cfg(test)]
mod tests;
