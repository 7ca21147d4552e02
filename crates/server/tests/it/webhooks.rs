//! Webhooks: deliveries at the end of a run, and access to them.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode as Status, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use finetuner_server::Settings;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::{
    logins::sign_in,
    support::{Backend, Http, finished_run, start, start_with},
};

/// A received delivery.
struct Call {
    headers: HeaderMap,
    body: String,
}

impl Call {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A receiver that answers with these statuses in order, and then repeats the last.
struct Receiver {
    url: String,
    calls: mpsc::UnboundedReceiver<Call>,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let mut statuses: Vec<u16> = statuses.iter().rev().copied().collect();
        let next = move || match statuses.len() {
            1 => statuses[0],
            _ => statuses.pop().unwrap(),
        };
        let shared = Arc::new((sender, Mutex::new(next)));
        type Shared<F> = Arc<(mpsc::UnboundedSender<Call>, Mutex<F>)>;
        async fn receive<F: FnMut() -> u16>(
            State(shared): State<Shared<F>>,
            headers: HeaderMap,
            body: Bytes,
        ) -> Response {
            let status = (shared.1.lock().await)();
            let body = String::from_utf8(body.to_vec()).unwrap();
            let _ = shared.0.send(Call { headers, body });
            let status = Status::from_u16(status).unwrap();
            // Used by the redirect statuses.
            (status, [(header::LOCATION, "/elsewhere")]).into_response()
        }
        let router = Router::new().fallback(post(receive)).with_state(shared);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}/hook?key=secret"),
            calls,
        }
    }

    async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }
}

/// Field by which forms name their project.
const PROJECT: (&str, &str) = ("project", "finetuner");

/// Starts a server whose webhooks may call private addresses.
async fn start_private() -> Backend {
    let settings = Settings {
        private_webhooks: true,
        public_url: Some("https://ft.example".to_owned()),
        ..Settings::default()
    };
    start_with(settings).await
}

async fn create(http: &Http, url: &str, events: &[&str]) -> Value {
    let new = http.post("/api/v1/webhooks");
    let answer = new.json(&json!({"url": url, "events": events})).send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    answer.json().await.unwrap()
}

async fn deliveries(http: &Http, hook: &Value) -> Vec<Value> {
    let path = format!(
        "/api/v1/webhooks/{}/deliveries",
        hook["id"].as_str().unwrap()
    );
    http.get(&path).send().await.unwrap().json().await.unwrap()
}

