//! Validation of ID tokens, as in OpenID Connect Core, section 3.1.3.7.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use super::keys::Key;

/// Tolerated clock difference in seconds.
const CLOCK_TOLERANCE: i64 = 60;
/// Size limit of a token in bytes.
const MAX_TOKEN: usize = 64 << 10;
/// Maximum number of characters of the claim `sub`.
const MAX_SUBJECT: usize = 255;

/// Expected claims of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client: &'a str,
    pub(super) nonce: &'a str,
    /// Seconds since 1970.
    pub(super) now: i64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// Reason why a token is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// None of the keys matches. The provider may have rotated its keys.
    UnknownKey,
    Because(&'static str),
}

/// Verifies the signature and claims of a token. Returns all of its claims.
pub(super) fn verify(token: &str, keys: &[Key], expected: &Expected<'_>) -> Result<Value, Bad> {
    if token.len() > MAX_TOKEN {
        return Err(Bad::Because("it is too long"));
    }
    let malformed = Bad::Because("it is not a signed JWT");
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed);
    };
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
    let header = decode(head).and_then(|bytes| serde_json::from_slice::<Header>(&bytes).ok());
    let (Some(header), Some(signature)) = (header, decode(signature)) else {
        return Err(malformed);
    };
    if header.crit.is_some() {
        return Err(Bad::Because("it requires an unknown extension"));
    }
    let named = |key: &&Key| header.kid.is_none() || key.kid.is_none() || key.kid == header.kid;
    let mut candidates = keys.iter().filter(named).peekable();
    if candidates.peek().is_none() {
        return Err(Bad::UnknownKey);
    }
    let message = &token.as_bytes()[..head.len() + 1 + body.len()];
    if !candidates.any(|key| key.has_signed(&header.alg, message, &signature)) {
        return Err(match header.kid {
            // The token names no key, so the provider may have rotated its key.
            None => Bad::UnknownKey,
            Some(_) => Bad::Because("its signature is not the provider's"),
        });
    }
    let claims: Value = decode(body)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or(malformed)?;
    check(&claims, expected).map_err(Bad::Because)?;
    Ok(claims)
}

