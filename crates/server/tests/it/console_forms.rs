//! Console forms: cloning, continuing, cancelling and deleting runs, and their
//! error pages.

use finetuner::TrainingCheckpoint;
use reqwest::StatusCode;

use crate::{
    console::Browser,
    logins::sign_in,
    support::{Backend, finished_run, fit, pairs, start, wait_for_step},
};

async fn browser(backend: &Backend) -> Browser<'_> {
    Browser {
        backend,
        cookie: sign_in(backend).await,
    }
}

const RUNS: &str = "/console/experiments/default/runs";

#[tokio::test]
async fn a_run_is_cloned_with_changes_and_continued() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let run = fit(&backend.finetuner, "first", 1).callback(TrainingCheckpoint::new());
    run.await.unwrap().wait().await.unwrap();
    let browser = browser(&backend).await;
    let form = browser.page(&format!("{RUNS}/first/clone")).await;
    assert!(
        form.contains("value=\"first-2\"") && form.contains("value=\"0.0001\""),
        "{form}"
    );
    let clone = format!("{RUNS}/first/clone");
    let fields = |name| {
        [
            ("name", name),
            ("description", "slower"),
            ("epochs", "2"),
            ("batch_size", "4"),
            ("learning_rate", "2e-5"),
        ]
    };
    let (status, _) = browser.post(&clone, &fields("first-2")).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let made = backend.finetuner.get_run("first-2").await.unwrap();
    let config = made.config();
    let config = serde_json::to_value(config).unwrap();
    let hyper = &config["hyper_parameters"];
    assert_eq!(
        (hyper["epochs"].as_u64(), hyper["learning_rate"].as_f64()),
        (Some(2), Some(2e-5))
    );
    assert_eq!(hyper["loss"], "CLIPLoss");
    made.wait().await.unwrap();
    backend.finetuner.push("other", pairs(6)).await.unwrap();
    let other = [
        ("name", "on-other"),
        ("epochs", "1"),
        ("batch_size", "4"),
        ("learning_rate", "1e-4"),
        ("train_data", "other"),
    ];
    let (status, page) = browser.post(&clone, &other).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let on_other = backend.finetuner.get_run("on-other").await.unwrap();
    let config = serde_json::to_value(on_other.config()).unwrap();
    assert_eq!(config["data"]["train_data"], "other");
    assert_eq!(config["model"]["name"], "clip-small");
    on_other.wait().await.unwrap();
    // An existing name is refused, and the form keeps its values.
    let (status, page) = browser.post(&clone, &fields("first-2")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    for part in [
        "has a run `first-2` already",
        "value=\"first-2\"",
        "value=\"slower\"",
        "value=\"2e-5\"",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let mut wrong = fields("third");
    wrong[4].1 = "fast";
    let (status, page) = browser.post(&clone, &wrong).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        page.contains("Learning rate is `fast`") && page.contains("value=\"third\""),
        "{page}"
    );

    let form = browser.page(&format!("{RUNS}/first/continue")).await;
    assert!(form.contains("1: 1 epoch, 0 steps"), "{form}");
    let go_on = format!("{RUNS}/first/continue");
    let fields = [("name", "longer"), ("checkpoint", "1"), ("epochs", "2")];
    let (status, page) = browser.post(&go_on, &fields).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    backend
        .finetuner
        .get_run("longer")
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    let fields = [("name", "other"), ("checkpoint", "9"), ("epochs", "2")];
    let (status, page) = browser.post(&go_on, &fields).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(
        page.contains("no checkpoint 9") && page.contains("value=\"other\""),
        "{page}"
    );
}

