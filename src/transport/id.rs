//! Request ids and idempotency keys.

/// Returns 32 random hex digits.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
