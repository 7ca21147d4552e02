//! Lists of runs and data in the console.

use finetuner::EvaluationCallback;
use reqwest::StatusCode;

use crate::{
    console::Browser,
    console_data::start_in,
    logins::sign_in,
    support::{finished_run, fit, pairs, start},
};

#[tokio::test]
async fn metrics_over_different_numbers_of_documents_are_not_mixed() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    for (name, limit) in [("twenty", 20), ("four", 4)] {
        let evaluation = EvaluationCallback::new("train").limit(limit);
        let run = fit(&backend.finetuner, name, 1).callback(evaluation);
        run.await.unwrap().wait().await.unwrap();
    }
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let list = "/console/experiments/default";
    let page = browser.page(&format!("{list}?metric=recall_at_4")).await;
    assert!(page.contains("recall_at_4 before"), "{page}");
    // A search at 20 finds all 8 documents, a search at 4 at most half.
    let page = browser
        .page(&format!("{list}?filter=recall_at_20%3D1"))
        .await;
    assert!(
        page.contains("runs/twenty\"") && !page.contains("runs/four\""),
        "{page}"
    );
    let page = browser
        .page(&format!("{list}?sort=-recall_at_20&filter=epochs%3C2"))
        .await;
    let place = |name: &str| page.find(&format!("runs/{name}\"")).unwrap();
    assert!(place("twenty") < place("four"), "{page}");
    assert!(page.contains("aria-sort=\"descending\""), "{page}");
    let (status, page) = browser.get(&format!("{list}?filter=epochs")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("`epochs` is not a condition") && page.contains("value=\"epochs\""));
    let both = "run=default%2Ftwenty&run=default%2Ffour";
    let page = browser.page(&format!("/console/compare?{both}")).await;
    for part in [
        ">recall_at_4<",
        ">recall_at_20<",
        ">EvaluationCallback.limit<",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(
        !page.contains(">learning_rate<"),
        "they have the same: {page}"
    );
}

#[tokio::test]
async fn all_selected_runs_are_compared() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(4)).await.unwrap();
    let mut query = Vec::new();
    for n in 0..8 {
        let run = fit(&backend.finetuner, &format!("r{n}"), 1).await.unwrap();
        run.wait().await.unwrap();
        query.push(format!("run=default%2Fr{n}"));
    }
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let address = format!("/console/compare?{}", query.join("&"));
    let page = browser.page(&address).await;
    assert!(page.contains("Compare 8 runs") && page.contains("the same model, data and settings"));
    assert_eq!(
        page.matches("data-name=\"r").count(),
        16,
        "losses and rates"
    );
    // Too few runs give an error page with a link back.
    for (asked, count) in [("", "0 runs"), ("&run=default%2Fr1", "1 run.")] {
        let address = format!("/console/compare?experiment=default{asked}");
        let (status, page) = browser.get(&address).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(page.contains(count), "{page}");
        assert!(page.contains("aria-label=\"Main\"") && page.contains("experiments/default\""));
    }
    // So are too many, of which none is left out without a word.
    let many: Vec<String> = (0..201).map(|n| format!("run=default%2Fr{n}")).collect();
    let (status, page) = browser
        .get(&format!("/console/compare?{}", many.join("&")))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("At most 200 can be compared"), "{page}");
    // A page number past the end shows the last page.
    for list in ["/console/experiments/default", "/console/data"] {
        let http = backend.http.with_token(None);
        let request = http.get(&format!("{list}?page=999"));
        let answer = request
            .header("cookie", &browser.cookie)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{list}");
        let to = answer.headers()["location"].to_str().unwrap();
        assert!(to.starts_with(list) && !to.contains("999"), "{to}");
    }
}

#[tokio::test]
async fn titles_are_names_and_can_not_change_the_text_direction() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "maker").await;
    let artifact = run.artifact_id().await.unwrap().to_owned();
    // A name with a right-to-left override.
    let evil = "right\u{202e}left";
    let again = fit(&backend.finetuner, evil, 1);
    again.await.unwrap().wait().await.unwrap();
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let data = browser.page("/console/data?kind=model").await;
    assert!(data.contains("Model of run <bdi>maker</bdi>"), "{data}");
    let page = browser.page(&format!("/console/data/{artifact}")).await;
    assert!(page.contains("<title>Model of run maker"), "{page}");
    assert!(
        page.contains("/console/experiments/default/runs/maker\""),
        "{page}"
    );
    for address in [
        "/console/experiments/default".to_owned(),
        format!("/console/experiments/default/runs/{evil}"),
        format!("/console/experiments/default/runs/{evil}/delete"),
        format!("/console/compare?run=default%2Fmaker&run=default%2F{evil}"),
    ] {
        let address = address.replace('\u{202e}', "%E2%80%AE");
        let page = browser.page(&address).await;
        let shown = page.replace("value=\"default/right\u{202e}left\"", "");
        assert!(!shown.contains('\u{202e}'), "{address}: {page}");
        assert!(shown.contains("right\u{fffd}left"), "{address}: {page}");
    }
    // Times have a zone.
    let list = browser.page("/console/experiments/default").await;
    assert!(list.contains(" UTC</time>"), "{list}");
}

#[tokio::test]
async fn runs_that_can_not_be_deleted_stop_no_others_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let backend = start_in(folder.path()).await;
    for name in ["first", "second", "third"] {
        finished_run(&backend.finetuner, name).await;
    }
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let database = rusqlite::Connection::open(folder.path().join("finetuner.sqlite")).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER stays BEFORE DELETE ON runs WHEN OLD.name = 'first'
             BEGIN SELECT RAISE(ABORT, 'it stays'); END",
        )
        .unwrap();
    let form = [
        ("do", "delete"),
        ("confirmed", "yes"),
        ("run", "default/first"),
        ("run", "default/second"),
        ("run", "default/third"),
    ];
    let (status, page) = browser.post("/console/runs/selected", &form).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{page}");
    for part in [
        "2 runs deleted.",
        "1 run not deleted:",
        "default/first",
        "its log has the reason",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("default/second"), "{page}");
    let page = browser.page("/console/runs").await;
    assert!(
        page.contains("runs/first\"") && !page.contains("runs/second\""),
        "{page}"
    );
    assert!(!page.contains("runs/third\""), "{page}");
}
