//! Hashes of contents, stable within one process.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Returns a hash of a value, stable within one process.
pub(super) fn hash_value(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn numbers_key(values: &[f32]) -> u64 {
    let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    hash_value(&bits)
}