/// Waits until the newest delivery has left this state, and returns it.
async fn wait_until_not(http: &Http, hook: &Value, state: &str) -> Value {
    loop {
        let newest = deliveries(http, hook).await.remove(0);
        if newest["state"] != state {
            return newest;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_run_is_delivered_with_a_signature() {
    let backend = start_private().await;
    let mut receiver = Receiver::start(&[200]).await;
    let ends = ["run.finished", "run.failed"];
    let hook = create(&backend.http, &receiver.url, &ends).await;
    let run = finished_run(&backend.finetuner, "r ü").await;
    let call = receiver.call().await;
    let told = call.json();
    assert_eq!(told["type"], "run.finished");
    let data = &told["data"];
    assert_eq!(
        (&data["run"], &data["status"]),
        (&json!("r ü"), &json!("FINISHED"))
    );
    assert_eq!(data["artifact_id"], run.artifact_id().await.unwrap());
    assert!(
        data["ended_at"].is_string() && data["metrics"].is_object(),
        "{data}"
    );
    assert_eq!(
        data["url"],
        "https://ft.example/console/experiments/default/runs/r%20%C3%BC"
    );
    let secret = hook["secret"]
        .as_str()
        .unwrap()
        .strip_prefix("whsec_")
        .unwrap();
    let secret = BASE64_STANDARD.decode(secret).unwrap();
    let (name, time) = (call.header("webhook-id"), call.header("webhook-timestamp"));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&secret).unwrap();
    mac.update(format!("{name}.{time}.{}", call.body).as_bytes());
    let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    assert_eq!(call.header("webhook-signature"), format!("v1,{signature}"));
    let done = wait_until_not(&backend.http, &hook, "waiting").await;
    assert_eq!(
        (&done["state"], &done["id"]),
        (&json!("delivered"), &json!(name))
    );
    // The secret is not shown again.
    let all = backend.http.get("/api/v1/webhooks").send().await.unwrap();
    assert!(!all.text().await.unwrap().contains("whsec_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_retried_until_the_last_attempt() {
    let backend = start_private().await;
    let http = &backend.http;
    // The first is retried automatically, the second is abandoned at once.
    let mut receiver = Receiver::start(&[503, 410, 302, 204]).await;
    let hook = create(http, &receiver.url, &["run.failed"]).await;
    let id = hook["id"].as_str().unwrap();
    let test = http.post(&format!("/api/v1/webhooks/{id}/test")).send();
    assert_eq!(test.await.unwrap().status(), StatusCode::OK);
    let first = receiver.call().await;
    assert_eq!(first.json()["type"], "webhook.test");
    let second = receiver.call().await;
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.body, second.body);
    let failed = wait_until_not(http, &hook, "waiting").await;
    assert_eq!(failed["state"], "failed");
    assert!(
        failed["outcome"].as_str().unwrap().contains("410"),
        "{failed}"
    );
    assert_eq!(
        (&failed["attempts"], &failed["next_at"]),
        (&json!(2), &Value::Null)
    );
    let again = format!(
        "/api/v1/webhooks/{id}/deliveries/{}",
        failed["id"].as_str().unwrap()
    );
    let sent = http.post(&again).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::OK);
    receiver.call().await;
    let redirected = loop {
        let newest = deliveries(http, &hook).await.remove(0);
        if newest["outcome"] != "" {
            break newest;
        }
        tokio::task::yield_now().await;
    };
    let outcome = redirected["outcome"].as_str().unwrap();
    assert!(outcome.contains("redirects"), "{redirected}");
    assert!(!outcome.contains("secret"), "{redirected}");
    receiver.call().await;
    let done = wait_until_not(http, &hook, "waiting").await;
    assert_eq!(done["state"], "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_to_private_networks_are_not_called() {
    let backend = start().await;
    let mut receiver = Receiver::start(&[200]).await;
    for bad in [
        receiver.url.as_str(),
        "http://169.254.169.254/",
        "file:///etc/passwd",
    ] {
        let new = backend
            .http
            .post("/api/v1/webhooks")
            .json(&json!({"url": bad}));
        let answer = new.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    // A host name is resolved at delivery.
    let by_name = receiver.url.replace("127.0.0.1", "localhost");
    let hook = create(&backend.http, &by_name, &["run.failed"]).await;
    let test = format!("/api/v1/webhooks/{}/test", hook["id"].as_str().unwrap());
    backend.http.post(&test).send().await.unwrap();
    let tried = loop {
        let newest = deliveries(&backend.http, &hook).await.remove(0);
        if newest["outcome"] != "" {
            break newest;
        }
        tokio::task::yield_now().await;
    };
    let outcome = tried["outcome"].as_str().unwrap();
    assert!(outcome.contains("private network"), "{tried}");
    assert!(
        !outcome.contains("127.0.0.1") && !outcome.contains("::1"),
        "{tried}"
    );
    assert!(receiver.calls.try_recv().is_err());
}

#[tokio::test]
async fn the_number_of_webhooks_is_limited() {
    let backend = start().await;
    for n in 0..10 {
        create(
            &backend.http,
            &format!("https://example.org/{n}"),
            &["run.failed"],
        )
        .await;
    }
    let new = backend.http.post("/api/v1/webhooks");
    let answer = new
        .json(&json!({"url": "https://example.org/"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let body: Value = answer.json().await.unwrap();
    assert!(
        body["detail"].as_str().unwrap().contains("10 webhooks"),
        "{body}"
    );
}

/// Routes about one webhook: those of the API, and pages and forms.
fn routes(hook: &str) -> Vec<(Method, String)> {
    let one = |root: &str| {
        let hook = format!("{root}/{hook}");
        vec![
            (Method::GET, hook.clone()),
            (Method::POST, format!("{hook}/test")),
            (Method::POST, format!("{hook}/deliveries/msg_0")),
        ]
    };
    let mut all = one("/api/v1/webhooks");
    all.push((Method::GET, format!("/api/v1/webhooks/{hook}/deliveries")));
    all.push((Method::DELETE, format!("/api/v1/webhooks/{hook}")));
    all.extend(one("/console/webhooks"));
    all.push((Method::GET, format!("/console/webhooks/{hook}/delete")));
    all.push((Method::POST, format!("/console/webhooks/{hook}/delete")));
    all
}

#[tokio::test]
async fn webhooks_belong_to_one_user() {
    let backend = start().await;
    let hook = create(&backend.http, "https://example.org/", &["run.failed"]).await;
    let own = backend.server.first_token().unwrap();
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let reader = backend.http.post("/v2/rpc/user.pat.create");
    let reader = reader.form(&[("name", "reader"), ("scope", "read")]).send();
    let reader: Value = reader.await.unwrap().json().await.unwrap();
    let reader = reader["data"]["token"].as_str().unwrap();
    let ask = async |(method, path): &(Method, String),
                     (user, token): (&str, &str),
                     site: &'static str| {
        let is_page = path.starts_with("/console/");
        let http = backend.http.with_token(Some(token).filter(|_| !is_page));
        let request = http.request(method.clone(), path);
        let cookie = format!("finetuner_session={token}");
        let request = request
            .header("cookie", cookie)
            .header("sec-fetch-site", site);
        let request = match *method == Method::POST && is_page {
            true => request.form(&[("project", user)]),
            false => request,
        };
        request.send().await.unwrap().status()
    };
    let user = "finetuner";
    for route in routes(hook["id"].as_str().unwrap()) {
        let status = ask(&route, ("eve", &eve), "same-origin").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{route:?}");
        let changes = route.0 != Method::GET || route.1.ends_with("/delete");
        if changes {
            let status = ask(&route, (user, reader), "same-origin").await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{route:?}");
        }
        let status = ask(&route, (user, "ft_wrong"), "same-origin").await;
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::SEE_OTHER];
        assert!(refused.contains(&status), "{route:?}: {status}");
        if route.0 == Method::POST && route.1.starts_with("/console/") {
            let status = ask(&route, (user, own), "cross-site").await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{route:?}");
        }
    }
    let all = backend.http.get("/api/v1/webhooks").send().await.unwrap();
    let all: Vec<Value> = all.json().await.unwrap();
    assert_eq!(all.len(), 1, "it still exists");
}

#[tokio::test]
async fn project_owners_manage_webhooks_and_members_see_them() {
    let backend = start().await;
    let bob = backend.server.create_token("bob", "laptop").await.unwrap();
    let call = async |method: Method, path: &str, body: Value| {
        let path = format!("/api/v1/projects{path}");
        let request = backend.http.request(method, &path).json(&body);
        assert!(
            request.send().await.unwrap().status().is_success(),
            "{path}"
        );
    };
    call(Method::POST, "", json!({"name": "team"})).await;
    call(Method::PUT, "/team/members/bob", json!({"role": "member"})).await;
    let owner = backend.http.in_project("team");
    let hook = create(&owner, "https://example.org/a-key", &["run.failed"]).await;
    assert_eq!(hook["url"], "https://example.org/a-key");
    let bob = backend.http.with_token(Some(&bob)).in_project("team");
    let seen = bob.get("/api/v1/webhooks").send().await.unwrap();
    let seen: Vec<Value> = seen.json().await.unwrap();
    assert_eq!((seen.len(), &seen[0]["id"]), (1, &hook["id"]));
    assert_eq!(
        seen[0]["url"], "https://example.org/…",
        "the rest may be a key"
    );
    let new = bob
        .post("/api/v1/webhooks")
        .json(&json!({"url": "https://example.org/"}));
    assert_eq!(new.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    for (method, path) in routes(hook["id"].as_str().unwrap()) {
        if path.starts_with("/api/") && method != Method::GET {
            let status = bob.request(method, &path).send().await.unwrap().status();
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        }
    }
    // The personal project does not contain it.
    let own = backend.http.get("/api/v1/webhooks").send().await.unwrap();
    assert_eq!(own.json::<Vec<Value>>().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_created_tested_and_deleted_in_the_console() {
    let backend = start_private().await;
    let mut receiver = Receiver::start(&[500, 200]).await;
    let cookie = sign_in(&backend).await;
    let http = backend.http.with_token(None);
    let get = async |path: &str| {
        let page = http
            .get(path)
            .header("cookie", &cookie)
            .send()
            .await
            .unwrap();
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        page.text().await.unwrap()
    };
    let send = async |path: &str, form: &[(&str, &str)]| {
        let request = http.post(path).header("cookie", &cookie).form(form);
        request
            .header("sec-fetch-site", "same-origin")
            .send()
            .await
            .unwrap()
    };
    let refused = send(
        "/console/webhooks",
        &[PROJECT, ("url", "https://<b>.example/")],
    )
    .await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = refused.text().await.unwrap();
    assert!(
        page.contains("&lt;b&gt;") && !page.contains("<b>."),
        "{page}"
    );
    let form = [
        PROJECT,
        ("url", receiver.url.as_str()),
        ("event", "run.failed"),
        ("event", "run.started"),
    ];
    let made = send("/console/webhooks", &form).await.text().await.unwrap();
    assert!(
        made.contains("whsec_") && made.contains("started, failed"),
        "{made}"
    );
    let start = made.find("/console/webhooks/").unwrap();
    let hook = &made[start..start + made[start..].find('"').unwrap()];
    let tried = send(&format!("{hook}/test"), &[PROJECT]).await;
    assert_eq!(tried.status(), StatusCode::SEE_OTHER);
    receiver.call().await;
    receiver.call().await;
    let page = loop {
        let page = get(hook).await;
        if !page.contains("waiting") {
            break page;
        }
    };
    assert!(
        page.contains("delivered") && page.contains("200 OK"),
        "{page}"
    );
    assert!(
        get(&format!("{hook}/delete"))
            .await
            .contains("Delete this webhook?")
    );
    let gone = send(&format!("{hook}/delete"), &[PROJECT]).await;
    assert_eq!(gone.status(), StatusCode::SEE_OTHER);
    assert!(
        get("/console/webhooks")
            .await
            .contains("There are no webhooks yet")
    );
}
