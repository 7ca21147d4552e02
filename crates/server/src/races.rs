//! Tests of races between submission, upload and deletion. A store that stalls
//! at the right moment forces each interleaving.

use std::{future::IntoFuture, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use finetuner_protocol::{Document, DocumentArray};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::ServiceExt;

use crate::{
    app::App,
    database::{CheckpointRow, Identity, NewArtifact, RunRow, Scope, Which},
    routes,
    settings::Settings,
    store::faults::{Call, Fault, Faulty},
};

/// A server without connections, with a store that injects faults.
struct Backend {
    app: Arc<App>,
    faulty: Faulty,
    router: Router,
    token: String,
    user: Identity,
}

/// The smallest image.
const PIXEL: &[u8] = include_bytes!("pixel.png");

impl Backend {
    async fn new(settings: Settings) -> Self {
        let (store, faulty) = Faulty::in_memory();
        let app = App::in_memory(store, settings);
        let made = app
            .database
            .create_token("ada".into(), "t".into(), Scope::All);
        let token = made.await.unwrap();
        let user = app.database.identity_of("ada").await;
        tokio::spawn(Arc::clone(&app).remove_suspects());
        Self {
            router: routes::router(Arc::clone(&app)),
            app,
            faulty,
            token,
            user,
        }
    }

    fn request(&self, method: &str, path: &str, body: Value) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("token {}", self.token))
            .header("content-type", "application/json")
            .header("host", "localhost")
            .body(Body::from(body.to_string()))
            .unwrap()
    }

    /// Sends a request without waiting for its answer.
    fn begin(&self, method: &str, path: &str, body: Value) -> JoinHandle<(StatusCode, Value)> {
        let request = self.request(method, path, body);
        let router = self.router.clone();
        tokio::spawn(async move {
            let answer = router.oneshot(request).await.unwrap();
            let status = answer.status();
            let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
            let body = serde_json::from_slice(&bytes.unwrap()).unwrap_or_default();
            (status, body)
        })
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.begin(method, path, body).into_future().await.unwrap()
    }

    /// Stores a content and names it. Returns the content.
    async fn put(&self, name: &str, bytes: Vec<u8>) -> String {
        let mut upload = self.app.store.upload();
        upload.write(bytes.into()).await.unwrap();
        let entered = self.app.keep(upload, async |stored| {
            let new = NewArtifact {
                id: crate::secret::new_id(),
                project_id: self.user.namespace.clone(),
                created_by: Some(self.user.person.clone()),
                name: Some(name.to_owned()),
                kind: "documentArray".to_owned(),
                public: false,
                meta_data: String::new(),
                content: stored.content.clone(),
                size: stored.size,
            };
            let (_, orphans) = self.app.put_artifact(self.user.clone(), new).await?;
            Ok((stored.content.clone(), orphans))
        });
        entered.await.unwrap()
    }

    /// Stores a checkpoint for the run's worker. Returns its content.
    async fn checkpoint(&self, run: &RunRow, step: u64, token: &[u8]) -> String {
        let mut upload = self.app.store.upload();
        let bytes = format!("checkpoint {step}");
        upload.write(bytes.into()).await.unwrap();
        let kept = self.app.keep(upload, async |stored| {
            let row = CheckpointRow {
                step,
                content: stored.content.clone(),
                size: stored.size,
                ..CheckpointRow::default()
            };
            let added = self
                .app
                .database
                .add_checkpoint(run.id, token.to_vec(), row);
            Ok((stored.content.clone(), added.await?.unwrap()))
        });
        kept.await.unwrap()
    }

    async fn run(&self, name: &str) -> RunRow {
        let experiment = self
            .app
            .database
            .experiment(self.user.namespace.clone(), "e".into());
        let id = experiment.await.unwrap().unwrap().id;
        self.app
            .database
            .run(id, name.into())
            .await
            .unwrap()
            .unwrap()
    }

    async fn has(&self, content: &str) -> bool {
        self.app.store.size(content).await.is_ok()
    }

    /// Waits until a content is removed.
    async fn removed(&self, content: &str) {
        while self.has(content).await {
            tokio::task::yield_now().await;
        }
    }
}

