//! Draws initial weights.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    draw::{draw_normal, draw_uniform},
    params::RawTensor,
};

/// Draws weights of these shapes like PyTorch's linear and convolutional layers:
/// uniformly within `1 / sqrt(fan_in)` of 0. Normalisations, recognised by their
/// names, start with ones and zeros. The same seed gives the same weights.
pub(crate) fn draw_weights(
    tensors: Vec<(String, Vec<usize>)>,
    seed: u64,
) -> impl Iterator<Item = (String, RawTensor)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Fan-in of the last weight: its bias follows and has the same bound.
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
            None => (0..count)
                .map(|_| uniform_within(&mut rng, bound))
                .collect(),
        };
        (name, (shape, data))
    })
}

/// Draws `count` values from a normal distribution with mean 0 and standard deviation
/// `spread`.
pub(crate) fn normal_weights(seed: u64, count: usize, spread: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| draw_normal(&mut rng, spread)).collect()
}

/// Draws `count` values uniformly between minus and plus `bound`.
pub(crate) fn uniform_weights(seed: u64, count: usize, bound: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| uniform_within(&mut rng, bound))
        .collect()
}

fn uniform_within(rng: &mut impl Rng, bound: f64) -> f32 {
    ((2.0 * draw_uniform(rng) - 1.0) * bound) as f32
}
