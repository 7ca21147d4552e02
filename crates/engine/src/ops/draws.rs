//! The source of dropout masks.

/// Fractional part of the golden ratio. It spreads counters over 64 bits.
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64 (Steele et al. 2014): a bijection whose
/// every output bit depends on all bits of `x`.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Derives a key from another one and a number.
pub(super) fn derive_key(key: u64, number: u64) -> u64 {
    mix(key.wrapping_add(number.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// The source of all masks of a training pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draws {
    pub(super) key: u64,
    /// Number of the pass's first example in its batch.
    pub(super) first: usize,
}

impl Draws {
    /// Returns the masks of a batch, for the member `member` of its examples.
    pub(crate) fn new(seed: u64, batch: u64, member: usize) -> Self {
        Self {
            key: derive_key(derive_key(derive_key(0, seed), batch), member as u64),
            first: 0,
        }
    }

    /// Returns the masks of a pass that starts at example `first`.
    pub(crate) fn starting_at(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// Returns the masks of a part of the network.
    pub(super) fn within(self, part: u64) -> Self {
        let key = derive_key(self.key, part);
        Self { key, ..self }
    }
}