fn pairs(count: usize) -> Vec<u8> {
    let pair = |n: usize| {
        Document::new()
            .with_chunk(Document::blob(PIXEL.to_vec()).with_modality("image"))
            .with_chunk(Document::text(format!("text {n}")).with_modality("text"))
    };
    let all: Vec<Document> = (0..count).map(pair).collect();
    DocumentArray::from(all).to_bytes().unwrap()
}

fn submission(name: &str) -> Value {
    json!({
        "name": name,
        "task": "training",
        "device": "cpu",
        "config": {
            "model": {"name": "clip-small"},
            "data": {"train_data": "train"},
            "hyper_parameters": {"loss": "CLIPLoss", "epochs": 1},
            "run_name": name,
            "experiment_name": "e",
        },
    })
}

const RUNS: &str = "/api/v1/experiments/e/runs";

/// Returns a backend with data, an experiment, and a submission whose check is
/// stalled.
async fn submitting() -> (
    Backend,
    String,
    Arc<Semaphore>,
    JoinHandle<(StatusCode, Value)>,
) {
    let backend = Backend::new(Settings::default()).await;
    let content = backend.put("train", pairs(4)).await;
    let made = backend
        .send("POST", "/api/v1/experiments", json!({"name": "e"}))
        .await;
    assert_eq!(made.0, StatusCode::CREATED, "{}", made.1);
    let gate = Arc::new(Semaphore::new(0));
    // The check reads the size first and then the documents.
    backend
        .faulty
        .next(Call::Get, Fault::Stall(Arc::clone(&gate)));
    let answer = backend.begin("POST", RUNS, submission("r"));
    backend.faulty.met().await;
    (backend, content, gate, answer)
}

#[tokio::test]
async fn data_deleted_during_submission_is_kept_for_the_run() {
    let (backend, content, gate, answer) = submitting().await;
    let gone = backend
        .app
        .delete_artifact(backend.user.clone(), Which::Name("train".into()));
    assert!(gone.await.unwrap());
    gate.add_permits(1);
    let (status, body) = answer.await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert!(backend.has(&content).await, "the run's data was removed");
    let run = backend.run("r").await;
    assert!(run.data.contains(&content), "{}", run.data);
    backend
        .app
        .delete_run(backend.user.clone(), run.id)
        .await
        .unwrap();
    backend.removed(&content).await;
}

#[tokio::test]
async fn a_run_uses_the_data_that_was_checked_even_if_it_is_replaced() {
    let (backend, content, gate, answer) = submitting().await;
    let other = backend.put("train", pairs(5)).await;
    gate.add_permits(1);
    let (status, body) = answer.await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let run = backend.run("r").await;
    assert!(run.data.contains(&content) && !run.data.contains(&other));
    assert!(backend.has(&content).await && backend.has(&other).await);
}

#[tokio::test]
async fn data_held_by_an_abandoned_submission_is_removed() {
    let (backend, content, gate, answer) = submitting().await;
    let gone = backend
        .app
        .delete_artifact(backend.user.clone(), Which::Name("train".into()));
    assert!(gone.await.unwrap());
    // The client disconnects.
    answer.abort();
    gate.add_permits(1);
    backend.removed(&content).await;
}

