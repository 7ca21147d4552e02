//! Client of the OpenID Connect provider: discovery, keys, token exchange and
//! user info.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use reqwest::{Client as Http, RequestBuilder, Response};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;

use super::{
    flows::Begun,
    keys::Key,
    token::{Bad, Expected, verify},
};
use crate::{
    database::now_ms,
    outside,
    requests::root_cause,
    settings::{Client, check_address},
};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Size limit of an answer in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// Time for which metadata and keys are cached.
const CACHE_TIME: Duration = Duration::from_secs(3600);

/// Metadata that the provider publishes (OpenID Connect Discovery).
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Url,
    pub(super) end_session_endpoint: Option<Url>,
    token_endpoint: Url,
    userinfo_endpoint: Option<Url>,
    jwks_uri: Url,
    /// Whether the client secret is sent in the form instead of a header.
    secret_in_form: bool,
}

/// The provider with its cached metadata and keys.
pub(super) struct Provider {
    issuer: String,
    http: Http,
    metadata: Mutex<Option<(Instant, Arc<Metadata>)>>,
    keys: Mutex<Option<(Instant, Arc<Vec<Key>>)>>,
}

#[derive(Deserialize)]
struct Described {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    end_session_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    #[serde(default)]
    access_token: Option<String>,
}

impl Provider {
    pub(super) fn new(issuer: &str) -> Result<Self, String> {
        Ok(Self {
            issuer: issuer.to_owned(),
            // Private addresses are allowed, because the operator configured this
            // one.
            http: outside::client(true, TIMEOUT, 0)?,
            metadata: Mutex::default(),
            keys: Mutex::default(),
        })
    }

    /// Returns the cached metadata, even if outdated.
    pub(super) fn known(&self) -> Option<Arc<Metadata>> {
        let known = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|(_, metadata)| Arc::clone(metadata))
    }

    /// Returns the metadata, from the cache or the provider. If the provider does
    /// not answer, outdated metadata is used.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, String> {
        {
            let known = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((when, metadata)) = known.as_ref()
                && when.elapsed() < CACHE_TIME
            {
                return Ok(Arc::clone(metadata));
            }
        }
        match self.discover().await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                let mut known = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
                *known = Some((Instant::now(), Arc::clone(&metadata)));
                Ok(metadata)
            }
            Err(reason) => self.known().ok_or(reason),
        }
    }

    async fn discover(&self) -> Result<Metadata, String> {
        let url = format!(
            "{}/.well-known/openid-configuration",
            self.issuer.trim_end_matches('/')
        );
        let said: Described = read(self.http.get(&url))
            .await
            .map_err(|e| format!("{url}: {e}"))?;
        // Required by OpenID Connect Discovery, section 4.3: another provider
        // must not speak for this one.
        if said.issuer != self.issuer {
            return Err(format!(
                "{url} names the issuer `{}`, and `oidc.issuer` is `{}`: they must be the same",
                said.issuer, self.issuer
            ));
        }
        let address = |name: &str, text: &str| {
            check_address(text).map_err(|e| format!("{url}: `{name}` `{text}` {e}"))
        };
        let optional = |name: &str, text: &Option<String>| {
            text.as_deref().map(|text| address(name, text)).transpose()
        };
        let methods = said.token_endpoint_auth_methods_supported;
        let offers = |name: &str| {
            methods
                .as_ref()
                .is_some_and(|methods| methods.iter().any(|method| method == name))
        };
        Ok(Metadata {
            authorization_endpoint: address(
                "authorization_endpoint",
                &said.authorization_endpoint,
            )?,
            token_endpoint: address("token_endpoint", &said.token_endpoint)?,
            jwks_uri: address("jwks_uri", &said.jwks_uri)?,
            userinfo_endpoint: optional("userinfo_endpoint", &said.userinfo_endpoint)?,
            end_session_endpoint: optional("end_session_endpoint", &said.end_session_endpoint)?,
            // If the provider does not list methods, the header is the default.
            secret_in_form: offers("client_secret_post") && !offers("client_secret_basic"),
        })
    }

    /// Returns the provider's keys. `again` bypasses the cache.
    async fn keys(&self, metadata: &Metadata, again: bool) -> Result<Arc<Vec<Key>>, String> {
        if !again {
            let known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((when, keys)) = known.as_ref()
                && when.elapsed() < CACHE_TIME
            {
                return Ok(Arc::clone(keys));
            }
        }
        let url = &metadata.jwks_uri;
        let said: Value = read(self.http.get(url.clone()))
            .await
            .map_err(|e| format!("{url}: {e}"))?;
        let list = said["keys"].as_array().map_or(&[][..], Vec::as_slice);
        // Keys of unknown types are ignored.
        let keys = list.iter().filter_map(|key| Key::deserialize(key).ok());
        let keys: Arc<Vec<Key>> = Arc::new(keys.collect());
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), Arc::clone(&keys)));
        Ok(keys)
    }

    /// Exchanges an authorization code for the user's verified claims.
    pub(super) async fn redeem(
        &self,
        client: &Client,
        code: &str,
        begun: &Begun,
    ) -> Result<Value, String> {
        let metadata = self.metadata().await?;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", client.redirect.as_str()),
            ("code_verifier", &begun.verifier),
        ];
        let mut call = self.http.post(metadata.token_endpoint.clone());
        match &client.secret {
            Some(secret) if !metadata.secret_in_form => {
                // RFC 6749, 2.3.1: both are form-encoded before Basic authentication.
                let encoded = |text: &str| -> String {
                    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
                };
                call = call.basic_auth(encoded(&client.id), Some(encoded(secret)));
            }
            Some(secret) => form.extend([("client_id", &*client.id), ("client_secret", secret)]),
            None => form.push(("client_id", &client.id)),
        }
        let tokens: Tokens = read(call.form(&form))
            .await
            .map_err(|e| format!("the token: {e}"))?;
        let expected = Expected {
            issuer: &client.issuer,
            client: &client.id,
            nonce: &begun.nonce,
            now: now_ms() / 1000,
        };
        let keys = self.keys(&metadata, false).await?;
        let mut verified = verify(&tokens.id_token, &keys, &expected);
        // The provider may have rotated its keys. Only it can trigger this
        // request, because the token came from it directly.
        if verified == Err(Bad::UnknownKey) {
            let keys = self.keys(&metadata, true).await?;
            verified = verify(&tokens.id_token, &keys, &expected);
        }
        let mut claims = verified.map_err(|bad| match bad {
            Bad::UnknownKey => "the ID token was signed with an unknown key".to_owned(),
            Bad::Because(reason) => format!("the ID token is invalid: {reason}"),
        })?;
        if let Some((url, token)) = metadata.userinfo_endpoint.as_ref().zip(tokens.access_token) {
            let call = self.http.get(url.clone()).bearer_auth(token);
            let more: Value = read(call)
                .await
                .map_err(|e| format!("the user's claims: {e}"))?;
            add(&mut claims, more)?;
        }
        Ok(claims)
    }
}

