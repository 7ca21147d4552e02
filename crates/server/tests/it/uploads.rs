//! Verification of the hash and the document count that a client gives for an
//! upload.

use finetuner::DocumentArray;
use reqwest::{StatusCode, multipart};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Backend, pairs, start};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn names(backend: &Backend) -> Vec<String> {
    let listed = backend.finetuner.list_documents().await.unwrap();
    listed.into_iter().filter_map(|data| data.name).collect()
}

#[tokio::test]
async fn an_upload_with_a_wrong_checksum_or_count_is_refused() {
    let backend = start().await;
    let before = names(&backend).await;
    let whole = pairs(5).to_bytes().unwrap();
    let cut = &whole[..whole.len() - 40];
    let hash = sha256(&whole);
    // The content, the document count and hash given for it, and a part of the
    // answer.
    let cases = [
        (cut, Some("5"), Some(hash.as_str()), "`sha256`"),
        (
            whole.as_slice(),
            Some("6"),
            Some(hash.as_str()),
            "`documents` is 6",
        ),
        (whole.as_slice(), Some("many"), None, "`documents`"),
        (&b"no documents"[..], Some("1"), None, "`documents`"),
    ];
    for (bytes, documents, told, part) in cases {
        let file = multipart::Part::bytes(bytes.to_vec()).file_name("DocumentArray");
        let mut form = multipart::Form::new()
            .part("file", file)
            .text("name", "cut")
            .text("type", "documentArray");
        for (name, value) in [("documents", documents), ("sha256", told)] {
            if let Some(value) = value {
                form = form.text(name, value.to_owned());
            }
        }
        let request = backend
            .http
            .request(reqwest::Method::POST, "/v2/rpc/artifact.upload");
        let answer = request.multipart(form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{part}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(part), "{part}: {text}");
        assert_eq!(names(&backend).await, before);
    }
}

#[tokio::test]
async fn parts_with_a_wrong_checksum_or_count_are_refused() {
    let backend = start().await;
    let before = names(&backend).await;
    let whole = pairs(5).to_bytes().unwrap();
    let post = async |method: &str, body: Value| {
        let address = format!("/v2/rpc/artifact.{method}");
        let request = backend.http.request(reqwest::Method::POST, &address);
        request.json(&body).send().await.unwrap()
    };
    let begin = async || {
        let begun = post("beginUpload", json!({"name": "cut"})).await;
        let begun: Value = begun.json().await.unwrap();
        let id = begun["data"]["uploadId"].as_str().unwrap().to_owned();
        let address = format!("/v2/rpc/artifact.uploadPart?uploadId={id}&offset=0");
        let request = backend.http.request(reqwest::Method::PUT, &address);
        request
            .body(whole.clone())
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        id
    };
    for (documents, sha256, part) in [
        (json!(4), sha256(&whole), "`documents` is 4"),
        (json!(5), sha256(&whole[1..]), "`sha256`"),
    ] {
        let id = begin().await;
        let told = json!({"uploadId": id, "documents": documents, "sha256": sha256});
        let answer = post("finishUpload", told).await;
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{part}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(part), "{part}: {text}");
        assert_eq!(names(&backend).await, before);
    }
    // The aborted upload is gone.
    let id = begin().await;
    let answer = post("abortUpload", json!({"uploadId": id})).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let told = json!({"uploadId": id, "sha256": sha256(&whole)});
    assert_eq!(
        post("finishUpload", told).await.status(),
        StatusCode::NOT_FOUND
    );
    // An older client gives no document count.
    let id = begin().await;
    let told = json!({"uploadId": id, "sha256": sha256(&whole)});
    assert_eq!(post("finishUpload", told).await.status(), StatusCode::OK);
    let kept: DocumentArray = backend.finetuner.pull("cut").await.unwrap();
    assert_eq!(kept.len(), 5);
}
