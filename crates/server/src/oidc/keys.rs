//! Keys of a provider, and the signatures that they make. Keys that are shared
//! secrets, and tokens without a signature, are never accepted.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

/// A key in the form of RFC 7517. Members that are not needed are passed over.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Key {
    kty: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

impl Key {
    /// Returns whether this key made the signature by this algorithm of RFC 7518 or
    /// RFC 8037.
    pub(super) fn has_signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let is_for_signatures = self
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig");
        let is_for_algorithm = self.alg.as_deref().is_none_or(|alg| alg == algorithm);
        if !is_for_signatures || !is_for_algorithm {
            return false;
        }
        let rsa = |parameters| self.rsa(parameters, message, signature);
        let curve = |name, algorithm| self.curve(name, algorithm, message, signature);
        let checked = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => curve("P-256", &ECDSA_P256_SHA256_FIXED),
            "ES384" => curve("P-384", &ECDSA_P384_SHA384_FIXED),
            "EdDSA" => curve("Ed25519", &ED25519),
            _ => None,
        };
        checked.is_some()
    }

    fn rsa(
        &self,
        parameters: &'static RsaParameters,
        message: &[u8],
        signature: &[u8],
    ) -> Option<()> {
        let (n, e) = (bytes(self.n.as_ref())?, bytes(self.e.as_ref())?);
        // Some providers pad numbers with zeros, which the library refuses.
        let plain = |number: Vec<u8>| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number[zeros..].to_vec()
        };
        let key = RsaPublicKeyComponents {
            n: plain(n),
            e: plain(e),
        };
        let checked = (self.kty == "RSA").then(|| key.verify(parameters, message, signature))?;
        checked.ok()
    }

    fn curve(
        &self,
        name: &str,
        algorithm: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Option<()> {
        if self.crv.as_deref() != Some(name) {
            return None;
        }
        let x = bytes(self.x.as_ref())?;
        let point = match self.kty.as_str() {
            "OKP" => x,
            // The uncompressed form of SEC 1.
            "EC" => [vec![4], x, bytes(self.y.as_ref())?].concat(),
            _ => return None,
        };
        let key = UnparsedPublicKey::new(algorithm, point);
        key.verify(message, signature).ok()
    }
}

fn bytes(text: Option<&String>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Keys and signed tokens, made by `scripts/make_jwt_fixtures.py`.
    const SIGNED: &str = include_str!("fixtures/signed.json");

    fn key(value: &Value) -> Key {
        Key::deserialize(value).unwrap()
    }

    #[test]
    fn signatures_of_every_algorithm_are_checked() {
        let cases: Vec<Value> = serde_json::from_str(SIGNED).unwrap();
        assert_eq!(cases.len(), 9);
        for case in &cases {
            let algorithm = case["alg"].as_str().unwrap();
            let (message, signature) = case["jwt"].as_str().unwrap().rsplit_once('.').unwrap();
            let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
            let own = key(&case["key"]);
            let has_signed = |key: &Key, algorithm: &str, message: &str, signature: &[u8]| {
                key.has_signed(algorithm, message.as_bytes(), signature)
            };
            assert!(
                has_signed(&own, algorithm, message, &signature),
                "{algorithm}"
            );
            let mut wrong = signature.clone();
            wrong[7] ^= 1;
            assert!(!has_signed(&own, algorithm, message, &wrong), "{algorithm}");
            assert!(!has_signed(
                &own,
                algorithm,
                &format!("{message}x"),
                &signature
            ));
            assert!(!has_signed(&own, algorithm, message, &[]));
            for other in ["none", "HS256", "RS1", ""] {
                assert!(!has_signed(&own, other, message, &signature), "{other}");
            }
            for other in cases.iter().filter(|other| other["alg"] != algorithm) {
                let other = other["alg"].as_str().unwrap();
                assert!(
                    !has_signed(&own, other, message, &signature),
                    "{algorithm} as {other}"
                );
            }
            let mut for_encryption = case["key"].clone();
            for_encryption["use"] = json!("enc");
            assert!(!has_signed(
                &key(&for_encryption),
                algorithm,
                message,
                &signature
            ));
        }
        // A public key is not accepted as a shared secret.
        let secret = key(&json!({"kty": "oct", "k": "AAAA"}));
        assert!(!secret.has_signed("HS256", b"x", b"y"));
    }
}
