//! Tests against a fake API server that gives the answers which Kubernetes
//! documents.

mod manifests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, Secret},
};
use serde_json::{Value, json};

use super::{KubernetesSettings, client::Kubernetes, manifest, states};
use crate::launcher::{
    JobState, LaunchError, Launcher, Resources, WorkOrder, contract::NO_OUTCOME,
};

/// The token of the server's service account.
const ACCOUNT: &str = "account-t0ken";

/// The objects of the fake cluster, by kind and name.
#[derive(Default)]
struct Objects {
    secrets: BTreeMap<String, Value>,
    jobs: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    /// Answer to the next creation of a Job: the code, the message, and the invalid
    /// field.
    refusal: Option<(u16, &'static str, Option<&'static str>)>,
    /// Whether the Job is created despite that answer.
    is_created: bool,
    /// The options of each deletion.
    deletions: Vec<Value>,
}

type Shared = Arc<Mutex<Objects>>;
type Named = Path<(String, String)>;

fn locked(objects: &Shared) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap()
}

fn refuse(code: u16, message: &str) -> Response {
    refuse_field(code, message, None)
}

fn refuse_field(code: u16, message: &str, field: Option<&str>) -> Response {
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Because", "code": code,
    });
    if let Some(field) = field {
        let cause = json!({"reason": "FieldValueInvalid", "message": message, "field": field});
        body["details"] = json!({"causes": [cause]});
    }
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

fn add(objects: &mut BTreeMap<String, Value>, mut object: Value) -> Response {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    if objects.contains_key(&name) {
        return refuse(409, "it already exists");
    }
    object["metadata"]["uid"] = format!("uid-of-{name}").into();
    objects.insert(name, object.clone());
    (StatusCode::CREATED, Json(object)).into_response()
}

fn found(object: Option<&Value>) -> Response {
    match object {
        Some(object) => Json(object).into_response(),
        None => refuse(404, "not found"),
    }
}

fn list(
    kind: &str,
    objects: &BTreeMap<String, Value>,
    query: &HashMap<String, String>,
) -> Response {
    let (label, value) = query["labelSelector"].split_once('=').unwrap();
    let selected = objects.values();
    let selected = selected.filter(|object| object["metadata"]["labels"][label] == value);
    let items: Vec<&Value> = selected.collect();
    Json(json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items})).into_response()
}

/// Merges a JSON merge patch (RFC 7386).
fn merge(object: &mut Value, changes: &Value) {
    match changes.as_object() {
        Some(changes) => {
            for (name, change) in changes {
                merge(&mut object[name], change);
            }
        }
        None => *object = changes.clone(),
    }
}

async fn create_job(State(objects): State<Shared>, Json(job): Json<Value>) -> Response {
    let mut objects = locked(&objects);
    match objects.refusal.take() {
        Some((code, message, field)) => {
            if std::mem::take(&mut objects.is_created) {
                add(&mut objects.jobs, job);
            }
            refuse_field(code, message, field)
        }
        None => add(&mut objects.jobs, job),
    }
}

async fn delete_job(
    State(objects): State<Shared>,
    Path((_, name)): Named,
    Json(how): Json<Value>,
) -> Response {
    let mut objects = locked(&objects);
    objects.deletions.push(how);
    found(objects.jobs.remove(&name).as_ref())
}

async fn patch_secret(
    State(objects): State<Shared>,
    Path((_, name)): Named,
    Json(changes): Json<Value>,
) -> Response {
    let mut objects = locked(&objects);
    if let Some(secret) = objects.secrets.get_mut(&name) {
        merge(secret, &changes);
    }
    found(objects.secrets.get(&name))
}

