//! Lists of runs in the console: all experiments, columns, CSV files, tags, notes,
//! and actions on selected runs.

use finetuner::{AnnotationChange, EvaluationCallback};
use reqwest::StatusCode;

use crate::{
    console::Browser,
    logins::sign_in,
    support::{Backend, finished_run, fit, pairs, start, wait_for_step},
};

const SELECTED: &str = "/console/runs/selected";

async fn browser(backend: &Backend) -> Browser<'_> {
    Browser {
        backend,
        cookie: sign_in(backend).await,
    }
}

#[tokio::test]
async fn tags_and_note_are_saved_together() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "first").await;
    let browser = browser(&backend).await;
    let place = "/console/experiments/default/runs/first";
    let form = format!("{place}/annotations");
    let typed = [("tags", "baseline, two words"), ("note", "one\r\n<two>")];
    assert_eq!(browser.post(&form, &typed).await.0, StatusCode::SEE_OTHER);
    let own = run.annotations().await.unwrap();
    assert_eq!(own.tags, ["baseline", "two words"]);
    assert_eq!(own.note, "one\n<two>");
    let page = browser.page(place).await;
    for part in [
        "/console/runs?tag=two+words",
        "one\n&lt;two&gt;",
        "value=\"baseline, two words\"",
        "Change tags and note",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    // A refused form changes neither, and keeps its values.
    let long = "x".repeat(101);
    let typed = [("tags", long.as_str()), ("note", "kept")];
    let (status, page) = browser.post(&form, &typed).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(page.contains("at most 100") && page.contains(&long) && page.contains("kept"));
    assert_eq!(run.annotations().await.unwrap(), own);

    let artifact = run.artifact_id().await.unwrap().to_owned();
    let place = format!("/console/data/{artifact}");
    let typed = [("tags", "served"), ("note", "since May")];
    let (status, _) = browser.post(&format!("{place}/annotations"), &typed).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = browser.page(&place).await;
    assert!(
        page.contains("served") && page.contains("since May"),
        "{page}"
    );
    let change = AnnotationChange::default().add_tags(["a"]).note("");
    backend
        .finetuner
        .annotate_artifact(&artifact, change)
        .await
        .unwrap();
    let about = backend
        .finetuner
        .describe_artifact(&artifact)
        .await
        .unwrap();
    assert_eq!(about.annotations.tags, ["served", "a"]);
    // Tags stay when the data is replaced.
    let data = backend.finetuner.describe_documents("train").await.unwrap();
    let change = AnnotationChange::default().add_tags(["clean"]);
    backend
        .finetuner
        .annotate_artifact(&data.id, change)
        .await
        .unwrap();
    backend.finetuner.push("train", pairs(2)).await.unwrap();
    let data = backend.finetuner.describe_documents("train").await.unwrap();
    assert_eq!(data.annotations.tags, ["clean"]);
    // The list of data has a filter by tag, too.
    for (tag, count, there) in [("clean", "1 item<", &data.id), ("a", "1 item<", &artifact)] {
        let page = browser.page(&format!("/console/data?tag={tag}")).await;
        let link = format!("href=\"/console/data/{there}\"");
        assert!(page.contains(count) && page.contains(&link), "{page}");
        assert!(
            page.contains(&format!("href=\"/console/data?tag={tag}\"")),
            "{page}"
        );
    }
    let page = browser.page("/console/data?tag=none").await;
    assert!(
        page.contains("0 items") && page.contains("value=\"none\" selected"),
        "{page}"
    );
}

#[tokio::test]
async fn the_run_list_covers_all_experiments() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    for (experiment, name, tag) in [("one", "a", "x"), ("two", "b", "y"), ("two", "c", "y")] {
        let evaluation = EvaluationCallback::new("train");
        let run = fit(&backend.finetuner, name, 1).callback(evaluation);
        let run = run.experiment_name(experiment).tags([tag, "all"]).await;
        run.unwrap().wait().await.unwrap();
    }
    let browser = browser(&backend).await;
    let list = "/console/runs";
    let page = browser.page(list).await;
    for part in [
        "3 runs",
        "experiments/one/runs/a\"",
        "experiments/two/runs/b\"",
        "recall_at_20 before",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    for (query, there, missing) in [
        ("tag=x", vec!["a"], vec!["b", "c"]),
        ("filter=tags%3Dy", vec!["b", "c"], vec!["a"]),
        (
            "filter=experiment%3Done,+state%3Dfinished",
            vec!["a"],
            vec!["b"],
        ),
        ("tag=none", vec![], vec!["a", "b", "c"]),
        ("state=running", vec![], vec!["a", "b", "c"]),
        ("q=B", vec!["b"], vec!["a", "c"]),
    ] {
        let page = browser.page(&format!("{list}?{query}")).await;
        for name in there {
            assert!(page.contains(&format!("/runs/{name}\"")), "{query}: {name}");
        }
        for name in missing {
            assert!(
                !page.contains(&format!("/runs/{name}\"")),
                "{query}: {name}"
            );
        }
        assert!(
            page.contains("Compare selected"),
            "the bar is shown: {query}"
        );
    }
    let page = browser.page(&format!("{list}?sort=-experiment")).await;
    let place = |name: &str| page.find(&format!("/runs/{name}\"")).unwrap();
    assert!(place("b") < place("a") && place("c") < place("b"));

    // CSV files of the list and of the selected runs.
    let (status, file) = browser.get("/console/runs/csv?tag=y&sort=name").await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines.len(), 3, "{file}");
    assert!(lines[0].contains("learning_rate") && lines[0].contains("recall_at_20 after"));
    assert!(
        lines[1].starts_with("two,b,") && lines[1].contains("\"y, all\""),
        "{file}"
    );
    let (_, file) = browser.get("/console/runs/csv?run=one%2Fa&tag=y").await;
    assert!(file.lines().nth(1).unwrap().starts_with("one,a,"), "{file}");
    let (status, _) = browser.get("/console/runs/csv?experiment=none").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // Another user sees none of them.
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let eve = Browser {
        backend: &backend,
        cookie: format!("finetuner_session={eve}"),
    };
    assert!(eve.page(list).await.contains("0 runs"));
    assert_eq!(eve.get("/console/runs/csv").await.1.lines().count(), 1);
    assert_eq!(
        eve.get("/console/runs/csv?run=one%2Fa").await.0,
        StatusCode::NOT_FOUND
    );
    let form = [
        ("run", "one/a"),
        ("do", "delete"),
        ("confirmed", "yes"),
        ("project", "eve"),
    ];
    assert_eq!(eve.send(SELECTED, &form).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn columns_are_chosen_and_remembered() {
    let backend = start().await;
    finished_run(&backend.finetuner, "r").await;
    let mut browser = browser(&backend).await;
    let list = "/console/runs";
    let page = browser.page(list).await;
    assert!(page.contains("value=\"batch_size\"") && !page.contains(">Batch size</a>"));
    let chosen = "columns=set&c=batch_size&c=state&more=recall_at_20.change&q=r";
    let http = backend.http.with_token(None);
    let request = http.get(&format!("{list}?{chosen}"));
    let answer = request
        .header("cookie", &browser.cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()["location"], "/console/runs?q=r");
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    browser.cookie = format!("{}; {cookie}", browser.cookie);
    let page = browser.page(list).await;
    for part in [">Batch size</a>", ">recall_at_20.change</a>", ">State</a>"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains(">Learning rate</a>"), "{page}");
    let (status, page) = browser
        .get(&format!("{list}?columns=set&more={}", "%C3%BC".repeat(600)))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("3500 bytes are allowed"), "{page}");
}

