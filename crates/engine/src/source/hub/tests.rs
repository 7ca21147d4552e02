//! A fake hub, and tests of how its responses are handled.

mod ranges;

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request from the client.
#[derive(Clone, Debug, Default)]
struct Request {
    method: String,
    path: String,
    range: Option<u64>,
    token: bool,
}

/// A response of the fake hub.
#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Number of body bytes before the connection breaks.
    cut: Option<usize>,
    /// Sends no response until the test ends.
    silent: bool,
}

fn status(status: u16) -> Reply {
    Reply {
        status,
        ..Reply::default()
    }
}

struct FakeHub {
    address: String,
    asked: Arc<Mutex<Vec<Request>>>,
    /// Dropping it ends silent connections.
    _end: mpsc::Sender<()>,
}

impl FakeHub {
    fn new(answer: impl Fn(usize, &Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (_end, ended) = mpsc::channel();
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let request = read(&connection);
                let mut log = log.lock().unwrap();
                let answered = answer(log.len(), &request);
                log.push(request.clone());
                drop(log);
                if answered.silent {
                    silent.push(connection);
                } else {
                    write(connection, &request, &answered);
                }
                if ended.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                    return;
                }
            }
        });
        Self {
            address,
            asked,
            _end,
        }
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    fn client(&self) -> Client {
        client(&self.address)
    }
}

fn client(address: &str) -> Client {
    let soon = Duration::from_millis(1);
    Client::new(
        address,
        Some("hf_secret".to_owned()),
        false,
        soon,
        Duration::from_millis(500),
    )
}

#[test]
fn errors_hide_the_password_in_the_hubs_address() {
    let address = unreachable_address().replace("://", "://user:pass-word@");
    let cache = tempfile::tempdir().unwrap();
    let error = refused("me/resnet", &cache, client(&address));
    assert!(!error.contains("pass-word"), "{error}");
    assert!(error.contains("127.0.0.1"), "{error}");
}

#[test]
fn peeking_reads_small_files_and_stores_nothing() {
    let hub = FakeHub::new(|_, asked| match asked.path.as_str() {
        "/a/b/resolve/main/config.json" => Reply {
            body: b"{}".to_vec(),
            ..status(200)
        },
        "/a/b/resolve/main/large.json" => Reply {
            body: vec![b' '; (4 << 20) + 1],
            ..status(200)
        },
        "/a/b/resolve/main/modules.json" => status(404),
        _ => status(503),
    });
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let look = Peek(Hub::new("a/b", cache, hub.client(), None));
    assert_eq!(look.read("modules.json").unwrap(), None);
    assert_eq!(look.read("config.json").unwrap().unwrap(), b"{}");
    for (file, reason) in [
        ("large.json", "larger than 4 MiB"),
        ("busy.json", "answers 503"),
    ] {
        let error = look.read(file).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(reason), "{error}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

fn read(connection: &TcpStream) -> Request {
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let mut asked = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..Request::default()
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            asked.range = range.trim_end_matches('-').parse().ok();
        }
        asked.token |= line.starts_with("authorization: bearer hf_secret");
    }
    asked
}

fn write(mut connection: TcpStream, asked: &Request, answered: &Reply) {
    let length = answered.body.len();
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", answered.status);
    let names_length = answered
        .headers
        .iter()
        .any(|(name, _)| *name == "content-length");
    if !names_length {
        head += &format!("content-length: {length}\r\n");
    }
    for (name, value) in &answered.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = match asked.method.as_str() {
        "HEAD" => &[][..],
        _ => &answered.body[..answered.cut.unwrap_or(length)],
    };
    // The client may have disconnected.
    let _ = connection.write_all(format!("{head}\r\n").as_bytes());
    let _ = connection.write_all(body);
}

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones");
    std::fs::read(path.join(name)).unwrap()
}

/// The files of a small ResNet.
fn content(file: &str) -> Option<Vec<u8>> {
    match file {
        "config.json" => Some(fixture("resnet.json")),
        "model.safetensors" => Some(fixture("resnet.safetensors")),
        _ => None,
    }
}

