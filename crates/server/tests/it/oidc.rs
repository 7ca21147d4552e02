//! Signing in with OpenID Connect, with a provider inside the test.

mod browser;
mod provider;

use finetuner_server::{Oidc, Server, Settings};
use reqwest::StatusCode;
use serde_json::{Value, json};

use self::{
    browser::{Address, Browser, location},
    provider::{Key, Provider, SECRET},
};
use crate::support::Http;

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
