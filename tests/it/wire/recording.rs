//! The recorded requests of the Python clients, and their comparison with the
//! requests that a mock server received. Both are written in one format, without
//! random values and versions.

use finetuner::{Document, DocumentArray, protocol::DocumentReader};
use serde_json::{Value, json};
use wiremock::{MockServer, Request};

pub(super) const V0_2: &str = include_str!("../../fixtures/python-client-0.2.2.jsonl");

pub(super) const V0_8: &str = include_str!("../../fixtures/python-client-0.8.1.jsonl");

/// Recorded requests without an equivalent, with the reason.
const NOT_SENT: [(&str, &str, &str); 3] = [
    (
        "GET",
        "/api/v1/experiments",
        "the list of client 0.2.2 is bare; lists are asked for in pages, which later clients do",
    ),
    (
        "POST",
        "/api/v1/experiments",
        "client 0.2.2 has no slash at the end; all later clients have one",
    ),
    (
        "POST",
        "/v2/rpc/user.identity.whoami (without a session)",
        "0.8.1 asks so before every call; one at login is enough",
    ),
];

/// Form fields that the Python clients did not send, with the reason. They follow all
/// others, and backends ignore unknown fields.
const ADDED: [(&str, &str); 2] = [
    (
        "documents",
        "our backend refuses an upload with another number of documents",
    ),
    (
        "sha256",
        "our backend refuses an upload with another content",
    ),
];

/// Names of uploaded data end with 12 random digits, so that a run never replaces
/// another run's data. The Python clients have no such suffix.
const PUSHED: &str = "finetuner-dastorage-";

const RANDOM_DIGITS: usize = 12;