fn sha(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// The response of a working hub.
fn working_hub(asked: &Request) -> Reply {
    let mut parts = asked.path.splitn(6, '/').skip(1);
    let repo = [parts.next(), parts.next()]
        .map(Option::unwrap_or_default)
        .join("/");
    let revision = parts.nth(1).unwrap_or_default().to_owned();
    let file = parts.next().unwrap_or_default();
    let error = |code: &str| Reply {
        headers: vec![("x-error-code", code.to_owned())],
        ..status(404)
    };
    if repo != "me/resnet" {
        return error("RepoNotFound");
    }
    if !["main", "v1%2Fbest", COMMIT].contains(&revision.as_str()) {
        return error("RevisionNotFound");
    }
    let commit = ("x-repo-commit", COMMIT.to_owned());
    let Some(body) = content(file) else {
        let mut absent = error("EntryNotFound");
        absent.headers.push(commit);
        return absent;
    };
    let mut headers = vec![commit];
    // Small files have a git hash, large ones their SHA-256.
    match file {
        "config.json" => headers.push(("etag", "\"91a3\"".to_owned())),
        _ => {
            headers.push(("x-linked-etag", format!("\"{}\"", sha(&body))));
            headers.push(("x-linked-size", body.len().to_string()));
        }
    }
    let from = asked.range.unwrap_or(0) as usize;
    Reply {
        status: if from > 0 { 206 } else { 200 },
        headers,
        body: body[from..].to_vec(),
        ..Reply::default()
    }
}

/// No model in these tests is an adapter.
fn no_base(name: &str) -> Result<ModelFiles> {
    Err(Error::model(name, "these tests have no adapters"))
}

fn fetch(name: &str, cache: &tempfile::TempDir, client: Client) -> Result<ModelFiles> {
    gather_from(
        name,
        &HubRules::default(),
        Cache::at(cache.path()),
        client,
        &no_base,
    )
}

fn refused(name: &str, cache: &tempfile::TempDir, client: Client) -> String {
    fetch(name, cache, client)
        .map(drop)
        .unwrap_err()
        .to_string()
}

/// The address of a hub that does not exist.
fn unreachable_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn files_are_downloaded_once_and_then_found_offline() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::new(|_, asked| working_hub(asked));
    let files = fetch("me/resnet", &cache, hub.client()).unwrap();
    let expected = Origin {
        name: "me/resnet".to_owned(),
        revision: "main".to_owned(),
        commit: COMMIT.to_owned(),
    };
    assert_eq!(files.origins, std::slice::from_ref(&expected));
    let asked = hub.asked();
    assert!(asked[0].path.contains("/resolve/main/"), "{asked:?}");
    // The first response pins the commit for all others.
    let pinned = |asked: &Request| asked.path.contains(&format!("/resolve/{COMMIT}/"));
    assert!(asked[1..].iter().all(pinned), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.token));
    let again = fetch("me/resnet", &cache, client(&unreachable_address())).unwrap();
    assert_eq!(again.origins, [expected]);
    assert_eq!(again.tensors.len(), files.tensors.len());
    // The layout of the hub's own tools.
    let model = cache.path().join("models--me--resnet");
    let config = model.join("snapshots").join(COMMIT).join("config.json");
    assert_eq!(std::fs::read(config).unwrap(), fixture("resnet.json"));
    assert_eq!(
        std::fs::read_to_string(model.join("refs/main")).unwrap(),
        COMMIT
    );
    assert!(model.join("blobs/91a3").is_file());
}

#[test]
fn a_revision_can_be_pinned() {
    for revision in ["v1/best", COMMIT] {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::new(|_, asked| working_hub(asked));
        let name = format!("me/resnet@{revision}");
        let files = fetch(&name, &cache, hub.client()).unwrap();
        let origin = &files.origins[0];
        assert_eq!(
            (origin.revision.as_str(), origin.commit.as_str()),
            (revision, COMMIT)
        );
        assert_eq!(origin.name, "me/resnet");
        fetch(&name, &cache, client(&unreachable_address())).unwrap();
        // Another revision is not in the cache.
        let error = refused("me/resnet", &cache, client(&unreachable_address()));
        assert!(error.contains("can't be reached"), "{error}");
    }
    let (cache, hub) = (
        tempfile::tempdir().unwrap(),
        FakeHub::new(|_, asked| working_hub(asked)),
    );
    let error = refused("me/resnet@v9", &cache, hub.client());
    assert!(error.contains("no revision `v9`"), "{error}");
    let error = refused("me/other", &cache, hub.client());
    assert!(error.contains("no such model"), "{error}");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::new(|count, asked| match count % 4 {
        0 => status(503),
        1 => status(429),
        2 => Reply {
            silent: true,
            ..Reply::default()
        },
        _ => working_hub(asked),
    });
    fetch("me/resnet", &cache, hub.client()).unwrap();
}