fn routes(objects: &Shared) -> Router {
    let secrets = "/api/v1/namespaces/{namespace}/secrets";
    let jobs = "/apis/batch/v1/namespaces/{namespace}/jobs";
    let create_secret = async |State(objects): State<Shared>, Json(secret): Json<Value>| {
        add(&mut locked(&objects).secrets, secret)
    };
    let delete_secret = async |State(objects): State<Shared>, Path((_, name)): Named| {
        found(locked(&objects).secrets.remove(&name).as_ref())
    };
    let get_job = async |State(objects): State<Shared>, Path((_, name)): Named| {
        found(locked(&objects).jobs.get(&name))
    };
    let list_jobs = async |State(objects): State<Shared>, Query(query)| {
        list("JobList", &locked(&objects).jobs, &query)
    };
    let list_pods = async |State(objects): State<Shared>, Query(query)| {
        list("PodList", &locked(&objects).pods, &query)
    };
    let authorized = async |request: Request, next: Next| {
        let expected = format!("Bearer {ACCOUNT}");
        match request.headers().get("authorization") {
            Some(given) if given.as_bytes() == expected.as_bytes() => next.run(request).await,
            _ => refuse(401, "Unauthorized"),
        }
    };
    Router::new()
        .route(secrets, post(create_secret))
        .route(
            &format!("{secrets}/{{name}}"),
            patch(patch_secret).delete(delete_secret),
        )
        .route(jobs, post(create_job).get(list_jobs))
        .route(&format!("{jobs}/{{name}}"), delete(delete_job).get(get_job))
        .route("/api/v1/namespaces/{namespace}/pods", get(list_pods))
        .layer(middleware::from_fn(authorized))
        .with_state(Arc::clone(objects))
}

/// A fake cluster and its kubeconfig.
struct Cluster {
    objects: Shared,
    folder: tempfile::TempDir,
    url: String,
}

impl Cluster {
    async fn new() -> Self {
        let objects = Shared::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = routes(&objects);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let cluster = Self {
            objects,
            folder: tempfile::tempdir().unwrap(),
            url,
        };
        cluster.write_config(ACCOUNT);
        cluster
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        locked(&self.objects)
    }

    fn write_config(&self, token: &str) {
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
             clusters: [{{name: here, cluster: {{server: '{}'}}}}]\n\
             users: [{{name: me, user: {{token: {token}}}}}]\n\
             contexts: [{{name: here, context: {{cluster: here, user: me, namespace: ft}}}}]\n",
            self.url
        );
        std::fs::write(self.folder.path().join("config"), config).unwrap();
    }

    fn launcher(&self, prefix: &str) -> Kubernetes {
        let settings = KubernetesSettings {
            kubeconfig: Some(self.folder.path().join("config")),
            image: "registry.example/finetuner-server:1".to_owned(),
            ..KubernetesSettings::default()
        };
        Kubernetes::new(settings, prefix).unwrap()
    }
}

