//! Shared projects: roles on every route, removed members, and switching projects
//! in the console.

use std::collections::BTreeSet;

use finetuner::{Finetuner, WandBLogger};
use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    console::Browser,
    logins::sign_in,
    security::{Body, routes, send},
    support::{Backend, Http, finished_run, fit, pairs, start, wait_for_step},
};

/// Ends of those [`routes`] that only read.
const READS: [&str; 4] = ["getDetail", "getDownloadUrl", "/v1/embeddings", "/check"];

/// Starts a backend with a project `team` of the first user. Also returns the first
/// user's client for it.
async fn with_team() -> (Backend, Finetuner) {
    let backend = start().await;
    let new = json!({"name": "team"});
    let (status, body) = call(&backend.http, Method::POST, "", new).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(
        body["members"],
        json!([{"name": "finetuner", "role": "owner"}])
    );
    let builder = Finetuner::builder().registry(backend.server.url());
    let token = backend.server.first_token().unwrap();
    let owner = builder.token(token).project("team").login().await.unwrap();
    (backend, owner)
}

/// Calls `/api/v1/projects`.
async fn call(http: &Http, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let path = format!("/api/v1/projects{path}");
    send(http, (method, path, Body::Json(body))).await
}

/// Adds a user with a role in `team`. Returns the user's client for the project.
async fn member(backend: &Backend, name: &str, role: Option<&str>) -> Http {
    let token = backend.server.create_token(name, "laptop").await.unwrap();
    if let Some(role) = role {
        let path = format!("/team/members/{name}");
        let set = call(&backend.http, Method::PUT, &path, json!({"role": role})).await;
        assert_eq!(set.0, StatusCode::OK, "{}", set.1);
    }
    backend.http.with_token(Some(&token)).in_project("team")
}

#[tokio::test]
async fn every_route_enforces_the_roles_and_hides_projects_from_others() {
    let (backend, owner) = with_team().await;
    let run = finished_run(&owner, "mine").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    let eve = member(&backend, "eve", None).await;
    let vera = member(&backend, "vera", Some("viewer")).await;
    let bob = member(&backend, "bob", Some("member")).await;
    let reads = |method: &Method, path: &str| {
        *method == Method::GET || READS.iter().any(|end| path.ends_with(end))
    };
    for route in routes("mine", &artifact) {
        // The first user's personal project has no such data.
        if route.1.ends_with("finetuner/train") {
            continue;
        }
        let place = format!("{} {}", route.0, route.1);
        let (status, body) = send(&eve, route.clone()).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "eve: {place}: {body}");
        let (status, body) = send(&vera, route.clone()).await;
        let expected = match reads(&route.0, &route.1) {
            true => StatusCode::OK,
            false => StatusCode::FORBIDDEN,
        };
        assert_eq!(status, expected, "vera: {place}: {body}");
        let (status, body) = send(&bob, route.clone()).await;
        let expected = match &route {
            (method, path, _) if reads(method, path) => StatusCode::OK,
            // The checkpoint and the upload don't exist.
            (_, path, _) if path.ends_with("/1/runs") || path.ends_with("finishUpload") => {
                StatusCode::NOT_FOUND
            }
            // Objects that the owner added.
            _ => StatusCode::FORBIDDEN,
        };
        assert_eq!(status, expected, "bob: {place}: {body}");
    }
    let (_, told) = send(
        &bob,
        (
            Method::GET,
            "/api/v1/experiments/default/runs/mine".to_owned(),
            Body::None,
        ),
    )
    .await;
    assert_eq!(told["started_by"], "finetuner");
    // Replacing another user's data would delete it.
    let upload = |http: &Http, name: &'static str| {
        let file = reqwest::multipart::Part::bytes(pairs(1).to_bytes().unwrap());
        let form = reqwest::multipart::Form::new()
            .part("file", file.file_name("f"))
            .text("name", name)
            .text("type", "documentArray");
        http.post("/v2/rpc/artifact.upload").multipart(form).send()
    };
    for (http, name, expected) in [
        (&eve, "new", StatusCode::NOT_FOUND),
        (&vera, "new", StatusCode::FORBIDDEN),
        (&bob, "train", StatusCode::FORBIDDEN),
        (&bob, "new", StatusCode::OK),
        (&bob, "new", StatusCode::OK),
    ] {
        assert_eq!(
            upload(http, name).await.unwrap().status(),
            expected,
            "{name}"
        );
    }
    // Personal projects contain nothing of the shared project.
    let (status, runs) = send(
        &backend.http,
        (Method::GET, "/api/v1/experiments".to_owned(), Body::None),
    )
    .await;
    assert_eq!((status, runs), (StatusCode::OK, json!([])));
    // A member can delete own data, and the owner everything.
    let delete = |name: &str| {
        let form = vec![("name", name.to_owned())];
        let path = "/v2/rpc/artifact.delete".to_owned();
        (Method::POST, path, Body::Form(form))
    };
    assert_eq!(send(&bob, delete("new")).await.0, StatusCode::OK);
    owner.delete_documents("train").await.unwrap();
    assert!(run.status().await.is_ok(), "it still exists");
}

