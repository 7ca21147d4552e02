//! A loss over the output of earlier layers.

use candle_core::Tensor;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde_json::Value;

use super::{
    distill::divergence,
    math::{log_softmax, softmax},
    pairwise::widened,
};
use crate::{Result, options::OptionReader};

/// `AdaptiveLayerLoss` (Li et al. 2024, arXiv:2402.14776): another loss over the
/// embeddings of the last layer and of earlier ones, which are also pulled
/// towards the last one's, so that a model gives embeddings without its last
/// layers. Equal to the loss of this name in sentence-transformers.
pub(super) struct AdaptiveLayers {
    /// How many earlier layers count in a step; none takes all.
    per_step: Option<usize>,
    last_weight: f64,
    prior_weight: f64,
    kl_weight: f64,
    /// 0 leaves the divergence out.
    kl_temperature: f64,
    weighting: Weighting,
}

/// How much each earlier layer counts.
#[derive(Clone, Copy)]
enum Weighting {
    Uniform,
    Log,
    Linear,
}

impl AdaptiveLayers {
    /// Reads the options beside the loss that is wrapped.
    pub(super) fn read(read: &OptionReader<'_>) -> Result<Self> {
        let per_step = match read.value("n_layers_per_step").map(Value::as_i64) {
            None => Some(1),
            Some(Some(-1)) => None,
            Some(Some(n)) if n > 0 => Some(n as usize),
            Some(_) => {
                let wanted = "-1 (all) or a number above 0 is wanted";
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

    /// The layers of a step, drawn from the first `count`. Layer 0 is the output
    /// of the tables.
    pub(super) fn of_step(&self, count: usize, seed: u64) -> Vec<usize> {
        let mut layers: Vec<usize> = (0..count).collect();
        if let Some(wanted) = self.per_step.filter(|wanted| *wanted < count) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x4C61_7965_7273);
            for i in 0..wanted {
                let j = i + (rng.next_u64() % (count - i) as u64) as usize;
                layers.swap(i, j);
            }
            layers.truncate(wanted);
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

    /// The loss of the last layer's embeddings and of those of earlier layers.
    /// `loss` is also told the number of its call.
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

    /// All embeddings, one below the other, over the temperature.
    fn softened(&self, parts: &[Tensor]) -> Result<Option<Tensor>> {
        if self.kl_temperature == 0.0 {
            return Ok(None);
        }
        let parts: Vec<Tensor> = parts.iter().map(widened).collect::<Result<_>>()?;
        Ok(Some((Tensor::cat(&parts, 0)? / self.kl_temperature)?))
    }
}
