//! Random numbers that a run draws again where it goes on: they follow from
//! seed, epoch and example.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// The place of an example in a run. All that is random in how it is prepared
/// follows from it, so that a run that goes on prepares it in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// The epoch.
    pub epoch: usize,
    /// The number of the example.
    pub example: usize,
    /// Whether it is changed at random.
    pub augment: bool,
}

impl Draw {
    /// A generator of random numbers of its own; one for each use of it.
    pub(crate) fn random(&self, stream: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&(self.epoch as u64).to_le_bytes());
        key[16..24].copy_from_slice(&(self.example as u64).to_le_bytes());
        key[24..].copy_from_slice(&stream.to_le_bytes());
        ChaCha8Rng::from_seed(key)
    }
}

/// A draw from a normal distribution around 0 (Box and Muller 1958).
pub(crate) fn normal(rng: &mut impl Rng, spread: f64) -> f32 {
    let (a, b) = (uniform(rng), uniform(rng));
    ((-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos() * spread) as f32
}

/// A draw between 0, which it never is, and 1.
pub(crate) fn uniform(rng: &mut impl Rng) -> f64 {
    ((f64::from(rng.next_u32()) + 0.5) / f64::from(u32::MAX)).min(1.0)
}

/// A generator of random numbers of an epoch.
pub(crate) fn generator(seed: u64, epoch: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ (epoch as u64).wrapping_mul(0x9E37_79B9))
}

/// The numbers below `n` in a random order that depends on `seed` and `epoch`
/// alone.
pub(crate) fn shuffled_order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = generator(seed, epoch);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // The bias of the remainder is below 2^-40 for any data set.
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        order.swap(i, j);
    }
    order
}
