//! Share links, which make a run's page readable without a login for a limited time.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    console_data::start_in,
    logins::sign_in,
    support::{Backend, finished_run, start},
};

/// Field by which forms name their project.
const PROJECT: (&str, &str) = ("project", "finetuner");
const SHARES: &str = "/api/v1/experiments/default/runs/mine/shares";

async fn create(backend: &Backend, wanted: &Value) -> Value {
    let answer = backend.http.post(SHARES).json(wanted).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    answer.json().await.unwrap()
}

/// Returns the path of a link.
fn path(share: &Value) -> String {
    let url = share["url"].as_str().unwrap();
    url[url.find("/share/").unwrap()..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_run_is_public_until_the_link_is_revoked() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "mine").await;
    let share = create(&backend, &json!({"days": 7, "artifact": true})).await;
    let http = backend.http.with_token(None);
    let here = path(&share);
    let answer = http.get(&here).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers();
    assert_eq!(headers["referrer-policy"], "no-referrer");
    assert_eq!(headers["x-robots-tag"], "noindex, nofollow");
    assert_eq!(headers["cache-control"], "no-store");
    let page = answer.text().await.unwrap();
    for shown in [
        "recall_at_20",
        "Loss",
        "Examples",
        "clip-small",
        "Shared by",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    // It shows neither the account nor the log nor names of data.
    for hidden in [
        "/console/data",
        "/console/experiments",
        "Sign out",
        "Artifact pushed",
    ] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    // Images of examples are readable, and no others.
    let picture = page.find("/picture?document=").unwrap();
    let picture = &page[picture..picture + page[picture..].find('"').unwrap()];
    let shown = http.get(&format!("{here}{picture}")).send().await.unwrap();
    assert_eq!(shown.headers()["content-type"], "image/png");
    for other in [
        "/picture?document=999999",
        "/picture?document=-1",
        "/live",
        "/logs",
    ] {
        let status = http
            .get(&format!("{here}{other}"))
            .send()
            .await
            .unwrap()
            .status();
        assert!(status.is_client_error(), "{other}: {status}");
    }
    let download = http.get(&format!("{here}/download")).send().await.unwrap();
    let to = download.headers()["location"].to_str().unwrap().to_owned();
    let model = http.get(&to).send().await.unwrap().bytes().await.unwrap();
    assert!(model.starts_with(b"PK"));
    // Views are counted.
    let all = backend.http.get(SHARES).send().await.unwrap();
    let all: Vec<Value> = all.json().await.unwrap();
    assert_eq!((all.len(), &all[0]["opened"]), (1, &json!(1)));
    assert!(
        all[0].get("url").is_none(),
        "the address is not shown again"
    );
    // A revoked link is not found.
    let one = format!("{SHARES}/{}", share["id"].as_str().unwrap());
    for expected in [StatusCode::OK, StatusCode::NOT_FOUND] {
        let request = backend.http.request(Method::DELETE, &one);
        assert_eq!(request.send().await.unwrap().status(), expected);
    }
    for page in [
        here.clone(),
        format!("{here}/download"),
        format!("{here}{picture}"),
    ] {
        let status = http.get(&page).send().await.unwrap().status();
        assert_eq!(status, StatusCode::NOT_FOUND, "{page}");
    }
    // Neither is a link to a deleted run.
    let share = create(&backend, &json!({"days": 1})).await;
    run.delete().await.unwrap();
    let status = http.get(&path(&share)).send().await.unwrap().status();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_users_who_may_change_a_run_share_it() {
    let backend = start().await;
    finished_run(&backend.finetuner, "mine").await;
    let share = create(&backend, &json!({"days": 90})).await;
    let id = share["id"].as_str().unwrap();
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let eve = backend.http.with_token(Some(&eve));
    let reader = backend.http.post("/v2/rpc/user.pat.create");
    let reader = reader.form(&[("name", "reader"), ("scope", "read")]).send();
    let reader: Value = reader.await.unwrap().json().await.unwrap();
    let reader = backend.http.with_token(reader["data"]["token"].as_str());
    let one = format!("{SHARES}/{id}");
    for (method, path) in [
        (Method::GET, SHARES),
        (Method::POST, SHARES),
        (Method::DELETE, one.as_str()),
    ] {
        for (http, expected) in [
            (backend.http.with_token(None), StatusCode::UNAUTHORIZED),
            (eve.clone(), StatusCode::NOT_FOUND),
            (
                reader.clone(),
                match method {
                    Method::GET => StatusCode::OK,
                    _ => StatusCode::FORBIDDEN,
                },
            ),
        ] {
            let request = http.request(method.clone(), path).json(&json!({"days": 1}));
            let status = request.send().await.unwrap().status();
            assert_eq!(status, expected, "{method} {path}");
        }
    }
    // Without permission, there is no download.
    let http = backend.http.with_token(None);
    let download = format!("{}/download", path(&share));
    let status = http.get(&download).send().await.unwrap().status();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        !http
            .get(&path(&share))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("/download")
    );
    for days in [0, 91, -1] {
        let wanted = backend.http.post(SHARES).json(&json!({"days": days}));
        let status = wanted.send().await.unwrap().status();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{days}");
    }
    for _ in 1..20 {
        create(&backend, &json!({"days": 1})).await;
    }
    let more = backend.http.post(SHARES).json(&json!({"days": 1}));
    assert_eq!(more.send().await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_link_is_created_and_revoked_in_the_console() {
    let backend = start().await;
    finished_run(&backend.finetuner, "mine").await;
    let cookie = sign_in(&backend).await;
    let http = backend.http.with_token(None);
    let here = "/console/experiments/default/runs/mine/share";
    let send = async |path: &str, form: &[(&str, &str)], site: &'static str| {
        let request = http.post(path).header("cookie", &cookie).form(form);
        let answer = request.header("sec-fetch-site", site).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    let (status, _) = send(here, &[PROJECT, ("days", "7")], "cross-site").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, page) = send(here, &[PROJECT, ("days", "<b>")], "same-origin").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        page.contains("1 to 90 are allowed") && !page.contains("<b>"),
        "{page}"
    );
    let (status, page) = send(here, &[PROJECT, ("days", "7")], "same-origin").await;
    assert_eq!(status, StatusCode::OK);
    let start = page.find("/share/").unwrap();
    let link = &page[start..start + page[start..].find('<').unwrap()];
    let status = http.get(link).send().await.unwrap().status();
    assert_eq!(status, StatusCode::OK);
    let start = page.find("name=\"id\" value=\"").unwrap() + 17;
    let id = &page[start..start + 24];
    let revoke = format!("{here}/revoke");
    let (status, _) = send(&revoke, &[PROJECT, ("id", id)], "same-origin").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let status = http.get(link).send().await.unwrap().status();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_page_of_a_link_shows_no_folder_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let backend = start_in(folder.path()).await;
    finished_run(&backend.finetuner, "mine").await;
    let database = rusqlite::Connection::open(folder.path().join("finetuner.sqlite")).unwrap();
    database
        .execute_batch(
            "UPDATE runs SET config = json_set(config, '$.model.name', '/srv/unshown/base')",
        )
        .unwrap();
    let share = create(&backend, &json!({"days": 1})).await;
    let http = backend.http.with_token(None);
    let page = http.get(&path(&share)).send().await.unwrap();
    let page = page.text().await.unwrap();
    assert!(
        page.contains(">base<") && !page.contains("unshown"),
        "{page}"
    );
}
