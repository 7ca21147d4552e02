//! Weights that have not learned anything.

use std::collections::HashMap;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{ClipConfig, ModelConfig};
use crate::params::RawTensor;

/// Random weights of these shapes, drawn as PyTorch draws a new layer's: evenly
/// between plus and minus one over the root of the inputs. Normalisations begin
/// as ones and zeros. The same seed gives the same weights.
pub(crate) fn fresh(
    tensors: Vec<(String, Vec<usize>)>,
    seed: u64,
) -> impl Iterator<Item = (String, RawTensor)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // The inputs of the layer that was last seen, for its bias.
    let mut inputs = 1;
    tensors.into_iter().map(move |(name, shape)| {
        let count: usize = shape.iter().product();
        let fixed = match name.rsplit('.').next() {
            Some("running_mean") => Some(0.0),
            Some("running_var") => Some(1.0),
            Some("weight") if shape.len() == 1 => Some(1.0),
            _ if name.to_lowercase().contains("norm") || name.contains("head_layers") => {
                (shape.len() == 1).then_some(0.0)
            }
            _ => None,
        };
        if shape.len() > 1 {
            inputs = shape[1..].iter().product::<usize>().max(1);
        }
        let bound = 1.0 / (inputs as f64).sqrt();
        let data = match fixed {
            Some(value) => vec![value; count],
            None => (0..count).map(|_| even(&mut rng, bound)).collect(),
        };
        (name, (shape, data))
    })
}

/// `count` draws from a normal distribution around 0.
pub(crate) fn normal_weights(seed: u64, count: usize, spread: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| normal(&mut rng, spread)).collect()
}

/// `count` draws, evenly between minus and plus `bound`.
pub(crate) fn uniform_weights(seed: u64, count: usize, bound: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| even(&mut rng, bound)).collect()
}

fn even(rng: &mut impl Rng, bound: f64) -> f32 {
    ((2.0 * uniform(rng) - 1.0) * bound) as f32
}

impl ModelConfig {
    /// Random weights of this model's shapes: for measuring, testing, and
    /// training from nothing. The same seed gives the same weights.
    #[must_use]
    pub fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        match self {
            Self::Clip(config) => config.random_weights(seed),
            other => fresh(other.tensors(), seed).collect(),
        }
    }
}

impl ClipConfig {
    /// Random weights of these shapes, with the spreads that `transformers`
    /// draws a new `CLIPModel` from. The same seed gives the same weights.
    #[must_use]
    pub fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.tensors()
            .into_iter()
            .map(|(name, shape)| {
                let count = shape.iter().product();
                let data = if name == "logit_scale" {
                    vec![self.logit_scale_init_value]
                } else if name.ends_with(".bias") {
                    vec![0.0; count]
                } else if name.contains("norm") || name.contains("layrnorm") {
                    vec![1.0; count]
                } else {
                    let spread = self.spread(&name);
                    (0..count).map(|_| normal(&mut rng, spread)).collect()
                };
                (name, (shape, data))
            })
            .collect()
    }

    /// The standard deviation of a new weight.
    fn spread(&self, name: &str) -> f64 {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let (width, layers) = if name.starts_with("vis") {
            (vision.hidden_size as f64, vision.num_hidden_layers as f64)
        } else {
            (text.hidden_size as f64, text.num_hidden_layers as f64)
        };
        if name.contains("q_proj")
            || name.contains("k_proj")
            || name.contains("v_proj")
            || name.contains("fc2")
        {
            width.powf(-0.5) * (2.0 * layers).powf(-0.5)
        } else if name.contains("fc1") {
            (2.0 * width).powf(-0.5)
        } else if name.contains("_proj") || name.contains("class_embedding") {
            width.powf(-0.5)
        } else {
            0.02
        }
    }
}

/// A draw from a normal distribution around 0 (Box and Muller 1958).
fn normal(rng: &mut impl Rng, spread: f64) -> f32 {
    let (a, b) = (uniform(rng), uniform(rng));
    ((-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos() * spread) as f32
}

/// A draw between 0, which it never is, and 1.
fn uniform(rng: &mut impl Rng) -> f64 {
    ((f64::from(rng.next_u32()) + 0.5) / f64::from(u32::MAX)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fit_the_shapes_and_spread_as_asked() {
        let config = ClipConfig::parse(&serde_json::json!({
            "text_config": {"num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 512},
            "vision_config": {"num_hidden_layers": 1, "hidden_size": 96},
        }))
        .unwrap();
        let weights = config.random_weights(3);
        assert_eq!(weights.len(), config.tensors().len());
        for (name, shape) in config.tensors() {
            let (found, data) = &weights[&name];
            assert_eq!((found, data.len()), (&shape, shape.iter().product()));
        }
        let spread = |name: &str| {
            let data = &weights[name].1;
            (data.iter().map(|x| x * x).sum::<f32>() / data.len() as f32).sqrt()
        };
        for (name, expected) in [
            ("text_model.embeddings.token_embedding.weight", 0.02),
            ("text_projection.weight", 64f32.powf(-0.5)),
            (
                "vision_model.encoder.layers.0.mlp.fc1.weight",
                192f32.powf(-0.5),
            ),
            (
                "vision_model.encoder.layers.0.mlp.fc2.weight",
                192f32.powf(-0.5),
            ),
        ] {
            assert!((spread(name) / expected - 1.0).abs() < 0.02, "{name}");
        }
        assert_eq!(weights, config.random_weights(3));
        assert_ne!(weights, config.random_weights(4));
    }
}
