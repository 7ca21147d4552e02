//! An OpenID Connect provider for tests. It issues signed ID tokens and checks the
//! client's secret and PKCE, as a real provider does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Form, Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode as Status},
    routing::{get, post},
};
use base64::{Engine, prelude::*};
use finetuner_server::{Oidc, Settings};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::browser::Address;

pub(super) const SECRET: &str = "s3cret/+ü";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of the provider, with its name.
pub(super) struct Key(String, EcdsaKeyPair);

impl Key {
    pub(super) fn new(name: &str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self(name.to_owned(), pair)
    }

    pub(super) fn public(&self) -> Value {
        let point = self.1.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.0,
            "x": base64(&point[1..33]), "y": base64(&point[33..]),
        })
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.0});
        let message = format!(
            "{}.{}",
            base64(header.to_string()),
            base64(claims.to_string())
        );
        let signature = self
            .1
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", base64(signature))
    }
}

/// An authorization that a code stands for.
#[derive(Clone)]
struct Grant {
    challenge: String,
    claims: Value,
}

pub(super) struct Inside {
    issuer: String,
    /// File with the client's secret.
    folder: tempfile::TempDir,
    pub(super) key: Key,
    /// Published key, if it differs from the signing key.
    pub(super) published: Option<Value>,
    grants: HashMap<String, Grant>,
    /// Claims that only `/userinfo` returns.
    pub(super) userinfo: Value,
}

type Shared = Arc<Mutex<Inside>>;

/// A provider. The test chooses its users.
#[derive(Clone)]
pub(super) struct Provider(pub(super) Shared);

impl Provider {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Inside {
            issuer,
            folder: tempfile::tempdir().unwrap(),
            key: Key::new("first"),
            published: None,
            grants: HashMap::new(),
            userinfo: json!({}),
        }));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(describe))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self(state)
    }

    pub(super) fn settings(&self, url: &str) -> Settings {
        let state = self.0.lock().unwrap();
        let file = state.folder.path().join("secret");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        Settings {
            public_url: Some(url.to_owned()),
            oidc: Oidc {
                issuer: Some(state.issuer.clone()),
                client_id: Some("ft".to_owned()),
                client_secret_file: Some(file),
                allowed_domains: vec!["example.org".to_owned()],
                name: "Example".to_owned(),
                ..Oidc::default()
            },
            ..Settings::default()
        }
    }

    /// Lets the user agree. Returns the code.
    pub(super) fn authorize(
        &self,
        address: &Address,
        subject: &str,
        change: fn(&mut Value),
    ) -> String {
        let mut state = self.0.lock().unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({
            "iss": state.issuer, "aud": "ft", "sub": subject, "nonce": address.field("nonce"),
            "iat": now, "exp": now + 60,
        });
        change(&mut claims);
        state.userinfo = json!({
            "sub": subject, "preferred_username": subject,
            "email": format!("{subject}@example.org"), "email_verified": true,
        });
        let code = format!("code-{}", state.grants.len());
        let challenge = address.field("code_challenge").to_owned();
        state
            .grants
            .insert(code.clone(), Grant { challenge, claims });
        code
    }
}

async fn describe(State(state): State<Shared>) -> Json<Value> {
    let issuer = state.lock().unwrap().issuer.clone();
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "end_session_endpoint": format!("{issuer}/leave"),
    }))
}

async fn keys(State(state): State<Shared>) -> Json<Value> {
    let unknown = json!({"kty": "new", "kid": "x"});
    let state = state.lock().unwrap();
    let key = state
        .published
        .clone()
        .unwrap_or_else(|| state.key.public());
    Json(json!({"keys": [unknown, key]}))
}

async fn token(
    State(state): State<Shared>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> (Status, Json<Value>) {
    let mut state = state.lock().unwrap();
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("ft:{encoded}")));
    let is_client = headers["authorization"] == expected.as_str();
    let grant = state.grants.remove(&form["code"]).filter(|grant| {
        let challenge = base64(Sha256::digest(form["code_verifier"].as_bytes()));
        is_client && challenge == grant.challenge && form["grant_type"] == "authorization_code"
    });
    match grant {
        Some(grant) => {
            let id_token = state.key.sign(&grant.claims);
            let body = json!({"id_token": id_token, "access_token": "at", "token_type": "Bearer"});
            (Status::OK, Json(body))
        }
        None => (Status::BAD_REQUEST, Json(json!({"error": "invalid_grant"}))),
    }
}

async fn userinfo(State(state): State<Shared>, headers: HeaderMap) -> (Status, Json<Value>) {
    match headers["authorization"] == "Bearer at" {
        true => (Status::OK, Json(state.lock().unwrap().userinfo.clone())),
        false => (Status::UNAUTHORIZED, Json(json!({}))),
    }
}
