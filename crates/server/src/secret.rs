//! Generates random ids, keys and tokens. Only the SHA-256 of a token is stored, so that
//! a reader of the database can't use it.

use sha2::{Digest, Sha256};

/// Prefix of every token, so that leaked tokens can be recognised.
const PREFIX: &str = "ft_";

/// Generates a token of 256 random bits.
pub(crate) fn new_token() -> String {
    format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// Returns the stored form of a token. A plain hash is sufficient, since tokens
/// are long and random.
pub(crate) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Generates a key of 192 random bits, for URLs of shared pages and for sign-in flows.
pub(crate) fn new_key() -> String {
    hex::encode(rand::random::<[u8; 24]>())
}

/// Generates an id of 24 hex digits, the form that clients expect.
pub(crate) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 12]>())
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
        assert_eq!(
            hex::encode(hash("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