#[tokio::test]
async fn selected_runs_are_tagged_cancelled_and_deleted_after_confirmation() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let done = fit(&backend.finetuner, "done", 1).await.unwrap();
    done.wait().await.unwrap();
    let long = fit(&backend.finetuner, "long", 49).await.unwrap();
    wait_for_step(&long, 1).await;
    let browser = browser(&backend).await;
    let both = [("run", "default/done"), ("run", "default/long")];
    let act = async |more: &[(&str, &str)]| {
        let form = [&both, more].concat();
        browser.post(SELECTED, &form).await
    };
    let (_, page) = act(&[("do", "tag"), ("back", "https://evil.example/")]).await;
    assert!(
        page.contains("Tag 2 runs") && !page.contains("evil"),
        "{page}"
    );
    let yes = ("confirmed", "yes");
    let (status, _) = act(&[("do", "tag"), yes, ("add", "x, y")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, page) = act(&[
        ("do", "tag"),
        yes,
        ("add", &"z".repeat(101)),
        ("remove", "y"),
    ])
    .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{page}");
    let (status, _) = act(&[("do", "tag"), yes, ("remove", "y")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    for run in [&done, &long] {
        assert_eq!(run.annotations().await.unwrap().tags, ["x"]);
    }
    let (_, page) = act(&[("do", "cancel")]).await;
    assert!(page.contains("Cancel 1 run?"), "{page}");
    assert!(
        !long.status().await.unwrap().status.is_final(),
        "the question changes nothing"
    );
    let (status, _) = act(&[("do", "cancel"), yes]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert!(long.status().await.unwrap().details.contains("cancelled"));
    assert_eq!(done.status().await.unwrap().status.as_str(), "FINISHED");
    let (_, page) = act(&[("do", "delete"), ("back", "/console/runs?q=x")]).await;
    assert!(page.contains("Delete 2 runs?") && page.contains("value=\"/console/runs?q=x\""));
    let (status, _) = act(&[("do", "delete"), yes]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert!(browser.page("/console/runs").await.contains("0 runs"));
    let (_, page) = browser.post(SELECTED, &[("do", "delete")]).await;
    assert!(page.contains("Nothing is selected"), "{page}");
    let (status, _) = browser.post(SELECTED, &[("do", "steal")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn runs_are_compared_by_search_results_and_status() {
    let backend = start().await;
    for name in ["one", "two"] {
        finished_run(&backend.finetuner, name).await;
    }
    let browser = browser(&backend).await;
    let runs = "run=default%2Fone&run=default%2Ftwo";
    let compare = format!("/console/compare?{runs}");
    let page = browser
        .page(&format!("{compare}&back=%2Fconsole%2Fruns%3Fq%3Do"))
        .await;
    for part in [
        "id=\"examples\"",
        "first hit: place",
        ">train_loss<",
        "href=\"/console/runs?q=o\"",
        "name=\"back\" value=\"/console/runs?q=o\"",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let sides = page.matches("class=\"found\"").count();
    assert!(
        sides >= 2 && sides % 2 == 0,
        "each run has a column: {sides}"
    );
    // Zooming into the axis, and back out.
    let page = browser
        .page(&format!("{compare}&of=step&from=1&to=3"))
        .await;
    assert!(
        page.contains("step 1 to 3") && page.contains("Show all"),
        "{page}"
    );
    assert!(page.contains("data-range=\"1 3\""), "{page}");
    let page = browser
        .page(&format!("{compare}&back=https%3A%2F%2Fevil.example"))
        .await;
    assert!(!page.contains("evil"), "{page}");
}
