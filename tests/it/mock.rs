//! A mock server with scripted answers that records requests.

use finetuner::{DocumentArray, Finetuner, RetryPolicy, Run};
use finetuner_test::TestBackend;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};
use wiremock::{
    Mock, MockServer, Request, Respond, ResponseTemplate,
    matchers::{any, method, path, path_regex},
};

pub(crate) const TOKEN: &str = "secret-token";
pub(crate) const ARTIFACT: &str = "62972acb5de25a53fdbfcecc";

/// Returns a retry policy without long pauses.
pub(crate) fn short_pauses() -> RetryPolicy {
    RetryPolicy::default().first_pause(Duration::from_millis(1))
}

pub(crate) async fn login(server: &MockServer) -> finetuner::Result<Finetuner> {
    Finetuner::builder()
        .registry(server.uri())
        .token(TOKEN)
        .retry(short_pauses())
        .login()
        .await
}

/// Starts a server that accepts everything, and a client logged in to it.
pub(crate) async fn accept_all() -> (MockServer, Finetuner) {
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(answer)
        .with_priority(10)
        .mount(&server)
        .await;
    let finetuner = login(&server).await.unwrap();
    (server, finetuner)
}

fn answer(request: &Request) -> ResponseTemplate {
    let hubble = |data: Value| json!({"code": 200, "status": 20000, "data": data});
    let path = request.url.path();
    let experiment = json!({"name": "fashion", "description": "", "status": "ACTIVE",
        "created_at": "2022-08-25T10:00:00"});
    let page = |item: Value| json!({"items": [item], "total": 1, "page": 1, "size": 50});
    let both = json!({"before": {}, "after": {}});
    let method = request.method.as_str();
    let body = match (method, path.trim_end_matches('/')) {
        (_, "/v2/rpc/user.identity.whoami") => hubble(json!({"_id": "u1", "name": "ada"})),
        (_, "/v2/rpc/artifact.upload") => hubble(json!({"_id": ARTIFACT, "name": "data"})),
        (_, "/v2/rpc/artifact.getDownloadUrl") => {
            let host = request.headers["host"].to_str().unwrap();
            hubble(json!({"download": format!("http://{host}/v2/download/key")}))
        }
        ("GET", "/v2/download/key") => {
            let documents = DocumentArray::new().to_bytes().unwrap();
            return ResponseTemplate::new(200).set_body_bytes(documents);
        }
        (_, "/v2/rpc/artifact.list") => {
            json!({"code": 200, "status": 20000, "data": [], "meta": {"total": 0}})
        }
        (_, "/v2/rpc/artifact.getDetail") => hubble(json!({"_id": ARTIFACT, "name": null})),
        (_, "/v2/rpc/user.pat.create") => hubble(json!({"token": "pat"})),
        (_, "/v2/rpc/user.pat.list") => hubble(json!({"personal_access_tokens": []})),
        (_, path) if path.starts_with("/v2/rpc/") => hubble(json!({})),
        ("POST", path) if path.ends_with("/runs") => {
            let mut run: Value = request.body_json().unwrap();
            run["artifact_id"] = ARTIFACT.into();
            run
        }
        ("GET", path) if path.ends_with("/runs") => page(run()),
        (_, path) if path.ends_with("/status") => {
            json!({"status": "FINISHED", "details": "Run finished"})
        }
        (_, path) if path.ends_with("/logs") || path.ends_with("/logstream") => {
            return ResponseTemplate::new(200).set_body_raw("", "text/plain");
        }
        (_, path) if path.ends_with("/metrics") || path.ends_with("/examples") => both,
        (_, path) if path.contains("/runs") => run(),
        ("GET", "/api/v1/experiments") => page(experiment),
        ("DELETE", "/api/v1/experiments") => json!([experiment]),
        (_, path) if path.contains("/experiments") => experiment,
        _ => return ResponseTemplate::new(404).set_body_json(json!({"detail": "no such path"})),
    };
    ResponseTemplate::new(200).set_body_json(body)
}