fn order(name: &str) -> WorkOrder {
    WorkOrder {
        name: name.to_owned(),
        url: "https://finetuner.example:8642".to_owned(),
        start_token: "ft_start_s3cret".to_owned(),
        folder: format!("finetuner-run-{name}-"),
        ca: None,
        resources: Resources::default(),
        labels: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_job_is_created_and_deleted_with_its_secret() {
    let cluster = Cluster::new().await;
    let launcher = cluster.launcher("ft-a1-");
    let (name, mut order) = ("ft-a1-7-1", order("ft-a1-7-1"));
    launcher.start(&order).await.unwrap();
    {
        let objects = cluster.objects();
        let secret = &objects.secrets[name];
        assert_eq!(secret["stringData"]["start-token"], "ft_start_s3cret");
        let owner = &secret["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "uid-of-ft-a1-7-1");
        // More people may read the Job than the Secret.
        assert!(!objects.jobs[name].to_string().contains("s3cret"));
    }
    // The answer to the first submission was lost. The second one has a new start
    // token.
    order.start_token = "ft_start_an0ther".to_owned();
    launcher.start(&order).await.unwrap();
    assert_eq!(
        cluster.objects().secrets[name]["stringData"]["start-token"],
        "ft_start_an0ther"
    );

    let no_pod = launcher.list().await.unwrap();
    assert!(matches!(&no_pod[name], JobState::Pending(why) if why.contains("no pod yet")));
    let pod = json!({
        "metadata": {"name": "p", "labels": cluster.objects().jobs[name]["metadata"]["labels"]},
        "status": {"phase": "Running"},
    });
    cluster.objects().pods.insert("p".to_owned(), pod);
    // A later process of this server finds it, and another server does not.
    let again = cluster.launcher("ft-a1-").list().await.unwrap();
    assert_eq!(again, HashMap::from([(name.to_owned(), JobState::Running)]));
    assert!(cluster.launcher("ft-a-").list().await.unwrap().is_empty());

    launcher.stop(name).await.unwrap();
    // The job is stopped, or never existed.
    launcher.stop(name).await.unwrap();
    let deletions = cluster.objects().deletions.clone();
    let policies = deletions.iter().map(|how| &how["propagationPolicy"]);
    assert!(policies.eq([&json!("Foreground"); 2]));
}

#[tokio::test]
async fn permanent_and_temporary_errors_are_distinguished() {
    let cluster = Cluster::new().await;
    let launcher = cluster.launcher("ft-a1-");
    for (code, message, field, is_final) in [
        (
            422,
            "Job is invalid: must be less than or equal to cpu limit",
            Some("spec.template.spec.containers[0].resources.requests"),
            true,
        ),
        // Errors in the operator's settings, and errors of unknown cause.
        (
            422,
            "Job is invalid: a lowercase RFC 1123 subdomain must consist of",
            Some("spec.template.spec.nodeSelector"),
            false,
        ),
        (
            422,
            "Job is invalid: must be greater than zero",
            Some("spec.template.spec.volumes[1].ephemeral.volumeClaimTemplate.spec.resources"),
            false,
        ),
        (422, "Job is invalid", None, false),
        (400, "Job in version \"v1\" cannot be handled", None, false),
        (403, "exceeded quota: gpus", None, false),
        (500, "etcdserver: request timed out", None, false),
    ] {
        cluster.objects().refusal = Some((code, message, field));
        let error = launcher.start(&order("ft-a1-7-1")).await.unwrap_err();
        let (refused, words) = match &error {
            LaunchError::Refused(words) => (true, words),
            LaunchError::Retry(words) => (false, words),
        };
        assert_eq!(refused, is_final, "{error:?}");
        assert!(words.contains(message), "{words}");
        let is_settings = words.contains("correct `launcher.kubernetes`");
        assert_eq!(
            is_settings,
            !is_final && matches!(code, 400 | 422),
            "{words}"
        );
        assert!(!words.contains("s3cret"), "{words}");
        // After an unclear answer, a Job that needs the secret may exist.
        let left = cluster.objects().secrets.contains_key("ft-a1-7-1");
        assert_eq!(left, code == 500);
    }
}

#[tokio::test]
async fn a_failed_job_creation_leaves_no_secret() {
    let cluster = Cluster::new().await;
    let launcher = cluster.launcher("ft-a1-");
    let lost = Some((500, "etcdserver: request timed out", None));
    cluster.objects().refusal = lost;
    launcher.start(&order("ft-a1-7-1")).await.unwrap_err();
    // The answer was lost, but the Job exists.
    cluster.objects().refusal = lost;
    cluster.objects().is_created = true;
    launcher.start(&order("ft-a1-7-2")).await.unwrap_err();
    assert_eq!(cluster.objects().secrets.len(), 2);
    launcher.list().await.unwrap();
    {
        let objects = cluster.objects();
        let names: Vec<&str> = objects.secrets.keys().map(String::as_str).collect();
        assert_eq!(names, ["ft-a1-7-2"]);
        let owner = &objects.secrets["ft-a1-7-2"]["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "uid-of-ft-a1-7-2", "deleted with its Job");
    }
    // A server that was killed in between is followed by one without knowledge of it.
    cluster.objects().refusal = lost;
    launcher.start(&order("ft-a1-7-3")).await.unwrap_err();
    cluster.launcher("ft-a1-").stop("ft-a1-7-3").await.unwrap();
    assert_eq!(cluster.objects().secrets.len(), 1);
}

#[tokio::test]
async fn rejected_credentials_are_read_again() {
    let cluster = Cluster::new().await;
    cluster.write_config("0ld");
    let launcher = cluster.launcher("ft-a1-");
    let error = launcher.list().await.unwrap_err();
    assert!(error.contains("(401)") && !error.contains("0ld"), "{error}");
    cluster.write_config(ACCOUNT);
    launcher.list().await.unwrap();
}

#[tokio::test]
async fn an_unreachable_cluster_is_a_retryable_error() {
    let mut cluster = Cluster::new().await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    cluster.url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    cluster.write_config(ACCOUNT);
    let launcher = cluster.launcher("ft-a1-");
    let error = launcher.list().await.unwrap_err();
    assert!(error.contains("Kubernetes can't be reached"), "{error}");
    assert!(!error.contains(ACCOUNT), "{error}");
    let error = launcher.start(&order("ft-a1-7-1")).await.unwrap_err();
    assert!(matches!(error, LaunchError::Retry(_)), "{error:?}");
}

/// The state of a Job with this status, and one pod with that one.
fn state(job: Value, pod: Option<Value>) -> JobState {
    let job: Job = serde_json::from_value(json!({"metadata": {}, "status": job})).unwrap();
    let pod = pod.map(|status| json!({"metadata": {}, "status": status}));
    let pod: Option<Pod> = pod.map(|pod| serde_json::from_value(pod).unwrap());
    states::state(&job, &pod.iter().collect::<Vec<_>>())
}

#[test]
fn waiting_jobs_have_a_reason() {
    let unschedulable = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }]});
    let no_image = json!({"phase": "Pending", "containerStatuses": [{
        "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {
            "reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\"",
        }},
    }]});
    for (status, words) in [
        (
            unschedulable,
            "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        ),
        (no_image, "ImagePullBackOff: Back-off pulling image \"x\""),
        (json!({"phase": "Pending"}), "its pod has no node yet"),
    ] {
        assert_eq!(
            state(json!({}), Some(status)),
            JobState::Pending(words.to_owned())
        );
    }
    assert_eq!(
        state(json!({}), Some(json!({"phase": "Unknown"}))),
        JobState::Running
    );
}

