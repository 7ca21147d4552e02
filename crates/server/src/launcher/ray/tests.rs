//! Tests against a fake dashboard. Its answers were recorded from a real one by
//! `scripts/check_ray.py --record`.

use std::{
    io::Read,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use serde_json::Value;

use super::*;
use crate::launcher::{
    Resources,
    example::{self, JOB},
};

const TOKEN: &str = "ft_secret";

/// A request that the fake dashboard received.
#[derive(Clone, Debug)]
struct Asked {
    what: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

/// Answers by method and path. Anything else gets 404, as Ray answers for
/// unknown jobs.
#[derive(Clone, Default)]
struct FakeDashboard {
    answers: Arc<Mutex<HashMap<String, (StatusCode, String)>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeDashboard {
    /// Answers with the recorded answer `name` from now on.
    fn gives(&self, what: &str, name: &str) {
        let recorded: Value = serde_json::from_str(include_str!("recorded.json")).unwrap();
        let answer = &recorded[name];
        let status = answer["status"].as_u64().unwrap().try_into().unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let body = answer["body"].as_str().unwrap().to_owned();
        let mut answers = self.answers.lock().unwrap();
        answers.insert(what.to_owned(), (status, body));
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|asked| asked.what.clone()).collect()
    }

    fn sent(&self, what: &str) -> Asked {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .find(|asked| asked.what == what)
            .unwrap()
            .clone()
    }
}

async fn answer(
    State(fake_dashboard): State<FakeDashboard>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let what = format!("{method} {}", uri.path());
    let authorization = headers.get("authorization");
    let asked = Asked {
        what: what.clone(),
        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
        body: body.to_vec(),
    };
    fake_dashboard.asked.lock().unwrap().push(asked);
    let answers = fake_dashboard.answers.lock().unwrap();
    let unknown = (StatusCode::NOT_FOUND, "Job does not exist".to_owned());
    answers.get(&what).cloned().unwrap_or(unknown)
}

async fn fake_dashboard() -> (FakeDashboard, RaySettings) {
    let fake_dashboard = FakeDashboard::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(answer)
        .with_state(fake_dashboard.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let settings = RaySettings {
        address,
        ..RaySettings::default()
    };
    (fake_dashboard, settings)
}

fn ray(settings: &RaySettings) -> Ray {
    Ray::new(settings, &example::home()).unwrap()
}

fn order() -> WorkOrder {
    example::order(TOKEN, "it's a run")
}

const KNOWS: &str = "GET /api/jobs/ft-0123abcd-1-1";
const PACKAGE: &str = "PUT /api/packages/gcs/ft-0123abcd-1-1.zip";
const SUBMIT: &str = "POST /api/jobs/";

#[tokio::test]
async fn the_token_is_only_in_the_package() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives(PACKAGE, "package");
    dashboard.gives(SUBMIT, "submitted");
    let settings = RaySettings {
        program: "/opt/it's/finetuner-server".to_owned(),
        environment: vec!["HF_HOME=/shared/hf".to_owned()],
        cache: Some("/scratch/cache".to_owned()),
        ..settings
    };
    ray(&settings).start(&order()).await.unwrap();
    assert_eq!(dashboard.asked(), [KNOWS, PACKAGE, SUBMIT]);

    let package = dashboard.sent(PACKAGE).body;
    let mut package = zip::ZipArchive::new(std::io::Cursor::new(package)).unwrap();
    let mut read = |name: &str| {
        let mut file = package.by_name(name).unwrap();
        assert_eq!(file.unix_mode().unwrap() & 0o777, 0o600);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(read("start"), TOKEN);
    assert!(read("ca.pem").contains("CERTIFICATE"));

    let submission = dashboard.sent(SUBMIT).body;
    assert!(!String::from_utf8_lossy(&submission).contains(TOKEN));
    let submission: Value = serde_json::from_slice(&submission).unwrap();
    let expected = json!({
        "submission_id": JOB,
        "entrypoint": r"exec '/opt/it'\''s/finetuner-server' worker ft-0123abcd-1-1",
        "entrypoint_num_cpus": 2,
        "entrypoint_num_gpus": 1,
        "entrypoint_memory": 3_221_225_472_u64,
        "metadata": {"run": "it's a run"},
        "runtime_env": {
            "working_dir": "gcs://ft-0123abcd-1-1.zip",
            "env_vars": {
                "MIMALLOC_PURGE_DELAY": "-1",
                "RAYON_NUM_THREADS": "2",
                "HF_HOME": "/shared/hf",
                "FINETUNER_WORKER_URL": "https://head-node:8642",
                "FINETUNER_WORKER_FOLDER": "finetuner-run-1-1-",
                "FINETUNER_WORKER_CACHE": "/scratch/cache",
                "RAY_JOB_STOP_WAIT_TIME_S": "60",
                "FINETUNER_WORKER_START": "start",
                "FINETUNER_WORKER_CA": "ca.pem",
            },
        },
    });
    assert_eq!(submission, expected);
}

#[tokio::test]
async fn a_job_without_a_core_count_gets_one_core_and_one_thread() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives(PACKAGE, "package");
    dashboard.gives(SUBMIT, "submitted");
    let mut order = order();
    order.resources = Resources::default();
    ray(&settings).start(&order).await.unwrap();
    let submission = dashboard.sent(SUBMIT).body;
    let submission: Value = serde_json::from_slice(&submission).unwrap();
    assert_eq!(submission["entrypoint_num_cpus"], 1);
    let variables = &submission["runtime_env"]["env_vars"];
    assert_eq!(variables["RAYON_NUM_THREADS"], "1");
}

#[tokio::test]
async fn an_existing_job_counts_as_started() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives(KNOWS, "known");
    ray(&settings).start(&order()).await.unwrap();
    assert_eq!(dashboard.asked(), [KNOWS]);
}

#[tokio::test]
async fn a_refusal_of_ray_is_reported_by_the_last_line_of_its_traceback() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives(PACKAGE, "package");
    dashboard.gives(SUBMIT, "wrong field");
    let error = ray(&settings).start(&order()).await.unwrap_err();
    let LaunchError::Refused(reason) = error else {
        panic!("{error:?}");
    };
    assert!(
        reason.starts_with("Ray answered 400 Bad Request: TypeError: "),
        "{reason}"
    );
    // Any other failure may be temporary. The launcher then checks whether the job
    // exists.
    dashboard.gives(SUBMIT, "submitted again");
    let error = ray(&settings).start(&order()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Retry(_)), "{error:?}");
    let asked = dashboard.asked();
    assert_eq!(
        asked.last().unwrap(),
        KNOWS,
        "it is looked for after a failure"
    );
}

