//! `AdaptiveLayerLoss`: applies a loss to the outputs of several layers.

use candle_core::Tensor;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::Value;

use super::{
    distill::divergence,
    math::{log_softmax, softmax},
    pairwise::to_f64,
};
use crate::{Result, draw::sample, options::OptionReader};

/// `AdaptiveLayerLoss` (Li et al. 2024, arXiv:2402.14776).
///
/// Applies another loss to the embeddings of the last layer and of earlier layers, and
/// pulls the latter towards the last layer's. A trained model then works without its
/// last layers. Equal to the loss of this name in sentence-transformers.
pub(super) struct AdaptiveLayers {
    /// Number of earlier layers per step; `None` for all.
    per_step: Option<usize>,
    last_weight: f64,
    prior_weight: f64,
    kl_weight: f64,
    /// Temperature of the KL divergence; 0 disables it.
    kl_temperature: f64,
    weighting: Weighting,
}

/// Weight of an earlier layer as a function of its depth.
#[derive(Clone, Copy)]
enum Weighting {
    Uniform,
    Log,
    Linear,
}

impl AdaptiveLayers {
    /// Reads the options except those of the wrapped loss.
    pub(super) fn read(read: &OptionReader<'_>) -> Result<Self> {
        let per_step = match read.value("n_layers_per_step").map(Value::as_i64) {
            None => Some(1),
            Some(Some(-1)) => None,
            Some(Some(n)) if n > 0 => Some(n as usize),
            Some(_) => {
                let wanted = "give -1 (all) or a number above 0";
                return Err(read.bad("n_layers_per_step", wanted));
            }
        };
        let known = ["uniform", "log", "linear"];
        let weighting = read.choice("layer_weighting", "uniform", &known)?;
        Ok(Self {
            per_step,
            last_weight: read.any_number("last_layer_weight", 1.0)?,
            prior_weight: read.any_number("prior_layers_weight", 1.0)?,
            kl_weight: read.any_number("kl_div_weight", 1.0)?,
            kl_temperature: read.number("kl_temperature", 0.3, 0.0, 1e6)?,
            weighting: match weighting.as_str() {
                "log" => Weighting::Log,
                "linear" => Weighting::Linear,
                _ => Weighting::Uniform,
            },
        })
    }

    /// Draws the layers of a step from the first `count`.
    ///
    /// Layer 0 is the output of the embedding tables.
    pub(super) fn of_step(&self, count: usize, seed: u64) -> Vec<usize> {
        let mut layers: Vec<usize> = (0..count).collect();
        if let Some(wanted) = self.per_step.filter(|wanted| *wanted < count) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x4C61_7965_7273);
            sample(&mut layers, wanted, &mut rng);
        }
        layers
    }

    fn weight(&self, layer: usize) -> f64 {
        match self.weighting {
            Weighting::Uniform => 1.0,
            Weighting::Log => 1.0 / (1.0 + ((1 + layer) as f64).ln()),
            Weighting::Linear => 1.0 / (1 + layer) as f64,
        }
    }

    /// Returns the weighted sum of the losses of all given layers.
    ///
    /// `loss` also gets the number of its call.
    pub(super) fn sum(
        &self,
        last: &[Tensor],
        layers: &[(usize, Vec<Tensor>)],
        mut loss: impl FnMut(&[Tensor], u64) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut sum = loss(last, 0)?.affine(self.last_weight, 0.0)?;
        let wanted = self.softened(last)?;
        let wanted = wanted.map(|x| -> Result<_> {
            let x = x.detach();
            Ok((softmax(&x)?, log_softmax(&x)?))
        });
        let wanted = wanted.transpose()?;
        for (number, (layer, parts)) in layers.iter().enumerate() {
            let weight = self.weight(*layer) / layers.len() as f64 * self.prior_weight;
            let found = loss(parts, number as u64 + 1)?.affine(weight, 0.0)?;
            sum = (sum + found)?;
            if let (Some((p, log_p)), Some(x)) = (&wanted, self.softened(parts)?) {
                let far = divergence(&log_softmax(&x)?, p, log_p)?;
                sum = (sum + far.affine(self.kl_temperature * self.kl_weight, 0.0)?)?;
            }
        }
        Ok(sum)
    }

    /// Returns all embeddings in rows, divided by the temperature.
    ///
    /// Returns `None` without a divergence.
    fn softened(&self, parts: &[Tensor]) -> Result<Option<Tensor>> {
        if self.kl_temperature == 0.0 {
            return Ok(None);
        }
        let parts: Vec<Tensor> = parts.iter().map(to_f64).collect::<Result<_>>()?;
        Ok(Some((Tensor::cat(&parts, 0)? / self.kl_temperature)?))
    }
}
