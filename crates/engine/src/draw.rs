//! Random numbers that depend only on seed, epoch and example.
//!
//! A resumed run draws the same numbers again.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use rand_distr::{Distribution, StandardNormal};

/// Identifies an example in an epoch of a run.
///
/// All randomness in its preparation depends on these values alone, so a resumed run
/// prepares it in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the epoch.
    pub epoch: usize,
    /// Index of the example.
    pub example: usize,
    /// Whether to augment the example.
    pub augment: bool,
}

impl Draw {
    /// Returns a random generator. Each purpose has its own `stream`.
    pub(crate) fn random(&self, stream: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&(self.epoch as u64).to_le_bytes());
        key[16..24].copy_from_slice(&(self.example as u64).to_le_bytes());
        key[24..].copy_from_slice(&stream.to_le_bytes());
        ChaCha8Rng::from_seed(key)
    }
}

/// Draws from a normal distribution with mean 0.
///
/// `spread` is the standard deviation.
pub(crate) fn draw_normal(rng: &mut impl Rng, spread: f64) -> f32 {
    let value: f64 = StandardNormal.sample(rng);
    (value * spread) as f32
}

/// Draws uniformly from (0, 1].
pub(crate) fn draw_uniform(rng: &mut impl Rng) -> f64 {
    ((f64::from(rng.next_u32()) + 0.5) / f64::from(u32::MAX)).min(1.0)
}

/// Returns the random generator of an epoch.
pub(crate) fn generator(seed: u64, epoch: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ (epoch as u64).wrapping_mul(0x9E37_79B9))
}

/// Keeps `count` random elements of `items`, in random order.
///
/// Not `rand`'s, for the reason at [`shuffled_order`].
pub(crate) fn sample<T>(items: &mut Vec<T>, count: usize, rng: &mut impl Rng) {
    let n = items.len();
    for i in 0..count.min(n) {
        let j = i + (rng.next_u64() % (n - i) as u64) as usize;
        items.swap(i, j);
    }
    items.truncate(count);
}

/// Returns the numbers below `n` in a random order.
///
/// It depends only on `seed` and `epoch`. `rand` may change the order of its shuffle with
/// any version, and a run that resumes with a newer program must continue in the same
/// order: otherwise it would repeat some examples of the epoch and omit others.
pub(crate) fn shuffled_order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = generator(seed, epoch);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // The modulo bias is below 2^-40 for up to 2^24 examples.
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        order.swap(i, j);
    }
    order
}
