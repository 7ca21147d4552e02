//! Calls of the Python clients and their Hubble SDK other than fine-tuning, in the
//! form in which the SDK sends them (jina-hubble-sdk 0.33.1 and 0.5.1, docarray
//! 0.21.0).

use finetuner::{EvaluationCallback, Finetuner, Loss, WandBLogger};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    logins::{answer, sign_in},
    support::{Backend, Http, connect, fit, pairs, start},
};

async fn rpc(http: &Http, method: &str, body: Option<&Value>) -> (StatusCode, Value) {
    let request = http.post(&format!("/v2/rpc/{method}"));
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Logs in as `Auth.login_sync` does, and returns the token.
async fn log_in(backend: &Backend, cookie: &str) -> String {
    let http = backend.http.with_token(None);
    let ask = http.get("/v2/rpc/user.identity.proxiedAuthorize?prompt=login");
    let mut lines = ask.send().await.unwrap();
    assert_eq!(lines.headers()["x-accel-buffering"], "no");
    let mut next = async || -> Value {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.extend_from_slice(&lines.chunk().await.unwrap().unwrap());
        }
        serde_json::from_slice(&line).unwrap()
    };
    let page = next().await["data"]["redirectTo"]
        .as_str()
        .unwrap()
        .to_owned();
    answer(&http, cookie, &page, "yes").await;
    let authorize = next().await;
    assert_eq!(authorize["event"], "authorize");
    let (status, granted) = rpc(&http, "user.identity.grant.auto", Some(&authorize["data"])).await;
    assert_eq!(status, StatusCode::OK, "{granted}");
    granted["data"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_python_client_can_log_in_again_after_a_logout() {
    let backend = start().await;
    let cookie = sign_in(&backend).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let token = log_in(&backend, &cookie).await;
        let http = backend.http.with_token(Some(&token));
        // `auto_deploy_hubble_docker_credential_helper`, at the end of a login.
        let (status, registries) = rpc(&http, "dockerRegistry.listInternalRegistries", None).await;
        assert_eq!((status, &registries["data"]), (StatusCode::OK, &json!([])));
        // `Client.get_raw_session`.
        let (status, session) = rpc(&http, "user.session.getRaw", None).await;
        assert_eq!(status, StatusCode::OK, "{session}");
        assert_eq!(session["data"]["user"]["name"], "finetuner");
        assert_eq!(session["data"]["type"], "session");
        // `hubble.logout()`.
        let (status, ended) = rpc(&http, "user.session.dismiss", None).await;
        assert_eq!((status, &ended["code"]), (StatusCode::OK, &json!(200)));
        for method in ["user.session.dismiss", "user.session.getRaw"] {
            let (status, ended) = rpc(&http, method, None).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert_eq!(
                (&ended["code"], &ended["status"]),
                (&json!(401), &json!(40103))
            );
        }
        seen.push(token);
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_code_is_accepted_as_json_and_as_a_form() {
    // `Auth.login_sync` sends JSON, `Auth.login` of the same version a form.
    let backend = start().await;
    let http = backend.http.with_token(None);
    let code = json!({"code": "c", "state": "s"});
    for method in [
        "user.identity.grant.auto",
        "user.identity.grant.auth0Unified",
    ] {
        let request = || http.post(&format!("/v2/rpc/{method}"));
        for request in [request().json(&code), request().form(&code)] {
            let status = request.send().await.unwrap().status();
            assert_eq!(
                status,
                StatusCode::UNAUTHORIZED,
                "{method}: the body was read"
            );
        }
    }
}

#[tokio::test]
async fn cloud_list_shows_all_artifacts_newest_first() {
    let backend = start().await;
    for n in 0..55 {
        let file = reqwest::multipart::Part::bytes(vec![n]).file_name("DocumentArray");
        let form = reqwest::multipart::Form::new()
            .part("file", file)
            .text("name", format!("data-{n:02}"))
            .text("type", "documentArray");
        let upload = backend.http.post("/v2/rpc/artifact.upload").multipart(form);
        assert!(upload.send().await.unwrap().status().is_success());
    }
    let names = |answer: &Value| -> Vec<String> {
        let names = answer["data"].as_array().unwrap().iter();
        names
            .map(|a| a["name"].as_str().unwrap().to_owned())
            .collect()
    };
    // `DocumentArray.cloud_list()` requests no page and shows the whole answer.
    let cloud_list = json!({"filter": {"type": "documentArray"}, "sort": {"createdAt": 1}});
    let (_, all) = rpc(&backend.http, "artifact.list", Some(&cloud_list)).await;
    assert_eq!(all["meta"]["total"], 55);
    let newest_first: Vec<_> = (0..55).rev().map(|n| format!("data-{n:02}")).collect();
    assert_eq!(names(&all), newest_first);
    // `Client.list_artifacts()` has no body at all.
    let (status, all) = rpc(&backend.http, "artifact.list", None).await;
    assert_eq!((status, names(&all)), (StatusCode::OK, newest_first));
    // A request for a page chooses the order.
    let page = json!({"sort": {"createdAt": 1}, "pageIndex": 2, "pageSize": 50});
    let (_, page) = rpc(&backend.http, "artifact.list", Some(&page)).await;
    let oldest_first: Vec<_> = (50..55).map(|n| format!("data-{n}")).collect();
    assert_eq!(names(&page), oldest_first);
}

#[tokio::test]
async fn an_unsupported_call_is_refused_in_the_format_of_the_sdk() {
    let backend = start().await;
    for method in [
        "payment.app.getSummary",
        "user.m2m.impersonateUser",
        "executor.push",
    ] {
        let (status, refused) = rpc(&backend.http, method, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        // `errorcodes` of the SDK: RpcMethodNotFOundError.
        assert_eq!(refused["status"], 40402, "{refused}");
        assert!(
            refused["message"].as_str().unwrap().contains(method),
            "{refused}"
        );
    }
    let keys = backend
        .http
        .with_token(None)
        .get("/v2/.well-known/jwks.json");
    let keys: Value = keys.send().await.unwrap().json().await.unwrap();
    assert_eq!(keys, json!({"keys": []}));
}

#[tokio::test]
async fn a_fit_into_a_missing_experiment_names_the_remedy() {
    // docs/walkthrough/run-job.md of finetuner 0.8.1 creates the experiment first,
    // and `Finetuner.create_experiment` creates it only if `GET` fails.
    let backend = start().await;
    for (method, path) in [
        (Method::GET, "/api/v1/experiments/flickr"),
        (Method::POST, "/api/v1/experiments/flickr/runs"),
    ] {
        let request = backend.http.request(method, path).json(&json!({}));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        let answer: Value = answer.json().await.unwrap();
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.contains("`flickr`") && detail.contains("`create_experiment`"),
            "{detail}"
        );
    }
    let new = json!({"name": "flickr", "description": ""});
    let created = backend.http.post("/api/v1/experiments/").json(&new);
    assert_eq!(created.send().await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test]
async fn another_user_reads_and_continues_from_a_public_artifact() {
    let backend = start().await;
    let token = backend.server.create_token("anna", "laptop").await.unwrap();
    let anna = connect(&backend.server.url(), &token).await;
    let http = backend.http.with_token(Some(&token));
    backend
        .finetuner
        .push("train", pairs(8))
        .public(true)
        .await
        .unwrap();
    let artifact = async |name: &str, public: bool| {
        let run = fit(&backend.finetuner, name, 1)
            .public(public)
            .await
            .unwrap();
        run.wait().await.unwrap();
        let log = run.logs().await.unwrap();
        assert_eq!(log.contains("The artifact is public"), public, "{log}");
        run.artifact_id().await.unwrap().to_owned()
    };
    let (open, closed) = (
        artifact("open", true).await,
        artifact("closed", false).await,
    );
    let go_on = async |name: &str, id: &str| {
        let again: Finetuner = anna.clone();
        let run = again
            .fit("clip-small", "finetuner/train")
            .run_name(name)
            .model_artifact(id);
        run.loss(Loss::Clip).epochs(1).batch_size(4).await
    };
    for (id, readable) in [(&open, true), (&closed, false)] {
        let ask = http
            .post("/v2/rpc/artifact.getDownloadUrl")
            .form(&[("id", id)]);
        let status = ask.send().await.unwrap().status();
        assert_eq!(status.is_success(), readable, "{status}");
    }
    go_on("further", &open).await.unwrap().wait().await.unwrap();
    let error = go_on("no-further", &closed).await.unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("no such artifact"),
        "{error}"
    );
    // Only the owner can change it.
    let change = http
        .post("/v2/rpc/artifact.update")
        .json(&json!({"id": open, "public": false}));
    assert_eq!(change.send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn files_of_loggers_are_in_the_artifact_and_the_log_names_them() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let run = fit(&backend.finetuner, "r", 1)
        .callback(EvaluationCallback::new("train"))
        .callback(WandBLogger::new());
    let run = run.await.unwrap();
    run.wait().await.unwrap();
    let log = run.logs().await.unwrap();
    assert!(log.contains("wandb sync logs/wandb"), "{log}");
    let folder = tempfile::tempdir().unwrap();
    let saved = run.save_model(folder.path().join("model")).await.unwrap();
    let wandb = std::fs::read_dir(saved.join("logs/wandb")).unwrap();
    assert_eq!(wandb.count(), 1);
}

#[tokio::test]
async fn a_deletion_without_a_name_deletes_no_runs() {
    // `client.delete_run('')` of finetuner 0.8.1 ends in a slash.
    let backend = start().await;
    let new = json!({"name": "flickr"});
    let experiments = "/api/v1/experiments";
    let created = backend.http.post(experiments).json(&new);
    assert_eq!(created.send().await.unwrap().status(), StatusCode::CREATED);
    let delete = async |path: &str| {
        let address = format!("{experiments}{path}");
        let request = backend.http.request(Method::DELETE, &address);
        let answer = request.send().await.unwrap();
        (
            answer.status(),
            answer.json::<Value>().await.unwrap_or_default(),
        )
    };
    let (status, answer) = delete("/flickr/runs/").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("the run's name is empty"), "{detail}");
    assert_eq!(delete("/flickr/runs").await, (StatusCode::OK, json!([])));
    // This is what its `delete_experiments()` sends.
    let (status, deleted) = delete("/").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(deleted[0]["name"], "flickr");
}