fn run() -> Value {
    json!({"name": "r", "description": "", "config": {}, "created_at": "2022-08-25T10:00:00",
        "artifact_id": ARTIFACT})
}

/// Returns a client, one of its runs, and the server, which answers `path` as given.
pub(crate) async fn with_run(
    path_end: &str,
    answer: impl Respond + 'static,
) -> (MockServer, Finetuner, Run) {
    let (server, finetuner) = accept_all().await;
    Mock::given(path_regex(format!("{path_end}$")))
        .respond_with(answer)
        .with_priority(1)
        .mount(&server)
        .await;
    let run = finetuner.get_run("r").await.unwrap();
    (server, finetuner, run)
}

/// Sets the answer of one path.
pub(crate) async fn on(server: &MockServer, verb: &str, at: &str, answer: impl Respond + 'static) {
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(answer)
        .with_priority(1)
        .mount(server)
        .await;
}

/// Gives the answers in order, and repeats the last one.
pub(crate) struct Sequence {
    answers: Vec<ResponseTemplate>,
    given: std::sync::atomic::AtomicUsize,
}

impl Sequence {
    pub(crate) fn new(answers: impl IntoIterator<Item = ResponseTemplate>) -> Self {
        Self {
            answers: answers.into_iter().collect(),
            given: Default::default(),
        }
    }
}

impl Respond for Sequence {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        let n = self.given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.answers[n.min(self.answers.len() - 1)].clone()
    }
}

/// Returns the number of requests of a path.
pub(crate) async fn count(server: &MockServer, path_end: &str) -> usize {
    let requests = server.received_requests().await.unwrap();
    let asked = |r: &&Request| r.url.path().ends_with(path_end);
    requests.iter().filter(asked).count()
}

/// Starts a raw server: `answer` handles each connection, given its number, after the
/// request was read.
pub(crate) fn raw_server(answer: impl Fn(usize, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (n, connection) in listener.incoming().enumerate() {
            let Ok(mut connection) = connection else {
                break;
            };
            let mut request = [0; 8192];
            let _ = connection.read(&mut request);
            answer(n, &mut connection);
        }
    });
    url
}

pub(crate) fn send(connection: &mut TcpStream, body: &str) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    let _ = write!(
        connection,
        "{head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}

pub(crate) const WHOAMI: &str =
    r#"{"code": 200, "status": 20000, "data": {"_id": "u", "name": "ada"}}"#;

/// Reads a request with its body; empty if the client disconnected.
fn read_request(client: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return String::new(),
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
}

/// Forwards bytes to a server and back. The first answer to requests that begin with
/// `lost` is dropped.
pub(crate) fn proxy_that_loses(target: String, lost: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let losses = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let (target, losses) = (target.clone(), std::sync::Arc::clone(&losses));
            std::thread::spawn(move || {
                let request = read_request(&mut client);
                let is_lost = request.starts_with(lost)
                    && losses.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
                // One request per connection, so the answer ends with the connection.
                let request = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
                let mut answer = Vec::new();
                if !request.is_empty() {
                    let mut server = TcpStream::connect(&target).unwrap();
                    server.write_all(request.as_bytes()).unwrap();
                    let _ = server.read_to_end(&mut answer);
                }
                if !is_lost {
                    let _ = client.write_all(&answer);
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    url
}

/// Starts a test backend, and a client logged in to it.
pub(crate) async fn test_backend() -> (TestBackend, Finetuner) {
    let backend = TestBackend::start().await.unwrap();
    backend.accept_any_data();
    let login = Finetuner::builder()
        .registry(backend.url())
        .token(backend.token())
        .retry(short_pauses())
        .login();
    let finetuner = login.await.unwrap();
    (backend, finetuner)
}

/// Like [`test_backend`], with a finished run `r`.
pub(crate) async fn finished_test_run() -> (TestBackend, Finetuner, Run) {
    let (backend, finetuner) = test_backend().await;
    let run = finetuner.fit("minilm-small", "t").run_name("r");
    let run = run.await.unwrap();
    (backend, finetuner, run)
}