#[tokio::test]
async fn destructive_actions_ask_first_and_cancelled_is_not_failed() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let run = fit(&backend.finetuner, "long", 49).await.unwrap();
    wait_for_step(&run, 1).await;
    let browser = browser(&backend).await;
    let page = browser.page(&format!("{RUNS}/long")).await;
    assert!(
        page.contains(&format!("href=\"{RUNS}/long/cancel\"")),
        "{page}"
    );
    assert!(!page.contains("action=\"/console/experiments/default/runs/long/delete\""));
    let asked = browser.page(&format!("{RUNS}/long/cancel")).await;
    assert!(asked.contains("Cancel this run?"), "{asked}");
    assert!(
        !run.status().await.unwrap().status.is_final(),
        "the question changes nothing"
    );
    let (status, _) = browser.post(&format!("{RUNS}/long/cancel"), &[]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = browser.page(&format!("{RUNS}/long")).await;
    assert!(page.contains("status cancelled\">Cancelled"), "{page}");
    assert!(
        page.contains("Run cancelled by") && !page.contains("class=\"problem"),
        "{page}"
    );
    let list = "/console/experiments/default";
    let page = browser.page(&format!("{list}?state=cancelled")).await;
    assert!(page.contains("1 run<"), "{page}");
    let page = browser.page(&format!("{list}?state=failed")).await;
    assert!(page.contains("0 runs"), "{page}");
    let asked = browser.page(&format!("{RUNS}/long/delete")).await;
    assert!(asked.contains("Delete this run?"), "{asked}");
    let (status, _) = browser.post(&format!("{RUNS}/long/delete"), &[]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert!(backend.finetuner.get_run("long").await.is_err());
}

#[tokio::test]
async fn errors_are_shown_inside_the_page_layout() {
    let backend = start().await;
    finished_run(&backend.finetuner, "r").await;
    let browser = browser(&backend).await;
    for (path, expected) in [
        ("/console/nothing", StatusCode::NOT_FOUND),
        ("/console/experiments/none", StatusCode::NOT_FOUND),
        (
            "/console/experiments/default/runs/none",
            StatusCode::NOT_FOUND,
        ),
        ("/console/data/none", StatusCode::NOT_FOUND),
        (
            "/console/experiments/default?page=x",
            StatusCode::BAD_REQUEST,
        ),
        ("/console/compare?run=a&run=b", StatusCode::BAD_REQUEST),
        ("/console/authorize", StatusCode::BAD_REQUEST),
        ("/console/signout", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (status, page) = browser.get(path).await;
        assert_eq!(status, expected, "{path}: {page}");
        assert!(page.starts_with("<!DOCTYPE html>"), "{path}: {page}");
        assert!(page.contains("aria-label=\"Main\""), "{path}: {page}");
    }
    let (status, page) = browser.post("/console/tokens", &[("x", "y")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(page.contains("aria-label=\"Main\""), "{page}");
    // The form keeps its values.
    let typed = [("name", "laptop"), ("days", "9999"), ("scope", "read")];
    let (status, page) = browser.post("/console/tokens", &typed).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for part in [
        "`days` is `9999`",
        "value=\"laptop\"",
        "value=\"9999\"",
        "value=\"read\" selected",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let (status, page) = browser
        .post("/console/password", &[("password", "short")])
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(page.contains("8 to 1024"), "{page}");
    let typed = [("name", "<ada>"), ("password", "wrong password")];
    let (status, page) = browser.post("/console/signin", &typed).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(
        page.contains("value=\"&lt;ada&gt;\"") && !page.contains("wrong password"),
        "{page}"
    );
}

#[tokio::test]
async fn a_read_only_session_shows_no_buttons_for_changes() {
    let backend = start().await;
    finished_run(&backend.finetuner, "r").await;
    let form = [("name", "reader"), ("scope", "read")];
    let made = backend.http.post("/v2/rpc/user.pat.create").form(&form);
    let made: serde_json::Value = made.send().await.unwrap().json().await.unwrap();
    let token = made["data"]["token"].as_str().unwrap();
    let reader = Browser {
        backend: &backend,
        cookie: format!("finetuner_session={token}"),
    };
    for path in [
        "/console/experiments/default/runs/r",
        "/console/runs",
        "/console/tokens",
        "/console/account",
    ] {
        let page = reader.page(path).await;
        assert!(page.contains("read-only"), "{path}");
        for button in [
            "/clone\"",
            "/delete\"",
            "/continue\"",
            "Create token",
            "annotations\"",
            "value=\"delete\"",
            "/console/password",
        ] {
            assert!(!page.contains(button), "{path} has {button}");
        }
    }
    for path in ["clone", "continue", "cancel", "delete", "annotations"] {
        let address = format!("{RUNS}/r/{path}");
        assert_eq!(
            reader.get(&address).await.0,
            StatusCode::FORBIDDEN,
            "{path}"
        );
        let form = [("name", "x"), ("epochs", "1"), ("checkpoint", "1")];
        assert_eq!(
            reader.post(&address, &form).await.0,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
}
