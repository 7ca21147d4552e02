//! The rules of a CSV dialect.

/// Characters with a special meaning in a CSV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    /// Escapes the next character. Without it, two quotes are one within quotes.
    pub(super) escape: Option<u8>,
    /// Whether spaces after a delimiter are ignored.
    pub(super) skip_initial_space: bool,
}

/// The rules of Excel.
pub(super) const COMMAS: Rules = Rules {
    delimiter: b',',
    quote: b'"',
    escape: None,
    skip_initial_space: false,
};
