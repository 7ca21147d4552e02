//! Server and worker processes that are killed or stopped.

use std::{path::Path, time::Duration};

use finetuner::{BestModelCheckpoint, EvaluationCallback, Finetuner, Run, Status, StatusInfo};

use crate::support::{Http, Serving, fit, losses, pairs, wait_for_step};

/// Returns the only worker of this data folder's server.
fn worker_of(data: &Path) -> u32 {
    let workers = workers_of(data);
    assert_eq!(workers.len(), 1, "{workers:?}");
    workers[0]
}

/// Returns all workers of this data folder's server, including those that an
/// earlier server started.
fn workers_of(data: &Path) -> Vec<u32> {
    let database = rusqlite::Connection::open(data.join("finetuner.sqlite")).unwrap();
    let port: [u8; 2] = database
        .query_row(
            "SELECT value FROM settings WHERE name = 'worker port'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let url = format!(
        "FINETUNER_WORKER_URL=http://127.0.0.1:{}",
        u16::from_be_bytes(port)
    );
    let is_worker = |pid: &u32| {
        let has = |file: &str, text: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let mut parts = bytes.split(|byte| *byte == 0);
            parts.any(|part| part == text.as_bytes())
        };
        has("cmdline", "worker") && has("environ", &url)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_worker).collect()
}

async fn kill(signal: &str, pid: impl std::fmt::Display) {
    let told = tokio::process::Command::new("kill")
        .args([signal, "--", &pid.to_string()])
        .status();
    assert!(told.await.unwrap().success());
}

