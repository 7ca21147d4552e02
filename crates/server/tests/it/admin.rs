//! Admin routes and pages, their refusal to other users, and the audit log.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    console::Browser,
    logins::sign_in,
    security::{Body, send},
    support::{Backend, Http, finished_run, fit, pairs, start, start_with},
};

/// Admin routes, each with a valid body.
fn routes() -> Vec<(Method, &'static str, Value)> {
    vec![
        (Method::GET, "/users", Value::Null),
        (Method::POST, "/users", json!({"name": "new"})),
        (Method::PUT, "/users/bob", json!({"max_open_runs": 1})),
        (Method::GET, "/storage", Value::Null),
        (Method::PUT, "/storage/bob", json!({"max_stored": 1 << 20})),
        (Method::GET, "/runs", Value::Null),
        (Method::GET, "/audit", Value::Null),
    ]
}

async fn call(http: &Http, (method, path, body): (Method, &str, Value)) -> (StatusCode, Value) {
    let path = format!("/api/v1/admin{path}");
    send(http, (method, path, Body::Json(body))).await
}

async fn user(backend: &Backend, name: &str) -> Http {
    let token = backend.server.create_token(name, "laptop").await.unwrap();
    backend.http.with_token(Some(&token))
}

#[tokio::test]
async fn only_admins_may_use_admin_routes() {
    let backend = start().await;
    let bob = user(&backend, "bob").await;
    let form = [("name", "reader"), ("scope", "read")];
    let made = backend.http.post("/v2/rpc/user.pat.create").form(&form);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let reader = backend.http.with_token(made["data"]["token"].as_str());
    for route in routes() {
        let place = format!("{} {}", route.0, route.1);
        for (http, expected) in [
            (&backend.http.with_token(None), StatusCode::UNAUTHORIZED),
            (&bob, StatusCode::FORBIDDEN),
            (&reader, StatusCode::FORBIDDEN),
        ] {
            let (status, body) = call(http, route.clone()).await;
            assert_eq!(status, expected, "{place}: {body}");
        }
    }
    for route in routes() {
        let place = format!("{} {}", route.0, route.1);
        let (status, body) = call(&backend.http, route).await;
        assert!(status.is_success(), "{place}: {status} {body}");
    }
    // Pages and forms too.
    let token = backend.server.create_token("bob", "web").await.unwrap();
    let bob = Browser {
        backend: &backend,
        cookie: format!("finetuner_session={token}"),
    };
    let admin = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    for page in [
        "",
        "/users",
        "/storage",
        "/audit",
        "/users/change?user=bob&action=disable",
    ] {
        let page = format!("/console/admin{page}");
        assert_eq!(bob.get(&page).await.0, StatusCode::FORBIDDEN, "{page}");
        let shown = admin.page(&page).await;
        assert!(shown.contains("aria-label=\"Admin\""), "{page}");
    }
    assert_eq!(
        bob.get("/console/admin/audit.csv").await.0,
        StatusCode::FORBIDDEN
    );
    for (path, form) in [
        ("/users", vec![("name", "x")]),
        ("/users/change", vec![("user", "bob"), ("action", "admin")]),
        ("/users/quota", vec![("user", "bob"), ("open_runs", "9")]),
        ("/storage", vec![("name", "bob"), ("stored", "9")]),
    ] {
        let path = format!("/console/admin{path}");
        assert_eq!(
            bob.send(&path, &form).await.0,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    assert!(!bob.page("/console/").await.contains("/console/admin"));
}

#[tokio::test]
async fn a_disabled_user_loses_access_at_once() {
    let backend = start().await;
    let bob = user(&backend, "bob").await;
    let admin = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let change = "/console/admin/users/change";
    let form = |action| [("user", "bob"), ("action", action)];
    let (status, page) = admin.send(change, &form("disable")).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let whoami = || bob.post("/v2/rpc/user.identity.whoami").send();
    assert_eq!(whoami().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let (status, page) = admin.send(change, &form("enable")).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    assert_eq!(whoami().await.unwrap().status(), StatusCode::OK);
    // The last admin can't be removed.
    let last = [("user", "finetuner"), ("action", "disable")];
    let (status, page) = admin.send(change, &last).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(page.contains("only admin"), "{page}");
}

#[tokio::test]
async fn limits_of_users_and_projects_are_enforced() {
    let backend = start_with(finetuner_server::Settings {
        max_open_runs: Some(5),
        ..finetuner_server::Settings::default()
    })
    .await;
    let owner = &backend.finetuner;
    finished_run(owner, "first").await;
    let set = (
        Method::PUT,
        "/storage/finetuner",
        json!({"max_stored": 1024}),
    );
    assert_eq!(call(&backend.http, set).await.0, StatusCode::OK);
    let data = pairs(8);
    let error = owner.push("more", data.clone()).await.unwrap_err();
    assert_eq!(error.status(), Some(403), "{error}");
    let set = (
        Method::PUT,
        "/storage/finetuner",
        json!({"max_stored": null}),
    );
    assert_eq!(call(&backend.http, set).await.0, StatusCode::OK);
    owner.push("more", data).await.unwrap();
    let set = (Method::PUT, "/users/finetuner", json!({"max_open_runs": 1}));
    assert_eq!(call(&backend.http, set).await.0, StatusCode::OK);
    let long = fit(owner, "long", 49).await.unwrap();
    let error = fit(owner, "second", 1).await.unwrap_err();
    assert!(error.to_string().contains("the limit is 1"), "{error}");
    let (_, runs) = call(&backend.http, (Method::GET, "/runs", Value::Null)).await;
    assert_eq!(
        (&runs["total"], &runs["items"][0]["person"]),
        (&json!(1), &json!("finetuner"))
    );
    long.cancel().await.unwrap();
    let zero = (Method::PUT, "/users/finetuner", json!({"max_open_runs": 0}));
    let (status, _) = call(&backend.http, zero).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    // A missing or misspelt field removes no limit.
    for (path, body) in [
        ("/storage/finetuner", json!({})),
        ("/storage/finetuner", json!({"max_store": 5})),
        ("/users/finetuner", json!({"max_open_runs": u64::MAX})),
    ] {
        let (status, _) = call(&backend.http, (Method::PUT, path, body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
    }
}

#[tokio::test]
async fn the_audit_log_records_actions_without_secrets() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "r").await;
    let form = [("name", "robot")];
    let made = backend.http.post("/v2/rpc/user.pat.create").form(&form);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let token = made["data"]["token"].as_str().unwrap().to_owned();
    // A password typed into the name field.
    let form = [("name", "hunter2 hunter2"), ("password", "x")];
    let wrong = backend.http.with_token(None);
    let wrong = wrong.post("/console/signin").form(&form);
    let wrong = wrong.header("sec-fetch-site", "same-origin").send().await;
    assert_eq!(wrong.unwrap().status(), StatusCode::UNAUTHORIZED);
    run.cancel().await.unwrap();
    let public = fit(&backend.finetuner, "open", 1).public(true);
    let public = public.await.unwrap();
    public.wait().await.unwrap();
    let open = public.artifact_id().await.unwrap();
    backend.finetuner.delete_token("robot").await.unwrap();
    backend.finetuner.delete_run("r").await.unwrap();
    let (_, entries) = call(&backend.http, (Method::GET, "/audit", Value::Null)).await;
    let entries = entries.as_array().unwrap();
    let told: Vec<String> = entries
        .iter()
        .rev()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("person"), text("action"), text("object"))
        })
        .collect();
    for expected in [
        "finetuner run.start default/r",
        "finetuner token.create robot",
        "(unknown) signin.failed ",
        "finetuner token.delete robot",
        "finetuner run.delete default/r",
        &format!("finetuner data.publish {open}"),
    ] {
        assert!(
            told.iter().any(|one| one == expected),
            "{expected}: {told:?}"
        );
    }
    let start = entries.iter().find(|entry| entry["action"] == "run.start");
    assert_eq!(start.unwrap()["address"], "127.0.0.1");
    let admin = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let page = admin.page("/console/admin/audit?action=run").await;
    assert!(
        page.contains("run.delete") && !page.contains("token.create"),
        "{page}"
    );
    let (status, file) = admin.get("/console/admin/audit.csv").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        file.starts_with("time,person,project,action,object,address,id\r\n"),
        "{file}"
    );
    let whole = format!("{entries:?} {page} {file}");
    for secret in [
        "hunter2",
        token.as_str(),
        backend.server.first_token().unwrap(),
    ] {
        assert!(!whole.contains(secret), "a secret is in the log");
    }
}
