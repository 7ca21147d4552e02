//! Misspelt fields of requests that only this API has.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::start;

#[tokio::test]
async fn misspelt_fields_are_refused_by_name() {
    let backend = start().await;
    let run = "/api/v1/experiments/default/runs/r";
    let hook = json!({"url": "https://example.org/", "event": ["run.failed"]});
    for (method, path, body, field) in [
        (
            Method::PUT,
            format!("{run}/annotations"),
            json!({"add_tag": ["x"]}),
            "add_tag",
        ),
        (
            Method::PUT,
            format!("{run}/annotations"),
            json!({"tags": [], "notes": ""}),
            "notes",
        ),
        (
            Method::POST,
            format!("{run}/shares"),
            json!({"days": 1, "model": true}),
            "model",
        ),
        (
            Method::POST,
            format!("{run}/checkpoints/1/runs"),
            json!({"name": "x", "epoch": 3}),
            "epoch",
        ),
        (Method::POST, "/api/v1/webhooks".to_owned(), hook, "event"),
        (
            Method::POST,
            "/api/v1/projects".to_owned(),
            json!({"name": "x", "owner": "y"}),
            "owner",
        ),
        (
            Method::PUT,
            "/api/v1/projects/x/members/y".to_owned(),
            json!({"role": "owner", "until": 1}),
            "until",
        ),
        (
            Method::POST,
            "/api/v1/admin/users".to_owned(),
            json!({"name": "x", "admin": true}),
            "admin",
        ),
    ] {
        let answer = backend.http.request(method, &path).json(&body).send();
        let answer = answer.await.unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{path}: {body}"
        );
        let told: Value = answer.json().await.unwrap();
        let detail = told["detail"].as_str().unwrap();
        assert!(
            detail.contains(&format!("unknown field `{field}`")),
            "{path}: {detail}"
        );
    }
}