#[tokio::test]
async fn a_run_continues_from_a_checkpoint_that_is_replaced_meanwhile() {
    let backend = Backend::new(Settings::default()).await;
    backend.put("train", pairs(4)).await;
    let made = backend
        .send("POST", "/api/v1/experiments", json!({"name": "e"}))
        .await;
    assert_eq!(made.0, StatusCode::CREATED, "{}", made.1);
    let (status, body) = backend.send("POST", RUNS, submission("r")).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let run = backend.run("r").await;
    backend
        .app
        .database
        .give_worker(run.id, b"worker".to_vec())
        .await
        .unwrap();
    let first = backend.checkpoint(&run, 1, b"worker").await;

    let gate = Arc::new(Semaphore::new(0));
    backend
        .faulty
        .next(Call::Get, Fault::Stall(Arc::clone(&gate)));
    let path = format!("{RUNS}/r/checkpoints/1/runs");
    let mut answer = backend.begin("POST", &path, json!({"name": "longer", "epochs": 2}));
    tokio::select! {
        () = backend.faulty.met() => {}
        early = &mut answer => panic!("{early:?}"),
    }
    let second = backend.checkpoint(&run, 2, b"worker").await;
    gate.add_permits(1);
    let (status, body) = answer.await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert!(backend.has(&first).await, "the run's beginning was removed");
    assert!(backend.has(&second).await);
    backend
        .app
        .delete_run(backend.user.clone(), backend.run("longer").await.id)
        .await
        .unwrap();
    backend.removed(&first).await;
}

/// Followers of an idle run still receive signs of life.
#[tokio::test]
async fn a_log_stream_without_lines_sends_keep_alives() {
    let backend = Backend::new(Settings::default()).await;
    backend.put("train", pairs(4)).await;
    backend
        .send("POST", "/api/v1/experiments", json!({"name": "e"}))
        .await;
    let (status, body) = backend.send("POST", RUNS, submission("r")).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let request = backend.request("GET", &format!("{RUNS}/r/logstream"), Value::Null);
    let answer = backend.router.clone().oneshot(request).await.unwrap();
    let mut lines = answer.into_body().into_data_stream();
    // The first poll loads the run and then its lines, and finds none.
    for _ in 0..3 {
        assert!(lines.next().now_or_never().is_none());
        backend.app.database.has_no_users().await.unwrap();
    }
    tokio::time::pause();
    for _ in 0..2 {
        let sign = lines.next().await.unwrap().unwrap();
        assert_eq!(&sign[..], b":\n\n", "a comment, which clients skip");
    }
    tokio::time::resume();
    drop(lines);
    assert_eq!(backend.app.changes.followed(), 0);
}

/// A clean end would mean that the log is complete.
#[tokio::test]
async fn a_log_stream_breaks_off_if_the_database_fails() {
    let backend = Backend::new(Settings::default()).await;
    backend.put("train", pairs(4)).await;
    backend
        .send("POST", "/api/v1/experiments", json!({"name": "e"}))
        .await;
    let (status, body) = backend.send("POST", RUNS, submission("r")).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let request = backend.request("GET", &format!("{RUNS}/r/logstream"), Value::Null);
    let answer = backend.router.clone().oneshot(request).await.unwrap();
    backend.app.database.disturb("DROP TABLE events").await;
    let read = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn an_upload_keeps_content_that_is_deleted_at_the_same_time() {
    let backend = Backend::new(Settings::default()).await;
    let content = backend.put("one", b"same".to_vec()).await;
    let gate = Arc::new(Semaphore::new(0));
    // Stalls when the content is about to be moved to its place.
    backend
        .faulty
        .next(Call::Copy, Fault::Stall(Arc::clone(&gate)));
    let backend = Arc::new(backend);
    let putting = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { backend.put("two", b"same".to_vec()).await }
    });
    backend.faulty.met().await;
    let gone = backend
        .app
        .delete_artifact(backend.user.clone(), Which::Name("one".into()));
    assert!(gone.await.unwrap());
    gate.add_permits(1);
    assert_eq!(putting.await.unwrap(), content);
    tokio::task::yield_now().await;
    assert!(backend.has(&content).await);
}

