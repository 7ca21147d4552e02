//! Saving artifacts from faulty backends.

use finetuner::Run;
use serde_json::{Value, json};
use wiremock::{MockServer, ResponseTemplate};

use crate::mock::{ARTIFACT, accept_all, count, login, on};

const GET_ADDRESS: &str = "/v2/rpc/artifact.getDownloadUrl";

/// Returns a finished run whose artifact is `content` at the address `download`.
async fn finished(download: &str, content: &[u8]) -> (MockServer, Run) {
    let (server, finetuner) = accept_all().await;
    let data = json!({"code": 200, "status": 20000, "data": {"download": download}});
    on(&server, "POST", GET_ADDRESS, answer(data)).await;
    let content = ResponseTemplate::new(200).set_body_bytes(content);
    on(&server, "GET", "/v2/download/key", content).await;
    let run = finetuner.get_run("r").await.unwrap();
    (server, run)
}

fn answer(body: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(body)
}

#[tokio::test]
async fn files_of_the_user_are_kept_and_named_in_the_error() {
    let (server, run) = finished("/v2/download/key", b"").await;
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("thesis");
    std::fs::create_dir(&folder).unwrap();
    for file in ["metadata.yml", "thesis.txt"] {
        std::fs::write(folder.join(file), "mine").unwrap();
    }
    let error = run.save_model(&folder).await.unwrap_err();
    assert!(error.is_file(), "{error}");
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert_eq!(std::fs::read(folder.join("thesis.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    assert_eq!(
        count(&server, "getDownloadUrl").await,
        0,
        "nothing is fetched"
    );
}

#[tokio::test]
async fn files_that_are_not_artifacts_are_identified() {
    for (content, expected) in [
        (&b""[..], "the file is empty"),
        (b"<html>login</html>", "a web page"),
        (b"PK\x03\x04 and no end", "cut off"),
    ] {
        let (_server, run) = finished("/v2/download/key", content).await;
        let root = tempfile::tempdir().unwrap();
        let error = run.save_model(root.path().join("model")).await.unwrap_err();
        assert!(error.is_artifact(), "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_backend_can_not_choose_the_folder_of_a_zip() {
    for name in ["../../evil", "/tmp/evil", ".."] {
        let (server, _) = accept_all().await;
        let path = "/api/v1/experiments/default/runs/r";
        let named = json!({"name": name, "config": {}, "artifact_id": ARTIFACT});
        on(&server, "GET", path, answer(named)).await;
        let run = login(&server).await.unwrap().get_run("r").await.unwrap();
        let root = tempfile::tempdir().unwrap();
        let error = run
            .save_artifact(root.path().join("a/b/c"))
            .await
            .unwrap_err();
        assert!(
            error.is_artifact() && error.to_string().contains(name),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn download_addresses_need_the_backends_transport_security() {
    for (address, expected) in [
        ("http://192.0.2.1/file?X-Amz-Signature=s3cr3t", "plain http"),
        ("ftp://127.0.0.1/file?X-Amz-Signature=s3cr3t", "ftp"),
        ("http://[", "can't be read"),
    ] {
        let (_server, run) = finished(address, b"x").await;
        let root = tempfile::tempdir().unwrap();
        let error = run.save_artifact(root.path()).await.unwrap_err();
        assert!(error.is_decode(), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(
            !format!("{error} {error:?}").contains("s3cr3t"),
            "{error:?}"
        );
    }
    // Relative addresses belong to the backend.
    let (_server, run) = finished("/v2/download/key", b"zip").await;
    let root = tempfile::tempdir().unwrap();
    let zip = run.save_artifact(root.path()).await.unwrap();
    assert_eq!(std::fs::read(zip).unwrap(), b"zip");
}