#[tokio::test]
async fn a_removed_member_loses_access_and_open_streams_at_once() {
    let (backend, owner) = with_team().await;
    owner.push("train", pairs(8)).await.unwrap();
    let run = fit(&owner, "long", 49).await.unwrap();
    let bob = member(&backend, "bob", Some("member")).await;
    let path = "/api/v1/experiments/default/runs/long";
    let stream = bob.get(&format!("{path}/logstream")).send().await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    let mut stream = stream.bytes_stream();
    wait_for_step(&run, 1).await;
    let asked = bob.get("/v2/rpc/artifact.getDownloadUrl?name=train");
    let told: Value = asked.send().await.unwrap().json().await.unwrap();
    let address = told["data"]["download"].as_str().unwrap();
    let key = address.strip_prefix(&backend.server.url()).unwrap();
    let anybody = backend.http.with_token(None);
    let download = || anybody.get(key).send();
    assert_eq!(download().await.unwrap().status(), StatusCode::OK);
    assert!(stream.next().await.unwrap().is_ok(), "it has begun");
    let removed = call(
        &backend.http,
        Method::DELETE,
        "/team/members/bob",
        Value::Null,
    );
    assert_eq!(removed.await.0, StatusCode::OK);
    while let Some(piece) = stream.next().await {
        piece.unwrap();
    }
    // Deleting a token also ends its streams.
    let carol = member(&backend, "carol", Some("viewer")).await;
    let stream = carol.get(&format!("{path}/logstream")).send().await;
    let mut stream = stream.unwrap().bytes_stream();
    assert!(stream.next().await.unwrap().is_ok(), "it has begun");
    let delete = carol.post("/v2/rpc/user.pat.delete");
    let deleted = delete.form(&[("name", "laptop")]).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::OK);
    while let Some(piece) = stream.next().await {
        piece.unwrap();
    }
    assert!(
        !run.status().await.unwrap().status.is_final(),
        "the stream ended, but not the run"
    );
    assert_eq!(
        bob.get(path).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(download().await.unwrap().status(), StatusCode::NOT_FOUND);
    run.cancel().await.unwrap();
}