/// Returns the requests of a recording, one per line.
pub(super) fn recorded(recording: &str) -> Vec<Value> {
    let lines = recording.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Returns the documents that the recorded client uploaded under this name.
pub(super) fn uploaded(name: &str) -> DocumentArray {
    let requests = recorded(V0_8);
    let upload = requests
        .iter()
        .filter_map(|request| request["multipart"].as_array())
        .find(|parts| parts.iter().any(|part| part["value"] == name))
        .unwrap();
    documents(&base64(upload[0]["value"].as_str().unwrap()))
}

fn documents(bytes: &[u8]) -> DocumentArray {
    DocumentReader::new(bytes)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group
            .iter()
            .fold(0u32, |bits, c| bits << 6 | u32::from(value(*c)));
        let bits = bits << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

/// Removes random values and versions from a request.
fn normalised(request: &Value) -> Value {
    let mut request = request.clone();
    remove_random_suffixes(&mut request);
    if let Some(parts) = request["multipart"].as_array_mut() {
        let is_added = |part: &Value| ADDED.iter().any(|(name, _)| part["name"] == *name);
        while parts.last().is_some_and(is_added) {
            parts.pop();
        }
        for part in parts {
            if part["name"] == "file" {
                let mut array = documents(&base64(part["value"].as_str().unwrap()));
                array.iter_mut().for_each(remove_ids);
                part["value"] = format!("{array:?}").into();
            }
            if part["name"] == "metaData" {
                let mut meta: Value =
                    serde_json::from_str(part["value"].as_str().unwrap()).unwrap();
                // Names of packages and their versions.
                meta["version"] = Value::Null;
                part["value"] = meta;
            }
        }
    }
    for volatile in [
        "transfer-encoding",
        "jinameta-session-id",
        "accept-charset",
        "content-type",
    ] {
        // Session ids and form boundaries are random.
        if let Some(headers) = request["headers"].as_object_mut() {
            if volatile != "content-type" {
                headers.remove(volatile);
            } else if let Some(kind) = headers.get_mut(volatile) {
                *kind = kind.as_str().unwrap().split(';').next().unwrap().into();
            }
        }
    }
    request
}

/// Removes the random digits from the names of uploaded data.
fn remove_random_suffixes(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with(PUSHED) => {
            let Some((name, end)) = text.rsplit_once('-') else {
                return;
            };
            if end.len() == RANDOM_DIGITS && end.bytes().all(|c| c.is_ascii_hexdigit()) {
                *text = name.to_owned();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(remove_random_suffixes),
        Value::Object(members) => members.values_mut().for_each(remove_random_suffixes),
        _ => {}
    }
}

/// Removes random ids.
fn remove_ids(document: &mut Document) {
    let random = |id: &String| id.len() == 32;
    if random(&document.id) {
        document.id.clear();
    }
    if random(&document.other.parent_id) {
        document.other.parent_id.clear();
    }
    document.chunks.iter_mut().for_each(remove_ids);
}

/// Returns the received requests in the format of the recording.
async fn sent(server: &MockServer) -> Vec<Value> {
    let mut all = Vec::new();
    for request in server.received_requests().await.unwrap() {
        all.push(normalised(&record(&request)));
    }
    all
}

fn record(request: &Request) -> Value {
    let mut line = json!({"method": request.method.as_str(), "path": request.url.path()});
    let query: serde_json::Map<String, Value> = request
        .url
        .query_pairs()
        .map(|(k, v)| (k.into_owned(), v.into_owned().into()))
        .collect();
    if !query.is_empty() {
        line["query"] = query.into();
    }
    let mut headers = json!({});
    for name in ["accept-charset", "authorization", "content-type"] {
        if let Some(value) = request.headers.get(name) {
            headers[name] = value.to_str().unwrap().into();
        }
    }
    let kind = headers["content-type"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    line["headers"] = headers;
    if kind.starts_with("application/json") {
        line["json"] = request.body_json().unwrap();
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        let form: serde_json::Map<String, Value> = url::form_urlencoded::parse(&request.body)
            .map(|(k, v)| (k.into_owned(), v.into_owned().into()))
            .collect();
        line["form"] = form.into();
    } else if let Some((_, boundary)) = kind.split_once("boundary=") {
        line["multipart"] = parts(&request.body, boundary).into();
    }
    line
}

/// Returns the parts of a form, with files as base64.
fn parts(body: &[u8], boundary: &str) -> Vec<Value> {
    let delimiter = format!("--{boundary}");
    let find = |from: usize, what: &[u8]| {
        let rest = &body[from..];
        rest.windows(what.len())
            .position(|part| part == what)
            .map(|at| from + at)
    };
    let mut found = Vec::new();
    let mut at = delimiter.len() + 2;
    while let Some(end) = find(at, format!("\r\n{delimiter}").as_bytes()) {
        let head_end = find(at, b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&body[at..head_end]).into_owned();
        let content = &body[head_end + 4..end];
        let attribute = |name: &str| {
            let start = head.find(&format!("{name}=\""))? + name.len() + 2;
            head[start..].split('"').next().map(str::to_owned)
        };
        let filename = attribute("filename");
        let value = match &filename {
            Some(_) => encode(content),
            None => String::from_utf8_lossy(content).into_owned(),
        };
        // `filename` contains `name` too.
        let name = attribute("; name").unwrap();
        found.push(json!({"name": name, "filename": filename, "value": value}));
        at = end + 2 + delimiter.len() + 2;
    }
    found
}

fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 3];
        padded[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= group.len() { digit } else { '=' });
        }
    }
    out
}

/// Checks that every recorded request has an equivalent, or a reason to have none.
pub(super) async fn assert_all_sent(server: &MockServer, recording: &str) {
    let sent = sent(server).await;
    let mut missing = Vec::new();
    for line in recorded(recording) {
        let (method, path) = (
            line["method"].as_str().unwrap(),
            line["path"].as_str().unwrap(),
        );
        let excused = NOT_SENT.iter().any(|(m, p, _)| (*m, *p) == (method, path));
        let wanted = normalised(&line);
        if !excused && !sent.contains(&wanted) {
            let near: Vec<&Value> = sent.iter().filter(|s| s["path"] == path).collect();
            missing.push(format!("not sent: {wanted}\nsent there: {near:#?}"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n\n"));
}