#[tokio::test]
async fn every_state_of_ray_maps_to_a_job_state() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives("GET /api/jobs/", "list");
    let launcher = ray(&RaySettings {
        keep_ended_seconds: u64::MAX,
        ..settings.clone()
    });
    let jobs = launcher.list().await.unwrap();
    assert_eq!(jobs.len(), 7);
    let state = |n: u32| jobs[&format!("ft-0123abcd-{n}-1")].clone();
    let ended = |n: u32| match state(n) {
        JobState::Ended(how) => how,
        other => panic!("{other:?}"),
    };
    assert_eq!(state(1), JobState::Running);
    assert_eq!(ended(2), "Ray stopped its job");
    assert_eq!(ended(3), NO_OUTCOME);
    let how = ended(4);
    assert!(
        how.starts_with("its Ray job failed: exit code 127: "),
        "{how}"
    );
    assert!(how.ends_with("finetuner-server: not found"), "{how}");
    assert!(
        ended(7).contains("runtime_env setup failed"),
        "{}",
        ended(7)
    );
    assert_eq!(state(5), JobState::Running);
    let JobState::Pending(why) = state(6) else {
        panic!("{:?}", state(6));
    };
    assert_eq!(
        why,
        "job ft-0123abcd-6-1: waiting for resources (CPUs, GPUs, memory, custom resources) to \
         become available"
    );
    dashboard.gives("GET /api/jobs/", "list without a node");
    let JobState::Ended(how) = launcher.list().await.unwrap().remove(JOB).unwrap() else {
        panic!("its node is gone");
    };
    assert!(how.contains("Job supervisor actor died"), "{how}");
    // The launcher of another server ignores these jobs.
    let home = Home {
        prefix: "ft-4567cdef-".to_owned(),
        ..example::home()
    };
    let other = Ray::new(&settings, &home).unwrap();
    assert!(other.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_waiting_job_ends_when_it_is_stopped() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives("GET /api/jobs/", "list");
    for n in [1, 6] {
        dashboard.gives(&format!("POST /api/jobs/ft-0123abcd-{n}-1/stop"), "stopped");
    }
    let launcher = ray(&settings);
    for n in [1, 6, 99] {
        launcher.stop(&format!("ft-0123abcd-{n}-1")).await.unwrap();
    }
    let jobs = launcher.list().await.unwrap();
    // The running job still writes its checkpoint.
    assert_eq!(jobs["ft-0123abcd-1-1"], JobState::Running);
    let state = &jobs["ft-0123abcd-6-1"];
    assert!(matches!(state, JobState::Ended(_)), "{state:?}");
}

