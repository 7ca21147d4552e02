//! Delimiter and quotes, once they are decided.

/// A dialect that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) escape: Option<u8>,
    pub(super) skip_initial_space: bool,
}