#[tokio::test]
async fn only_owners_and_admins_manage_projects() {
    let (backend, owner) = with_team().await;
    let eve = member(&backend, "eve", None).await;
    let bob = member(&backend, "bob", Some("member")).await;
    let role = |role: &str| json!({"role": role});
    for (http, expected) in [(&eve, StatusCode::NOT_FOUND), (&bob, StatusCode::FORBIDDEN)] {
        for (method, path, body) in [
            (Method::PUT, "/team/members/eve", role("owner")),
            (Method::DELETE, "/team/members/finetuner", Value::Null),
            (Method::DELETE, "/team", Value::Null),
        ] {
            let place = format!("{method} {path}");
            let (status, body) = call(http, method, path, body).await;
            assert_eq!(status, expected, "{place}: {body}");
        }
    }
    assert_eq!(
        call(&eve, Method::GET, "/team", Value::Null).await.0,
        StatusCode::NOT_FOUND
    );
    let (status, body) = call(&bob, Method::GET, "?all=true", Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    // The first user is an admin, and can manage projects of others.
    let other = json!({"name": "other"});
    assert_eq!(
        call(&eve, Method::POST, "", other).await.0,
        StatusCode::CREATED
    );
    let set = call(
        &backend.http,
        Method::PUT,
        "/other/members/bob",
        role("owner"),
    );
    assert_eq!(set.await.0, StatusCode::OK);
    // Managing a project gives no access to its objects.
    let inside = backend.http.in_project("other");
    let listed = inside.get("/api/v1/experiments").send().await.unwrap();
    assert_eq!(listed.status(), StatusCode::NOT_FOUND);
    for (path, said) in [
        ("/team/members/nobody", "there is no user `nobody`"),
        ("/finetuner/members/bob", "a personal project"),
    ] {
        let (status, body) = call(&backend.http, Method::PUT, path, role("viewer")).await;
        assert!(status.is_client_error(), "{path}: {status}");
        assert!(
            body["detail"].as_str().unwrap().contains(said),
            "{path}: {body}"
        );
    }
    // A project that is not empty can't be deleted.
    owner.push("data", pairs(1)).await.unwrap();
    let (status, body) = call(&backend.http, Method::DELETE, "/team", Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        body["detail"].as_str().unwrap().contains("not empty"),
        "{body}"
    );
    owner.delete_documents("data").await.unwrap();
    let deleted = call(&backend.http, Method::DELETE, "/team", Value::Null);
    assert_eq!(deleted.await.0, StatusCode::OK);
    assert!(owner.whoami().await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_form_is_refused_after_the_project_was_switched() {
    let (backend, _) = with_team().await;
    finished_run(&backend.finetuner, "r").await;
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let page = browser.page("/console/projects").await;
    assert!(
        page.contains("Switch to team") && page.contains("personal"),
        "{page}"
    );
    let delete = "/console/experiments/default/runs/r/delete";
    let page = browser.page(delete).await;
    assert!(
        page.contains("name=\"project\" value=\"finetuner\""),
        "{page}"
    );
    // Another tab switches.
    let (status, _) = browser
        .send("/console/projects/switch", &[("name", "team")])
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = browser.page("/console/").await;
    assert!(
        page.contains("no experiments yet") && page.contains("href=\"/console/project\""),
        "{page}"
    );
    let (status, page) = browser.send(delete, &[("project", "finetuner")]).await;
    assert_eq!(status, StatusCode::CONFLICT, "{page}");
    assert!(
        page.contains("belongs to project `finetuner`") && page.contains("project `team`"),
        "{page}"
    );
    let (status, page) = browser.send(delete, &[]).await;
    assert_eq!(status, StatusCode::CONFLICT, "{page}");
    assert!(backend.finetuner.get_run("r").await.is_ok());
    // Members are managed on the page of the project.
    backend.server.create_token("bob", "laptop").await.unwrap();
    let members = "/console/project/members";
    let form = |user, role| [("project", "team"), ("user", user), ("role", role)];
    let (status, page) = browser.send(members, &form("nobody", "viewer")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(
        page.contains("there is no user `nobody`") && page.contains("value=\"nobody\""),
        "{page}"
    );
    let (status, page) = browser.send(members, &form("bob", "viewer")).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let page = browser.page("/console/project").await;
    assert!(
        page.contains("Remove bob") && page.contains("2 members"),
        "{page}"
    );
    let asked = browser.page(&format!("{members}/remove?user=bob")).await;
    assert!(asked.contains("Remove this member?"), "{asked}");
    let remove = format!("{members}/remove");
    let (status, page) = browser
        .send(&remove, &[("project", "team"), ("user", "bob")])
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let (status, page) = browser
        .send("/console/project/delete", &[("project", "team")])
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    // The session shows the personal project again.
    browser.page("/console/experiments/default/runs/r").await;
}

#[tokio::test]
async fn pages_and_forms_offer_only_what_the_role_allows() {
    let (backend, owner) = with_team().await;
    finished_run(&owner, "mine").await;
    let run = "/console/experiments/default/runs/mine";
    for (name, role, clones) in [("vera", "viewer", false), ("bob", "member", true)] {
        member(&backend, name, Some(role)).await;
        let token = backend.server.create_token(name, "web").await.unwrap();
        let browser = Browser {
            backend: &backend,
            cookie: format!("finetuner_session={token}"),
        };
        // Before the switch, the project's pages are not found.
        assert_eq!(browser.get(run).await.0, StatusCode::NOT_FOUND, "{name}");
        let team = [("name", "team")];
        let switched = browser.send("/console/projects/switch", &team).await;
        assert_eq!(switched.0, StatusCode::SEE_OTHER, "{name}");
        let page = browser.page(run).await;
        assert_eq!(page.contains("/mine/clone\""), clones, "{name}");
        assert!(
            !page.contains("/mine/delete\""),
            "{name}: not the user's own"
        );
        assert!(page.contains("Started by"), "{name}");
        // Code samples name the project.
        let code = browser.page(&format!("{run}/try")).await;
        for part in [
            "x-finetuner-project: team",
            "builder().project(&quot;team&quot;)",
        ] {
            assert!(code.contains(part), "{name}: {part} is not in {code}");
        }
        let project = browser.page("/console/project").await;
        assert!(
            !project.contains("Add member") && project.contains("Leave"),
            "{name}"
        );
        let fields = [
            ("project", "team"),
            ("name", "x"),
            ("user", name),
            ("role", "owner"),
        ];
        for path in [
            &format!("{run}/delete"),
            &format!("{run}/cancel"),
            "/console/project/members",
            "/console/project/delete",
        ] {
            let (status, page) = browser.send(path, &fields).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{name}: {path}: {page}");
        }
        let (status, _) = browser.send(&format!("{run}/clone"), &fields).await;
        assert_eq!(status == StatusCode::FORBIDDEN, !clones, "{name}");
    }
    assert!(owner.get_run("mine").await.is_ok());
}

#[tokio::test]
async fn a_member_can_not_use_another_members_tracker_key() {
    let (backend, owner) = with_team().await;
    owner.push("train", pairs(8)).await.unwrap();
    let logger = WandBLogger::new().wandb_arg("api_key", "secret-key");
    let started = fit(&owner, "keyed", 1).callback(logger).await.unwrap();
    let run = "/console/experiments/default/runs/keyed";
    member(&backend, "bob", Some("member")).await;
    let token = backend.server.create_token("bob", "web").await.unwrap();
    let browser = Browser {
        backend: &backend,
        cookie: format!("finetuner_session={token}"),
    };
    let team = [("name", "team")];
    browser.send("/console/projects/switch", &team).await;
    let fields = [("project", "team"), ("name", "x")];
    let (status, page) = browser.send(&format!("{run}/clone"), &fields).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{page}");
    assert!(
        page.contains("tracker key of the user who started it") && !page.contains("secret-key"),
        "{page}"
    );
    assert!(owner.get_run("x").await.is_err());
    started.delete().await.unwrap();
}

/// Addresses that belong to the user or the server, not to a project.
const OF_NO_PROJECT: [&str; 9] = [
    "/console/signout",
    "/console/signin",
    "/console/tokens",
    "/console/password",
    "/console/authorize",
    "/console/mail",
    "/console/oidc",
    "/console/projects",
    "/console/admin",
];

/// Returns the text between each `start` and the next quotation mark.
fn quoted<'a>(page: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    let rests = page.split(start).skip(1);
    rests.filter_map(|rest| rest.split('"').next())
}

#[tokio::test]
async fn every_form_carries_its_project() {
    let (backend, owner) = with_team().await;
    owner.push("train", pairs(8)).await.unwrap();
    let checkpoints = finetuner::TrainingCheckpoint::new();
    let run = fit(&owner, "r", 1).callback(checkpoints).await.unwrap();
    run.wait().await.unwrap();
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let team = [("name", "team")];
    browser.send("/console/projects/switch", &team).await;
    let mut waiting = vec!["/console/".to_owned()];
    let (mut seen, mut checked) = (BTreeSet::new(), BTreeSet::new());
    while let Some(path) = waiting.pop() {
        let (status, page) = browser.get(&path).await;
        if status != StatusCode::OK {
            continue;
        }
        for form in page.split("<form").skip(1) {
            let form = form.split("</form>").next().unwrap_or_default();
            let action = quoted(form, "action=\"").next().unwrap_or(&path);
            let is_own = OF_NO_PROJECT.iter().any(|start| action.starts_with(start));
            // Trying a model changes nothing.
            if form.contains("method=\"post\"") && !is_own && !action.ends_with("/try") {
                let says = form.contains("name=\"project\" value=\"team\"");
                assert!(says, "{path}: {action} does not say its project");
                checked.insert(action.to_owned());
            }
        }
        for link in quoted(&page, "href=\"/console/") {
            let link = link.split('#').next().unwrap_or_default();
            let link = format!("/console/{}", link.replace("&amp;", "&"));
            let is_file = ["download", ".css", ".svg", ".csv"];
            let is_page = !is_file.iter().any(|part| link.contains(part));
            if is_page && seen.len() < 300 && seen.insert(link.clone()) {
                waiting.push(link);
            }
        }
    }
    for end in [
        "/r/delete",
        "/r/clone",
        "/r/continue",
        "/project/members",
        "/project/delete",
    ] {
        let is_checked = checked.iter().any(|action| action.ends_with(end));
        assert!(is_checked, "{end}: {checked:?}");
    }
}