/// Adds the user info claims that the token lacks. Fails if they belong to
/// another user.
fn add(claims: &mut Value, more: Value) -> Result<(), String> {
    if more["sub"] != claims["sub"] {
        return Err("the token and the user info belong to different users".to_owned());
    }
    let (Some(own), Value::Object(more)) = (claims.as_object_mut(), more) else {
        return Ok(());
    };
    for (name, value) in more {
        own.entry(name).or_insert(value);
    }
    Ok(())
}

/// Sends a request and parses the JSON answer.
async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, String> {
    let answer = request.header("accept", "application/json").send().await;
    let answer = answer.map_err(root_cause)?;
    let status = answer.status();
    let bytes = bounded(answer).await?;
    if !status.is_success() {
        // Only the two error fields of RFC 6749, 5.2 are quoted; others may
        // contain secrets.
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let said = format!("{} {}", text("error"), text("error_description"));
        let said: String = said
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        return Err(format!("the answer is {status} {said}")
            .trim_end()
            .to_owned());
    }
    // The parser's message is dropped, because it may quote a token.
    serde_json::from_slice(&bytes).map_err(|_| "the answer is not of the expected form".to_owned())
}

async fn bounded(answer: Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut body = answer.bytes_stream();
    while let Some(piece) = body.try_next().await.map_err(root_cause)? {
        if bytes.len() + piece.len() > MAX_ANSWER {
            return Err(format!("the answer has more than {} KiB", MAX_ANSWER >> 10));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_of_another_user_are_not_added() {
        let mut claims = json!({"sub": "a", "email": "a@example.org"});
        add(
            &mut claims,
            json!({"sub": "a", "email": "b@example.org", "name": "A"}),
        )
        .unwrap();
        assert_eq!(
            claims,
            json!({"sub": "a", "email": "a@example.org", "name": "A"})
        );
        assert!(add(&mut claims, json!({"sub": "b"})).is_err());
        assert!(add(&mut claims, json!({})).is_err());
    }
}