/// Waits for the end of a process that is not a child.
async fn wait_for_end(pid: u32) {
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while is_there() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Submits a run whose checkpoint has all kinds of state.
async fn submit(finetuner: &Finetuner, name: &str) -> Run {
    let evaluation = EvaluationCallback::new("train");
    let best = BestModelCheckpoint::new().monitor("recall_at_k");
    let fit = fit(finetuner, name, 10).callback(evaluation).callback(best);
    fit.await.unwrap()
}

const OPTIONS: [&str; 4] = ["--checkpoint-every", "0", "--lease", "5"];

async fn serve(data: &Path, more: &[&str]) -> Serving {
    Serving::start(data, &[&OPTIONS, more].concat()).await
}

/// `kill -9` of the worker, then of the server during training, then of both:
/// the run finishes once, with the same losses as an undisturbed run.
#[tokio::test]
async fn a_run_survives_whatever_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let temporary = folder.path().join("tmp");
    std::fs::create_dir_all(temporary.join("finetuner-run-of-another")).unwrap();
    let environment = [("TMPDIR", temporary.to_str().unwrap())];
    let serve = async |data: &Path, more: &[&str]| {
        let options = [&OPTIONS, more].concat();
        Serving::start_in(data, &options, &environment).await
    };
    let mut server = serve(&data, &["--attempts", "9"]).await;
    let token = server.line_after("Token, shown this once: ").await;
    let finetuner = server.log_in(&token).await.unwrap();
    finetuner.push("train", pairs(16)).await.unwrap();
    let run = submit(&finetuner, "killed").await;

    wait_for_step(&run, 5).await;
    let worker = worker_of(&data);
    kill("-KILL", worker).await;
    wait_for_step(&run, 12).await;

    // The worker finds the next server, although its public address changed.
    let worker = worker_of(&data);
    server.process.kill().await.unwrap();
    server = serve(&data, &["--attempts", "9"]).await;
    let finetuner = server.log_in(&token).await.unwrap();
    let run = finetuner.get_run("killed").await.unwrap();
    wait_for_step(&run, 18).await;
    assert_eq!(worker_of(&data), worker);

    server.process.kill().await.unwrap();
    kill("-KILL", worker).await;
    let server = serve(&data, &["--attempts", "9"]).await;
    let finetuner = server.log_in(&token).await.unwrap();
    let run = finetuner.get_run("killed").await.unwrap();
    let StatusInfo { status, .. } = run.wait().await.unwrap();
    assert_eq!(status, Status::Finished);
    let whole = submit(&finetuner, "whole").await;
    whole.wait().await.unwrap();
    assert_eq!(losses(&run).await, losses(&whole).await);
    assert_eq!(run.metrics().await.unwrap(), whole.metrics().await.unwrap());
    let log = run.logs().await.unwrap();
    assert!(log.contains("The worker was lost"), "{log}");
    assert_eq!(log.matches("Finished").count(), 1, "{log}");
    // The server removes the folders of killed workers, and nothing else.
    let left = || {
        let found = std::fs::read_dir(&temporary).unwrap();
        let names = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let removed = async {
        while left().len() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(60), removed).await;
    assert_eq!(left(), ["finetuner-run-of-another"]);
    let http = Http::new(&server.url, Some(&token));
    let counted = http
        .get("/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        counted.contains("finetuner_runs{status=\"FINISHED\"} 2"),
        "{counted}"
    );
}

/// A server with a run that has finished some steps.
struct Training {
    folder: tempfile::TempDir,
    server: Serving,
    token: String,
    run: Run,
}

impl Training {
    async fn begin(options: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let options = [&OPTIONS, options].concat();
        let mut server = Serving::start_in(&data, &options, environment).await;
        let token = server.line_after("Token, shown this once: ").await;
        let finetuner = server.log_in(&token).await.unwrap();
        finetuner.push("train", pairs(16)).await.unwrap();
        let run = fit(&finetuner, "run", 12).await.unwrap();
        wait_for_step(&run, 3).await;
        Self {
            folder,
            server,
            token,
            run,
        }
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// Starts a server on the same data again, and finds the run.
    async fn restart(&mut self, options: &[&str]) {
        self.server = serve(&self.data(), options).await;
        let finetuner = self.server.log_in(&self.token).await.unwrap();
        self.run = finetuner.get_run("run").await.unwrap();
    }

    /// Waits for the run's success. Returns its log.
    async fn log_after_success(&self) -> String {
        self.run.wait().await.unwrap();
        let steps: Vec<_> = losses(&self.run).await;
        assert_eq!(steps.len(), 12 * 4, "each step once");
        self.run.logs().await.unwrap()
    }
}

impl Drop for Training {
    /// A worker outlives its server, even if the test failed, so it is killed here.
    fn drop(&mut self) {
        if std::thread::panicking() && !self.data().join("finetuner.sqlite").exists() {
            return;
        }
        for pid in workers_of(&self.data()) {
            let _ = std::process::Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
    }
}

/// Ctrl-C signals all processes of the terminal's group.
#[tokio::test]
async fn ctrl_c_pauses_runs_and_does_not_count_as_an_attempt() {
    let mut training = Training::begin(&[], &[]).await;
    let worker = worker_of(&training.data());
    let group = training.server.process.id().unwrap();
    kill("-INT", format!("-{group}")).await;
    assert!(training.server.process.wait().await.unwrap().success());
    wait_for_end(worker).await;
    training.restart(&["--attempts", "1"]).await;
    let log = training.log_after_success().await;
    assert!(log.contains("The run has paused"), "{log}");
    assert!(!log.contains("lost") && !log.contains("attempt"), "{log}");
}

/// `systemctl stop` sends SIGTERM to every process of the service.
#[tokio::test]
async fn a_worker_that_gets_sigterm_pauses_and_does_not_count_as_an_attempt() {
    let training = Training::begin(&["--attempts", "1"], &[]).await;
    let worker = worker_of(&training.data());
    kill("-TERM", worker).await;
    wait_for_end(worker).await;
    let log = training.log_after_success().await;
    assert!(log.contains("The run has paused"), "{log}");
    assert!(log.contains("Resuming from a checkpoint"), "{log}");
    assert!(!log.contains("lost"), "{log}");
}

#[tokio::test]
async fn a_worker_of_a_previous_server_pauses_with_the_next_one() {
    let mut training = Training::begin(&[], &[]).await;
    let worker = worker_of(&training.data());
    training.server.process.kill().await.unwrap();
    training.restart(&[]).await;
    wait_for_step(&training.run, 8).await;
    assert_eq!(worker_of(&training.data()), worker, "it continues");
    kill("-TERM", training.server.process.id().unwrap()).await;
    assert!(training.server.process.wait().await.unwrap().success());
    wait_for_end(worker).await;
    training.restart(&["--attempts", "1"]).await;
    let log = training.log_after_success().await;
    assert!(log.contains("The run has paused"), "{log}");
    assert!(!log.contains("lost"), "{log}");
}

#[tokio::test]
async fn a_hanging_worker_of_a_previous_server_is_killed_at_the_stop() {
    let mut training = Training::begin(&[], &[]).await;
    let worker = worker_of(&training.data());
    training.server.process.kill().await.unwrap();
    kill("-STOP", worker).await;
    training.restart(&["--grace", "1"]).await;
    kill("-TERM", training.server.process.id().unwrap()).await;
    assert!(training.server.process.wait().await.unwrap().success());
    wait_for_end(worker).await;
    training.restart(&["--attempts", "1"]).await;
    let log = training.log_after_success().await;
    assert!(log.contains("stopped before the run had paused"), "{log}");
    assert!(!log.contains("lost"), "{log}");
}

#[tokio::test]
async fn workers_find_a_restarted_server_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| {
        let path = folder.path().join(name);
        path.to_str().unwrap().to_owned()
    });
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let mut training = Training::begin(&[], &[]).await;
    let worker = worker_of(&training.data());
    for options in [&tls[..], &[], &tls[..]] {
        training.server.process.kill().await.unwrap();
        training.server = serve(&training.data(), options).await;
        assert_eq!(
            training.server.url.starts_with("https:"),
            !options.is_empty()
        );
    }
    training.server.process.kill().await.unwrap();
    training.restart(&["--attempts", "1"]).await;
    wait_for_step(&training.run, 10).await;
    assert_eq!(
        worker_of(&training.data()),
        worker,
        "the same worker continues"
    );
    let log = training.log_after_success().await;
    assert!(!log.contains("lost"), "{log}");
}

/// The server is behind a reverse proxy, and the environment names a proxy.
#[tokio::test]
async fn workers_ignore_proxies_and_get_no_secrets() {
    let environment = [
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("http_proxy", "http://127.0.0.1:1"),
        ("AWS_SECRET_ACCESS_KEY", "store-secret"),
        ("HF_TOKEN", "hub-secret"),
    ];
    let training = Training::begin(&[], &environment).await;
    let worker = worker_of(&training.data());
    let known = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    let known = String::from_utf8_lossy(&known);
    assert!(
        known.contains("PATH=") && !known.contains("secret"),
        "{known}"
    );
    let log = training.log_after_success().await;
    assert!(!log.contains("lost"), "{log}");
}

#[tokio::test]
async fn a_deleted_run_leaves_no_worker_and_no_file() {
    let temporary = tempfile::tempdir().unwrap();
    let environment = [("TMPDIR", temporary.path().to_str().unwrap())];
    let training = Training::begin(&[], &environment).await;
    let worker = worker_of(&training.data());
    let files = || std::fs::read_dir(temporary.path()).unwrap().count();
    assert!(files() > 0);
    let mut lines = training.run.stream_logs();
    training.run.clone().delete().await.unwrap();
    while lines.next().await.is_some_and(|line| line.is_ok()) {}
    wait_for_end(worker).await;
    assert_eq!(files(), 0);
    let finetuner = training.server.log_in(&training.token).await.unwrap();
    let again = fit(&finetuner, "run", 1).await.unwrap();
    assert_eq!(again.wait().await.unwrap().status, Status::Finished);
}