#[tokio::test]
async fn concurrent_uploads_can_not_exceed_a_users_storage_limit() {
    let settings = Settings {
        max_stored: Some(10),
        ..Settings::default()
    };
    let backend = Backend::new(settings).await;
    let begin = async |name: &str| {
        let path = "/v2/rpc/artifact.beginUpload";
        let (status, body) = backend.send("POST", path, json!({"name": name})).await;
        (
            status,
            body["data"]["uploadId"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let part = async |id: &str, bytes: &str| {
        let path = format!("/v2/rpc/artifact.uploadPart?uploadId={id}&offset=0");
        // The body is sent as JSON, which adds two quotation marks.
        backend.send("PUT", &path, json!(bytes)).await
    };
    let finish = async |id: &str, bytes: &str| {
        let sha256 = hex::encode(Sha256::digest(json!(bytes).to_string()));
        let path = "/v2/rpc/artifact.finishUpload";
        backend
            .send("POST", path, json!({"uploadId": id, "sha256": sha256}))
            .await
    };
    let (one, two) = (begin("one").await.1, begin("two").await.1);
    assert_eq!(part(&one, "1234").await.0, StatusCode::OK);
    assert_eq!(part(&two, "5678").await.0, StatusCode::OK);
    assert_eq!(finish(&one, "1234").await.0, StatusCode::OK);
    let (status, body) = finish(&two, "5678").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    let message = body["detail"].as_str().unwrap();
    assert!(message.contains("`--max-stored`"), "{message}");
    // An upload that exceeds the limit from its start is refused at once.
    let (status, _) = part(&begin("three").await.1, "12345").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    // Data that replaces data of the same name counts only once.
    let again = begin("one").await.1;
    assert_eq!(part(&again, "abcdefgh").await.0, StatusCode::OK);
    assert_eq!(finish(&again, "abcdefgh").await.0, StatusCode::OK);
    assert_eq!(backend.faulty.names().await.len(), 1);
}

#[tokio::test]
async fn repeating_a_finish_after_a_database_error_keeps_the_upload() {
    let backend = Backend::new(Settings::default()).await;
    let bytes = pairs(5);
    let hash = hex::encode(Sha256::digest(&bytes));
    let begin = async || {
        let begin = "/v2/rpc/artifact.beginUpload";
        let (_, begun) = backend.send("POST", begin, json!({"name": "data"})).await;
        let id = begun["data"]["uploadId"].as_str().unwrap().to_owned();
        let part = format!("/v2/rpc/artifact.uploadPart?uploadId={id}&offset=0");
        let mut request = backend.request("PUT", &part, Value::Null);
        *request.body_mut() = Body::from(bytes.clone());
        let answer = backend.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        id
    };
    let finish = async |id: &str, documents: u64| {
        let told = json!({"uploadId": id, "sha256": hash, "documents": documents});
        backend
            .send("POST", "/v2/rpc/artifact.finishUpload", told)
            .await
    };
    let id = begin().await;
    let trigger = "CREATE TRIGGER fault BEFORE INSERT ON artifacts
                   BEGIN SELECT RAISE(ABORT, 'a test'); END";
    backend.app.database.disturb(trigger).await;
    let (status, answer) = finish(&id, 5).await;
    assert!(status.is_server_error(), "{status}: {answer}");
    backend.app.database.disturb("DROP TRIGGER fault").await;
    let (status, first) = finish(&id, 5).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    assert_eq!(finish(&id, 5).await, (status, first), "the first answer");
    assert!(backend.has(&hash).await);

    // A refusal is repeated as well, and the upload leaves nothing.
    let id = begin().await;
    let refused = finish(&id, 4).await;
    assert_eq!(refused.0, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.1);
    assert_eq!(finish(&id, 4).await, refused);

    // An upload that is aborted between two attempts leaves nothing.
    let (user, name) = (backend.user.clone(), Which::Name("data".into()));
    assert!(backend.app.delete_artifact(user, name).await.unwrap());
    backend.removed(&hash).await;
    let id = begin().await;
    backend.app.database.disturb(trigger).await;
    assert!(finish(&id, 5).await.0.is_server_error());
    assert!(backend.has(&hash).await, "it is kept for the next attempt");
    let abort = "/v2/rpc/artifact.abortUpload";
    let (status, _) = backend.send("POST", abort, json!({"uploadId": id})).await;
    assert_eq!(status, StatusCode::OK);
    backend.removed(&hash).await;
}
