//! Names of requests, keys of calls.

/// 32 hex digits that nobody has drawn before.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