#[tokio::test]
async fn jobs_that_ended_long_ago_are_deleted() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives("GET /api/jobs/", "list");
    // The recorded jobs ended longer ago than that.
    let launcher = ray(&RaySettings {
        keep_ended_seconds: 0,
        ..settings
    });
    launcher.list().await.unwrap();
    let asked = dashboard.asked();
    let mut deleted: Vec<_> = asked
        .iter()
        .filter(|asked| asked.starts_with("DELETE "))
        .collect();
    deleted.sort();
    let expected = [2, 3, 4, 7].map(|n| format!("DELETE /api/jobs/ft-0123abcd-{n}-1"));
    assert_eq!(deleted, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_clusters_token_is_read_at_each_call_and_never_printed() {
    let (dashboard, settings) = fake_dashboard().await;
    dashboard.gives("GET /api/jobs/", "no token");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let launcher = ray(&RaySettings {
        token_file: Some(file.clone()),
        ..settings
    });
    let error = launcher.list().await.unwrap_err();
    assert!(error.starts_with("launcher.ray.token_file: "), "{error}");
    std::fs::write(&file, "old\n").unwrap();
    let error = launcher.list().await.unwrap_err();
    assert!(
        error.contains("403 Forbidden") && error.contains("token_file"),
        "{error}"
    );
    assert!(!error.contains("old"), "{error}");
    std::fs::write(&file, "new\n").unwrap();
    dashboard.gives("GET /api/jobs/", "list");
    launcher.list().await.unwrap();
    let asked = dashboard.asked.lock().unwrap();
    let tokens = asked.iter().filter(|asked| asked.what == "GET /api/jobs/");
    let tokens: Vec<_> = tokens.map(|asked| asked.authorization.as_deref()).collect();
    assert_eq!(tokens, [Some("Bearer old"), Some("Bearer new")]);
}

#[tokio::test]
async fn an_unreachable_dashboard_is_an_error() {
    let (_, settings) = fake_dashboard().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let launcher = ray(&RaySettings {
        address,
        ..settings
    });
    let error = launcher.list().await.unwrap_err();
    assert!(
        error.starts_with("Ray's dashboard at http://127.0.0.1:"),
        "{error}"
    );
    let error = launcher.start(&order()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Retry(_)), "{error:?}");
    launcher.stop(JOB).await.unwrap_err();
}

#[test]
fn unusable_settings_are_refused_by_name() {
    let check = |change: fn(&mut RaySettings)| {
        let mut settings = RaySettings::default();
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    };
    for (error, key) in [
        (check(|s| s.address = "ray-head".to_owned()), "address"),
        (
            check(|s| s.address = "ftp://ray-head".to_owned()),
            "address",
        ),
        (check(|s| s.program = "-x".to_owned()), "program"),
    ] {
        assert!(
            error.starts_with(&format!("`launcher.ray.{key}`: ")),
            "{error}"
        );
    }
    let error = check(|s| s.address = "http://ada:secret@ray-head".to_owned());
    assert!(!error.contains("secret"), "{error}");
    RaySettings::default().check().unwrap();
}