#[test]
fn a_busy_hub_is_an_error_and_no_file_counts_as_absent() {
    for (busy, wanted) in [
        (status(429), "the hub answers 429 (after 5 attempts)"),
        (status(503), "the hub answers 503 (after 5 attempts)"),
        (
            Reply {
                silent: true,
                ..Reply::default()
            },
            "(after 5 attempts)",
        ),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let hub =
            FakeHub::new(
                move |_, asked| match asked.path.contains("processor_config.json") {
                    true => busy.clone(),
                    false => working_hub(asked),
                },
            );
        let error = refused("me/resnet", &cache, hub.client());
        assert!(
            error.contains(wanted) && error.contains("processor_config.json"),
            "{error}"
        );
        assert!(!error.contains("hf_secret"), "{error}");
    }
}

#[test]
fn a_denied_file_does_not_count_as_absent() {
    for (code, wanted) in [
        (401, "denies access to its"),
        (403, "(403)"),
        (418, "answers 418"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::new(
            move |_, asked| match asked.path.ends_with("model.safetensors") {
                true => status(code),
                false => working_hub(asked),
            },
        );
        let error = refused("me/resnet", &cache, hub.client());
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_broken_download_resumes_and_a_corrupt_one_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::new(|_, asked| {
        let mut answered = working_hub(asked);
        if asked.method == "GET" && asked.path.ends_with("model.safetensors") {
            answered.cut = Some(answered.body.len().div_ceil(3));
        }
        answered
    });
    fetch("me/resnet", &cache, hub.client()).unwrap();
    let ranges: Vec<_> = hub.asked().iter().filter_map(|asked| asked.range).collect();
    assert!(ranges.len() > 2 && ranges.is_sorted(), "{ranges:?}");

    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::new(|_, asked| {
        let mut answered = working_hub(asked);
        if asked.path.ends_with("model.safetensors")
            && let Some(last) = answered.body.last_mut()
        {
            *last ^= 1;
        }
        answered
    });
    let error = refused("me/resnet", &cache, hub.client());
    assert!(
        error.contains("the download is corrupt: its SHA-256 is"),
        "{error}"
    );
    let blob = sha(&content("model.safetensors").unwrap());
    assert!(
        !cache
            .path()
            .join("models--me--resnet/blobs")
            .join(blob)
            .exists()
    );
}

#[test]
fn the_total_download_size_is_limited() {
    let (config, weights) = (
        content("config.json").unwrap(),
        content("model.safetensors").unwrap(),
    );
    let whole = (config.len() + weights.len()) as u64;
    let with = |limit: u64| {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::new(|_, asked| working_hub(asked));
        let rules = HubRules {
            max_bytes: Some(limit),
            token: None,
        };
        gather_from(
            "me/resnet",
            &rules,
            Cache::at(cache.path()),
            hub.client(),
            &no_base,
        )
    };
    assert!(with(whole).is_ok());
    let error = with(whole - 1).map(drop).unwrap_err().to_string();
    assert!(error.contains("`--max-hub-download`"), "{error}");
}

#[test]
fn the_token_is_sent_only_to_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let store = FakeHub::new(|_, asked| working_hub(asked));
    // Another host name for the same machine.
    let other = store.address.replace("127.0.0.1", "localhost");
    let hub = FakeHub::new(move |_, asked| {
        let mut answered = working_hub(asked);
        if asked.path.ends_with("model.safetensors") && answered.status == 200 {
            answered.status = 302;
            answered.body.clear();
            answered
                .headers
                .push(("location", format!("{other}{}", asked.path)));
        }
        answered
    });
    fetch("me/resnet", &cache, hub.client()).unwrap();
    assert!(hub.asked().iter().all(|asked| asked.token));
    let moved = store.asked();
    assert!(
        !moved.is_empty() && moved.iter().all(|asked| !asked.token),
        "{moved:?}"
    );
}
