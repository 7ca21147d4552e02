//! Signing in with OpenID Connect, with a provider inside the test.

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
use finetuner_server::{Oidc, Server, Settings};
use reqwest::{Response, StatusCode};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::Http;

const SECRET: &str = "s3cret/+ü";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of the provider, with its name.
struct Key(String, EcdsaKeyPair);

impl Key {
    fn new(name: &str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self(name.to_owned(), pair)
    }

    fn public(&self) -> Value {
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

struct Inside {
    issuer: String,
    /// File with the client's secret.
    folder: tempfile::TempDir,
    key: Key,
    /// Published key, if it differs from the signing key.
    published: Option<Value>,
    grants: HashMap<String, Grant>,
    /// Claims that only `/userinfo` returns.
    userinfo: Value,
}

type Shared = Arc<Mutex<Inside>>;

/// A provider. The test chooses its users.
#[derive(Clone)]
struct Provider(Shared);

impl Provider {
    async fn start() -> Self {
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

    fn settings(&self, url: &str) -> Settings {
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
    fn authorize(&self, address: &Address, subject: &str, change: fn(&mut Value)) -> String {
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

/// An address to which a browser is redirected.
struct Address(url::Url);

impl Address {
    fn field(&self, name: &str) -> String {
        let found = self.0.query_pairs().find(|(field, _)| field == name);
        found.unwrap().1.into_owned()
    }
}

/// A browser with its cookies.
struct Browser {
    http: Http,
    cookies: Mutex<HashMap<String, String>>,
}

impl Browser {
    fn new(url: &str) -> Self {
        Self {
            http: Http::new(url, None),
            cookies: Mutex::default(),
        }
    }

    fn cookies(&self) -> String {
        let cookies = self.cookies.lock().unwrap();
        let pairs: Vec<String> = cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join("; ")
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        let request = request.header("cookie", self.cookies());
        let request = request.header("sec-fetch-site", "same-origin");
        let answer = request.send().await.unwrap();
        for cookie in answer.headers().get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let mut cookies = self.cookies.lock().unwrap();
            cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    async fn get(&self, path: &str) -> Response {
        self.send(self.http.get(path)).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.send(self.http.post(path).form(form)).await
    }

    /// Begins a sign-in. Returns the provider's address.
    async fn begin(&self, query: &str) -> Address {
        let answer = self.get(&format!("/console/oidc/start{query}")).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        Address(location(&answer).parse().unwrap())
    }

    async fn follow_callback(&self, address: &Address, code: &str) -> Response {
        let state = address.field("state");
        self.get(&format!("/console/oidc/callback?state={state}&code={code}"))
            .await
    }

    /// Returns the name of the signed-in user as pages show it.
    async fn user_name(&self) -> Option<String> {
        let answer = self.get("/console/account").await;
        let page = answer.text().await.unwrap();
        let start = page.find("Signed in as <b><bdi>")? + 21;
        Some(page[start..start + page[start..].find('<')?].to_owned())
    }
}

fn location(answer: &Response) -> String {
    answer.headers()["location"].to_str().unwrap().to_owned()
}

fn unchanged(_: &mut Value) {}

async fn start() -> (Provider, finetuner_server::RunningServer) {
    let provider = Provider::start().await;
    let settings = provider.settings("https://ft.example");
    let server = Server::embedded().settings(settings).start().await.unwrap();
    (provider, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sign_in_creates_an_account_and_the_next_one_finds_it() {
    let (provider, server) = start().await;
    let browser = Browser::new(&server.url());
    let page = browser.get("/console/signin").await.text().await.unwrap();
    assert!(page.contains("Sign in with Example"), "{page}");
    let address = browser.begin("?next=/console/data").await;
    assert_eq!(
        address.field("redirect_uri"),
        "https://ft.example/console/oidc/callback"
    );
    assert_eq!(address.field("code_challenge_method"), "S256");
    assert_eq!(address.field("scope"), "openid profile email");
    let code = provider.authorize(&address, "ada", unchanged);
    let answer = browser.follow_callback(&address, &code).await;
    assert_eq!(location(&answer), "/console/data");
    assert_eq!(browser.user_name().await.as_deref(), Some("ada"));
    // The provider changes its keys meanwhile.
    provider.0.lock().unwrap().key = Key::new("second");
    let other = Browser::new(&server.url());
    let address = other.begin("?next=https://evil.example").await;
    let code = provider.authorize(&address, "ada", unchanged);
    let answer = other.follow_callback(&address, &code).await;
    assert_eq!(location(&answer), "/console/");
    assert_eq!(other.user_name().await.as_deref(), Some("ada"));
    // A key that the provider does not publish is refused.
    let address = other.begin("").await;
    let code = provider.authorize(&address, "ada", unchanged);
    let published = provider.0.lock().unwrap().key.public();
    provider.0.lock().unwrap().published = Some(published);
    provider.0.lock().unwrap().key = Key::new("third");
    let answer = other.follow_callback(&address, &code).await;
    let page = answer.text().await.unwrap();
    assert!(page.contains("an unknown key"), "{page}");
    // Signing out of the server links to the provider's sign-out.
    let out = browser.post("/console/signout", &[]).await;
    let page = browser.get(&location(&out)).await.text().await.unwrap();
    assert!(page.contains("/leave?client_id=ft"), "{page}");
    assert_eq!(browser.user_name().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_completed_once_and_in_the_same_browser() {
    let (provider, server) = start().await;
    let (browser, other) = (Browser::new(&server.url()), Browser::new(&server.url()));
    let refused = async |browser: &Browser, address: &Address, code: &str, said: &str| {
        let answer = browser.follow_callback(address, code).await;
        assert!(
            answer.status().is_client_error(),
            "{said}: {}",
            answer.status()
        );
        let page = answer.text().await.unwrap();
        assert!(page.contains(said), "{said}: {page}");
        assert_eq!(browser.user_name().await, None, "{said}");
    };
    // Begun in another browser: an attacker can't sign this browser in to an account.
    let address = other.begin("").await;
    let code = provider.authorize(&address, "eve", unchanged);
    refused(&browser, &address, &code, "not started in this browser").await;
    browser.begin("").await;
    refused(&browser, &address, &code, "not started in this browser").await;
    // Completed twice.
    other.follow_callback(&address, &code).await;
    assert_eq!(other.user_name().await.as_deref(), Some("eve"));
    let again = other.follow_callback(&address, &code).await;
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    // Tokens of another sign-in.
    for (change, said) in [
        (
            (|c| c["nonce"] = json!("x")) as fn(&mut Value),
            "another sign-in",
        ),
        (|c| c["aud"] = json!("other"), "another client"),
        (
            |c| c["iss"] = json!("https://evil.example"),
            "another issuer",
        ),
        (|c| c["exp"] = json!(1), "expired"),
    ] {
        let address = browser.begin("").await;
        let code = provider.authorize(&address, "eve", change);
        refused(&browser, &address, &code, said).await;
    }
    // A code of another sign-in, refused by PKCE.
    let (first, second) = (other.begin("").await, browser.begin("").await);
    let code = provider.authorize(&first, "eve", unchanged);
    refused(&browser, &second, &code, "invalid_grant").await;
    // A user who is not admitted.
    let address = browser.begin("").await;
    let code = provider.authorize(&address, "mallory", unchanged);
    provider.0.lock().unwrap().userinfo["email_verified"] = json!(false);
    refused(&browser, &address, &code, "not verified").await;
    // The ID token and `/userinfo` name different users.
    let address = browser.begin("").await;
    let code = provider.authorize(&address, "mallory", unchanged);
    provider.0.lock().unwrap().userinfo["sub"] = json!("ada");
    refused(&browser, &address, &code, "different users").await;
    // The user refuses.
    let address = browser.begin("").await;
    let path = "/console/oidc/callback?error=access_denied&state=";
    let answer = browser
        .get(&format!("{path}{}", address.field("state")))
        .await;
    assert!(answer.text().await.unwrap().contains("access_denied"));
    refused(&browser, &address, "code-0", "not started in this browser").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_account_is_linked_only_with_its_password() {
    let (provider, server) = start().await;
    // The first user gets a password.
    let link = server.console_link().await.unwrap();
    let owner = Browser::new(&server.url());
    owner.get(link.strip_prefix(&server.url()).unwrap()).await;
    let set = owner
        .post("/console/password", &[("password", "correct horse")])
        .await;
    assert_eq!(set.status(), StatusCode::SEE_OTHER);
    let browser = Browser::new(&server.url());
    let arrive = async |browser: &Browser, query: &str, subject: &str| {
        let address = browser.begin(query).await;
        let code = provider.authorize(&address, subject, unchanged);
        browser.follow_callback(&address, &code).await
    };
    // A user of the provider has the name of an existing account.
    let answer = arrive(&browser, "", "finetuner").await;
    assert_eq!(location(&answer), "/console/oidc/account");
    assert_eq!(browser.user_name().await, None);
    let page = browser
        .get("/console/oidc/account")
        .await
        .text()
        .await
        .unwrap();
    assert!(page.contains("Choose your account") && page.contains("value=\"finetuner\""));
    let taken = browser
        .post("/console/oidc/account/create", &[("name", "finetuner")])
        .await;
    assert_eq!(taken.status(), StatusCode::CONFLICT);
    let form = |password| [("name", "finetuner"), ("password", password)];
    for _ in 0..5 {
        let wrong = browser
            .post("/console/oidc/account/link", &form("wrong horse"))
            .await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    }
    // After the last try, even the right password is refused.
    let late = browser
        .post("/console/oidc/account/link", &form("correct horse"))
        .await;
    assert_eq!(late.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(browser.user_name().await, None);
    arrive(&browser, "", "finetuner").await;
    let linked = browser
        .post("/console/oidc/account/link", &form("correct horse"))
        .await;
    assert_eq!(location(&linked), "/console/");
    assert_eq!(browser.user_name().await.as_deref(), Some("finetuner"));
    let again = browser
        .post("/console/oidc/account/link", &form("correct horse"))
        .await;
    assert_eq!(
        again.status(),
        StatusCode::UNAUTHORIZED,
        "an account is chosen once"
    );
    // The linked account needs no password any more.
    let other = Browser::new(&server.url());
    arrive(&other, "", "finetuner").await;
    assert_eq!(other.user_name().await.as_deref(), Some("finetuner"));
    // Forms of other sites change nothing, and the user can end the link.
    let page = other
        .get("/console/oidc/unlink")
        .await
        .text()
        .await
        .unwrap();
    assert!(page.contains("End the link?"), "{page}");
    let forged = other
        .http
        .post("/console/oidc/unlink")
        .header("cookie", other.cookies());
    let forged = forged
        .header("sec-fetch-site", "cross-site")
        .send()
        .await
        .unwrap();
    assert_eq!(forged.status(), StatusCode::FORBIDDEN);
    other.post("/console/oidc/unlink", &[]).await;
    let third = Browser::new(&server.url());
    let answer = arrive(&third, "", "finetuner").await;
    assert_eq!(location(&answer), "/console/oidc/account");
    let made = third
        .post("/console/oidc/account/create", &[("name", "somebody new")])
        .await;
    assert_eq!(location(&made), "/console/");
    assert_eq!(third.user_name().await.as_deref(), Some("somebody new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_groups_grant_admin_and_disabled_users_are_refused() {
    let provider = Provider::start().await;
    let mut settings = provider.settings("https://ft.example");
    settings.oidc.admin_groups = vec!["admins".to_owned()];
    let server = Server::embedded().settings(settings).start().await.unwrap();
    let sign_in = async |subject: &str, groups: Value| {
        let browser = Browser::new(&server.url());
        let address = browser.begin("").await;
        let code = provider.authorize(&address, subject, unchanged);
        provider.0.lock().unwrap().userinfo["groups"] = groups;
        let answer = browser.follow_callback(&address, &code).await;
        (browser, answer)
    };
    let (bob, _) = sign_in("bob", json!(["users"])).await;
    assert_eq!(
        bob.get("/console/admin").await.status(),
        StatusCode::FORBIDDEN
    );
    let (ada, _) = sign_in("ada", json!(["users", "admins"])).await;
    let admin = ada.get("/console/admin").await;
    assert_eq!(admin.status(), StatusCode::OK);
    let owner = Http::new(&server.url(), server.first_token());
    let bob = owner.request(reqwest::Method::PUT, "/api/v1/admin/users/bob");
    let disabled = bob.json(&json!({"disabled": true})).send().await.unwrap();
    assert_eq!(disabled.status(), StatusCode::OK);
    let (bob, answer) = sign_in("bob", json!([])).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(bob.user_name().await, None);
    // The audit log names both accounts and contains no secret.
    let log = owner.get("/api/v1/admin/audit").send().await.unwrap();
    let log = log.text().await.unwrap();
    for action in ["user.add", "user.admin", "signin"] {
        assert!(log.contains(action), "{action}: {log}");
    }
    assert!(!log.contains(SECRET) && !log.contains("code-"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_sign_ins_per_network_are_limited() {
    let (_provider, server) = start().await;
    let browser = Browser::new(&server.url());
    for _ in 0..64 {
        browser.begin("").await;
    }
    let answer = browser.get("/console/oidc/start").await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn password_sign_in_works_during_a_provider_outage() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = Settings {
        public_url: Some("https://ft.example".to_owned()),
        oidc: Oidc {
            issuer: Some(issuer),
            client_id: Some("ft".to_owned()),
            allowed_domains: vec!["*".to_owned()],
            ..Oidc::default()
        },
        ..Settings::default()
    };
    let server = Server::embedded().settings(settings).start().await.unwrap();
    let browser = Browser::new(&server.url());
    let answer = browser.get("/console/oidc/start").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let page = answer.text().await.unwrap();
    assert!(
        page.contains("does not answer") && page.contains("Password"),
        "{page}"
    );
    let signed_in = browser
        .post(
            "/console/signin",
            &[("password", server.first_token().unwrap())],
        )
        .await;
    assert_eq!(signed_in.status(), StatusCode::SEE_OTHER);
    // Servers without a provider have none of its pages.
    let plain = Server::embedded().start().await.unwrap();
    let answer = Browser::new(&plain.url()).get("/console/oidc/start").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}