fn check(claims: &Value, expected: &Expected<'_>) -> Result<(), &'static str> {
    if claims["iss"] != expected.issuer {
        return Err("it was issued by another issuer");
    }
    let (is_ours, is_alone) = match &claims["aud"] {
        Value::String(one) => (one == expected.client, true),
        Value::Array(all) => (all.iter().any(|one| one == expected.client), all.len() == 1),
        _ => (false, true),
    };
    if !is_ours {
        return Err("it is for another client");
    }
    match &claims["azp"] {
        Value::Null if is_alone => {}
        party if party == expected.client => {}
        _ => return Err("it was issued to another client"),
    }
    // Times of another type are treated as missing.
    let seconds = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
    let Some(end) = seconds("exp") else {
        return Err("it has no expiry time");
    };
    if end.saturating_add(CLOCK_TOLERANCE) <= expected.now {
        return Err("it has expired");
    }
    let latest = expected.now.saturating_add(CLOCK_TOLERANCE);
    if seconds("iat").is_none_or(|made| made > latest) {
        return Err("it was issued in the future: compare the clocks of both servers");
    }
    if !claims["nbf"].is_null() && seconds("nbf").is_none_or(|begin| begin > latest) {
        return Err("it is not valid yet: compare the clocks of both servers");
    }
    if claims["nonce"] != expected.nonce {
        return Err("it belongs to another sign-in");
    }
    match claims["sub"].as_str() {
        Some(subject) if !subject.is_empty() && subject.len() <= MAX_SUBJECT => Ok(()),
        _ => Err("it names no user"),
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    fn base64(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
        }

        fn key(&self, name: &str) -> Key {
            let point = self.0.public_key().as_ref();
            let key = json!({
                "kty": "EC", "crv": "P-256", "kid": name,
                "x": base64(&point[1..33]), "y": base64(&point[33..]),
            });
            Key::deserialize(key).unwrap()
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let message = format!(
                "{}.{}",
                base64(header.to_string()),
                base64(claims.to_string())
            );
            let signature = self
                .0
                .sign(&SystemRandom::new(), message.as_bytes())
                .unwrap();
            format!("{message}.{}", base64(signature))
        }
    }

    const EXPECTED: Expected<'_> = Expected {
        issuer: "https://login.example",
        client: "ft",
        nonce: "n",
        now: 1_000_000,
    };

    fn good() -> Value {
        json!({
            "iss": "https://login.example", "aud": "ft", "sub": "s", "nonce": "n",
            "exp": 1_000_300, "iat": 1_000_000,
        })
    }

    #[test]
    fn a_token_needs_every_expected_claim() {
        let signer = Signer::new();
        let keys = [signer.key("a")];
        let header = json!({"alg": "ES256", "kid": "a"});
        let verify = |claims: &Value| verify(&signer.sign(&header, claims), &keys, &EXPECTED);
        assert_eq!(verify(&good()).unwrap()["sub"], "s");
        let with = |name: &str, value: Value| {
            let mut claims = good();
            claims[name] = value;
            verify(&claims)
        };
        for (name, value) in [
            ("aud", json!(["ft"])),
            ("azp", json!("ft")),
            ("exp", json!(999_950)),
            ("iat", json!(1_000_059)),
            ("nbf", json!(1_000_000)),
        ] {
            assert!(with(name, value.clone()).is_ok(), "{name}: {value}");
        }
        for (name, value) in [
            ("iss", json!("https://login.example/")),
            ("iss", Value::Null),
            ("aud", json!("other")),
            ("aud", json!(["other"])),
            ("aud", json!(["ft", "other"])),
            ("aud", Value::Null),
            ("azp", json!("other")),
            ("exp", json!(999_940)),
            ("exp", json!("1000300")),
            ("exp", Value::Null),
            ("iat", json!(1_000_061)),
            ("iat", Value::Null),
            ("nbf", json!(1_000_061)),
            ("nbf", json!("0")),
            ("nonce", json!("m")),
            ("nonce", Value::Null),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("s".repeat(256))),
        ] {
            assert!(with(name, value.clone()).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn a_token_must_be_signed_by_the_provider() {
        let (signer, other) = (Signer::new(), Signer::new());
        let header = json!({"alg": "ES256", "kid": "a"});
        let token = signer.sign(&header, &good());
        let verified = |token: &str, keys: &[Key]| verify(token, keys, &EXPECTED).map(drop);
        assert_eq!(verified(&token, &[signer.key("a")]), Ok(()));
        // The provider has rotated its keys.
        assert_eq!(verified(&token, &[signer.key("b")]), Err(Bad::UnknownKey));
        assert_eq!(verified(&token, &[]), Err(Bad::UnknownKey));
        let forged = [other.key("a")];
        assert!(matches!(verified(&token, &forged), Err(Bad::Because(_))));
        let keys = [signer.key("a")];
        let (message, _) = token.rsplit_once('.').unwrap();
        let (head, _) = message.split_once('.').unwrap();
        let none = base64(json!({"alg": "none"}).to_string());
        let body = base64(good().to_string());
        for bad in [
            String::new(),
            message.to_owned(),
            format!("{message}."),
            format!("{token}.x"),
            format!("{none}.{body}."),
            format!(
                "{head}.{}.{}",
                base64("{}"),
                token.rsplit_once('.').unwrap().1
            ),
            signer.sign(&json!({"alg": "HS256", "kid": "a"}), &good()),
            signer.sign(&json!({"alg": "ES256", "kid": "a", "crit": ["x"]}), &good()),
            "x".repeat(MAX_TOKEN + 1),
        ] {
            assert!(verified(&bad, &keys).is_err(), "{bad:.80}");
        }
    }
}
