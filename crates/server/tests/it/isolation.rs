//! Restrictions of a worker's process: resources, user account, files, and
//! downloads from a model hub.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use finetuner::{Document, DocumentArray, Finetuner, Run, Status};

use crate::support::{Serving, fit, pairs, wait_for_step};

/// Returns the worker that is a child process of the server `server`.
fn worker_of(server: u32) -> Option<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        let parent = format!("PPid:\t{server}\n");
        read("status").is_ok_and(|status| status.contains(&parent))
            && read("cmdline").is_ok_and(|line| line.split('\0').any(|part| part == "worker"))
    })
}

async fn serve(
    data: &Path,
    options: &[&str],
    environment: &[(&str, &str)],
) -> (Serving, Finetuner) {
    let mut server = Serving::start_in(data, options, environment).await;
    let token = server.line_after("Token, shown this once: ").await;
    let finetuner = server.log_in(&token).await.unwrap();
    finetuner.push("train", pairs(16)).await.unwrap();
    (server, finetuner)
}

/// Starts a run that continues until it is cancelled. Also returns its worker.
async fn working(server: &Serving, finetuner: &Finetuner) -> (Run, u32) {
    let run = fit(finetuner, "run", 49).await.unwrap();
    wait_for_step(&run, 1).await;
    let worker = worker_of(server.process.id().unwrap()).unwrap();
    (run, worker)
}

#[tokio::test]
async fn the_operating_system_enforces_a_workers_limits() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--max-run-memory", "4096", "--max-run-disk", "900"];
    let (server, finetuner) = serve(&folder.path().join("data"), &options, &[]).await;
    let (run, worker) = working(&server, &finetuner).await;
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let mut numbers = line.unwrap().split_whitespace();
        let mut number = || numbers.next().unwrap().parse::<u64>().unwrap();
        (number(), number())
    };
    // One quarter is added for memory that is allocated but never used.
    let memory = (4096 + 1024) << 20;
    assert_eq!(limit("Max data size"), (memory, memory));
    assert_eq!(limit("Max file size"), (900 << 20, 900 << 20));
    assert_eq!(limit("Max core file size"), (0, 0));
    run.cancel().await.unwrap();
}

#[tokio::test]
async fn a_file_over_the_limit_fails_the_run_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--max-run-disk", "1"];
    let (_server, finetuner) = serve(&folder.path().join("data"), &options, &[]).await;
    let run = fit(&finetuner, "run", 1).await.unwrap();
    let error = run.wait().await.unwrap_err().to_string();
    assert!(
        error.contains("this server allows 1") || error.contains("File too large"),
        "{error}"
    );
    let status = run.status().await.unwrap();
    assert_eq!(status.status, Status::Failed);
    let log = run.logs().await.unwrap();
    assert!(!log.contains("The worker was lost"), "{log}");
}

#[tokio::test]
async fn workers_run_as_another_user_without_access_to_the_servers_files() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let folder = tempfile::tempdir().unwrap();
    if folder.path().metadata().unwrap().uid() != 0 {
        println!("skipped: only root can start processes of another user");
        return;
    }
    // The worker's user needs a way to its temporary folder.
    for (path, mode) in [("", 0o755), ("tmp", 0o1777), ("cache", 0o1777)] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (temporary, cache) = (at("tmp"), at("cache"));
    let environment = [("TMPDIR", temporary.as_str()), ("HF_HOME", cache.as_str())];
    let data = folder.path().join("data");
    let options = ["--worker-user", "65534"];
    let (server, finetuner) = serve(&data, &options, &environment).await;
    let (run, worker) = working(&server, &finetuner).await;
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for (field, id) in [("Uid:", "65534"), ("Gid:", "65534")] {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let ids: Vec<&str> = line.unwrap().split_whitespace().collect();
        assert_eq!(ids, [id; 4], "{field}");
    }
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    assert!(
        groups
            .unwrap()
            .split_whitespace()
            .all(|group| group == "65534")
    );
    let environ = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    assert!(
        environ
            .split(|byte| *byte == 0)
            .any(|line| line == b"HOME=/nonexistent")
    );
    let mode = data.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "only the server can read the data");
    // The worker owns its folder, which is removed in the end.
    let own = |found: std::io::Result<std::fs::DirEntry>| found.unwrap().metadata().unwrap().uid();
    let mut found = std::fs::read_dir(&temporary).unwrap();
    assert!(found.all(|found| own(found) == 65534));
    run.cancel().await.unwrap();
    while std::fs::read_dir(&temporary).unwrap().next().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The commit of all files in the model hub.
const COMMIT: &str = "0123456789abcdef";

/// Starts a model hub with one model of 5 MB. Also returns the list of its
/// requests.
async fn hub() -> (String, Arc<Mutex<Vec<String>>>) {
    async fn file(
        State(asked): State<Arc<Mutex<Vec<String>>>>,
        request: Request<axum::body::Body>,
    ) -> Response {
        let path = request.uri().path().to_owned();
        asked
            .lock()
            .unwrap()
            .push(format!("{} {path}", request.method()));
        let config = r#"{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 8,
            "max_position_embeddings": 8, "type_vocab_size": 1, "hidden_act": "gelu"}"#;
        let mut headers = HeaderMap::new();
        headers.insert("x-repo-commit", COMMIT.parse().unwrap());
        headers.insert(header::ETAG, format!("\"{}\"", path.len()).parse().unwrap());
        // The first answer pins the commit of the others.
        let file = path.replace(COMMIT, "main");
        let body = match file.as_str() {
            "/acme/big/resolve/main/config.json" => config.to_owned(),
            "/acme/big/resolve/main/tokenizer.json" => "{}".to_owned(),
            "/acme/big/resolve/main/model.safetensors" => "x".repeat(5_000_000),
            _ => return StatusCode::NOT_FOUND.into_response(),
        };
        (headers, body).into_response()
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let router = Router::new().fallback(file).with_state(Arc::clone(&asked));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked)
}

#[tokio::test]
async fn a_hub_model_over_the_limit_is_not_downloaded() {
    let folder = tempfile::tempdir().unwrap();
    let (address, asked) = hub().await;
    let cache = folder.path().join("cache").to_str().unwrap().to_owned();
    let environment = [
        ("HF_ENDPOINT", address.as_str()),
        ("HF_HOME", cache.as_str()),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let data = folder.path().join("data");
    let options = ["--max-hub-download", "1"];
    let (_server, finetuner) = serve(&data, &options, &environment).await;
    let texts = (0..8).map(|n| Document::text(format!("text {n}")).with_label(n / 2));
    let texts: DocumentArray = texts.collect();
    finetuner.push("texts", texts).await.unwrap();
    let fit = finetuner.fit("acme/big", "texts");
    let error = match fit.await {
        Err(error) => error,
        Ok(run) => run.wait().await.unwrap_err(),
    };
    let error = error.to_string();
    assert!(
        error.contains("model.safetensors has 4 MiB") && error.contains("--max-hub-download"),
        "{error}"
    );
    let asked = asked.lock().unwrap().clone();
    let of_weights = asked
        .iter()
        .filter(|path| path.ends_with("/model.safetensors"));
    let of_weights: Vec<&String> = of_weights.collect();
    assert!(!of_weights.is_empty(), "{asked:?}");
    assert!(
        of_weights.iter().all(|asked| asked.starts_with("HEAD ")),
        "{asked:?}"
    );
}