/// A pod whose container has ended.
fn ended(terminated: Value) -> Value {
    json!({"phase": "Failed", "containerStatuses": [{
        "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": terminated},
    }]})
}

#[test]
fn ended_jobs_have_a_cause() {
    let backoff = json!({"conditions": [{
        "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
        "message": "Job has reached the specified backoff limit",
    }]});
    let deadline = json!({"conditions": [{
        "type": "Failed", "status": "True", "reason": "DeadlineExceeded",
        "message": "Job was active longer than specified deadline",
    }]});
    let complete = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let evicted = json!({
        "phase": "Failed", "reason": "Evicted",
        "message": "The node was low on resource: ephemeral-storage.",
    });
    let preempted = json!({"phase": "Failed", "conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": "preempting to accommodate a higher priority pod",
    }]});
    let killed = ended(json!({"exitCode": 137, "reason": "OOMKilled"}));
    let by_signal = ended(json!({"exitCode": 137, "reason": "Error"}));
    let wrong = json!({
        "exitCode": 1, "reason": "Error", "message": "a line\nfinetuner-server: no way\n",
    });
    for (job, pod, words) in [
        (
            &backoff,
            Some(killed),
            "more memory than its limit (OOMKilled)",
        ),
        (
            &backoff,
            Some(evicted),
            "Evicted: The node was low on resource",
        ),
        (
            &backoff,
            Some(preempted),
            "PreemptionByScheduler: preempting",
        ),
        (&backoff, Some(by_signal), "exit code 137, signal 9"),
        (
            &json!({}),
            Some(ended(wrong)),
            "it ended with exit code 1: finetuner-server: no way",
        ),
        (&backoff, None, "BackoffLimitExceeded: Job has reached"),
        (
            &deadline,
            Some(ended(json!({"exitCode": 143, "reason": "Error"}))),
            "DeadlineExceeded: Job was active longer",
        ),
        (&complete, None, NO_OUTCOME),
        (&json!({}), Some(json!({"phase": "Succeeded"})), NO_OUTCOME),
    ] {
        match state(job.clone(), pod.clone()) {
            JobState::Ended(how) => assert!(how.contains(words), "{how}"),
            other => panic!("{other:?} of {pod:?}"),
        }
    }
}
