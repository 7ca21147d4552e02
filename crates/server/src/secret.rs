//! Random ids and tokens. Only the SHA-256 of a token is stored, so that a
//! reader of the database can't use it.

use sha2::{Digest, Sha256};

/// Prefix of every token, so that leaked tokens can be recognised.
const PREFIX: &str = "ft_";

/// Generates a token of 256 random bits.
pub(crate) fn new_token() -> String {
    format!("{PREFIX}{}", hex(&rand::random::<[u8; 32]>()))
}

/// Returns the stored form of a token. A plain hash is sufficient, since tokens
/// are long and random.
pub(crate) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Generates a key of 192 random bits, for the address of a page.
pub(crate) fn new_key() -> String {
    hex(&rand::random::<[u8; 24]>())
}

/// Generates an id of 24 hex digits, the form that clients expect.
pub(crate) fn new_id() -> String {
    hex(&rand::random::<[u8; 12]>())
}

/// Encodes bytes as hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Decodes hex digits.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else {
        return None;
    };
    let bytes = pairs
        .iter()
        .map(|[high, low]| u8::try_from(16 * high + low));
    bytes.collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tokens_are_random_and_well_formed() {
        let (a, b) = (new_token(), new_token());
        assert_ne!(a, b);
        assert!(a.starts_with("ft_") && a.len() == 67);
        assert_eq!(new_id().len(), 24);
        let bytes = vec![0, 15, 0xa7, 255];
        assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
        assert_eq!((from_hex("abc"), from_hex("xy")), (None, None));
        assert_eq!(
            hex(&hash("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
