//! The console's pages, as a browser without JavaScript gets them.

use finetuner::{Document, DocumentArray};
use reqwest::StatusCode;

use crate::{
    logins::sign_in,
    support::{Backend, finished_run, pairs, start},
};

pub(crate) struct Browser<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) cookie: String,
}

impl Browser<'_> {
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let http = self.backend.http.with_token(None);
        let answer = http
            .get(path)
            .header("cookie", &self.cookie)
            .send()
            .await
            .unwrap();
        let policy = answer.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        let status = answer.status();
        (status, answer.text().await.unwrap())
    }

    pub(crate) async fn page(&self, path: &str) -> String {
        let (status, page) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {page}");
        // Pages load nothing from other hosts and run no inline scripts.
        for bad in [
            "http://",
            "https://",
            "style=",
            "<style",
            "onclick",
            "javascript:",
        ] {
            let own = page
                .replace("http://www.w3.org", "")
                .replace(&self.backend.server.url(), "");
            assert!(!own.contains(bad), "{path} has {bad}: {page}");
        }
        assert_eq!(page.matches("<script").count(), 1, "{path}");
        page
    }

    /// Sends a form of the first user's personal project.
    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let form = [form, &[("project", "finetuner")]].concat();
        self.send(path, &form).await
    }

    /// Sends a form unchanged.
    pub(crate) async fn send(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let http = self.backend.http.with_token(None);
        let request = http.post(path).form(form).header("cookie", &self.cookie);
        let answer = request
            .header("sec-fetch-site", "same-origin")
            .send()
            .await
            .unwrap();
        let status = answer.status();
        (status, answer.text().await.unwrap())
    }
}

#[tokio::test]
async fn every_page_shows_the_users_objects() {
    let backend = start().await;
    let run = finished_run(&backend.finetuner, "first").await;
    finished_run(&backend.finetuner, "second").await;
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let experiments = browser.page("/console/").await;
    assert!(experiments.contains("/console/experiments/default\"><bdi>default</bdi></a>"));

    let list = browser.page("/console/experiments/default").await;
    for part in [
        "first",
        "second",
        "Finished",
        "recall_at_20 before",
        "clip-small",
        "2 runs",
    ] {
        assert!(list.contains(part), "{part} is not in {list}");
    }
    let filtered = browser
        .page("/console/experiments/default?q=SEC&state=finished")
        .await;
    assert!(filtered.contains("1 run<") && !filtered.contains("runs/first\""));
    let none = browser
        .page("/console/experiments/default?state=failed")
        .await;
    assert!(none.contains("0 runs"));

    let page = browser
        .page("/console/experiments/default/runs/first")
        .await;
    let artifact = run.artifact_id().await.unwrap();
    for part in [
        "Finished</span>",
        "<polyline",
        "recall_at_20",
        "Finished 🚀",
        "/clone\"",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    for (tab, part) in [
        ("configuration", "&quot;loss&quot;: &quot;CLIPLoss&quot;"),
        ("checkpoints", "There are no checkpoints"),
        ("files", artifact),
        ("files", "SHA-256"),
    ] {
        let address = format!("/console/experiments/default/runs/first?tab={tab}");
        let page = browser.page(&address).await;
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(
        !page.contains("/picture?document="),
        "its data was pushed anew since"
    );
    // Images found by example queries are shown.
    let page = browser
        .page("/console/experiments/default/runs/second")
        .await;
    let picture = page
        .split("src=\"")
        .nth(2)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let picture = picture.replace("&amp;", "&");
    assert!(picture.contains("/picture?document="), "{picture}");
    let (status, _) = browser.get(&picture).await;
    assert_eq!(status, StatusCode::OK);
    let part = browser
        .get("/console/experiments/default/runs/first?part=live&x=epoch&scale=log&smooth=0.9")
        .await
        .1;
    assert!(!part.contains("<html") && part.contains("<polyline"));

    let both = "run=default%2Ffirst&run=default%2Fsecond";
    let compared = browser.page(&format!("/console/compare?{both}")).await;
    // One loss and one learning rate per run.
    assert_eq!(compared.matches("<polyline").count(), 4);
    let (status, _) = browser.get("/console/compare?run=default%2Ffirst").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let data = browser.page("/console/data").await;
    assert!(
        data.contains("<bdi>train</bdi></a>") && data.contains("<td>dataset</td>"),
        "{data}"
    );
    let id = backend
        .finetuner
        .describe_documents("train")
        .await
        .unwrap()
        .id;
    let documents = browser.page(&format!("/console/data/{id}")).await;
    assert!(documents.contains("8 documents") && documents.contains("&amp;part=0"));
    let address = format!("/console/data/{id}/picture?document=0&part=0");
    let http = backend.http.with_token(None);
    let answer = http
        .get(&address)
        .header("cookie", &browser.cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "image/png");
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(Some(&bytes[..]), pairs(1)[0].chunks[0].as_blob());
    let download = format!("/console/data/{id}/download");
    let answer = http
        .get(&download)
        .header("cookie", &browser.cookie)
        .send()
        .await
        .unwrap();
    let to = answer.headers()["location"].to_str().unwrap();
    let whole = http.get(to).send().await.unwrap().bytes().await.unwrap();
    let whole = DocumentArray::from_bytes(&whole).unwrap();
    assert_eq!(whole, backend.finetuner.pull("train").await.unwrap());

    // A token is created, shown once, and deleted.
    let form = [("name", "laptop"), ("days", "7"), ("scope", "all")];
    let (status, made) = browser.post("/console/tokens", &form).await;
    assert_eq!(status, StatusCode::OK);
    let token = &made[made.find("ft_").unwrap()..][..67];
    assert!(
        backend
            .http
            .with_token(Some(token))
            .get("/api/v1/experiments")
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    let tokens = browser.page("/console/tokens").await;
    assert!(tokens.contains("laptop") && !tokens.contains(token));
    let (status, _) = browser
        .post("/console/tokens/delete", &[("name", "laptop")])
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert!(!browser.page("/console/tokens").await.contains("laptop"));

    let (status, _) = browser
        .post("/console/experiments/default/runs/second/delete", &[])
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, page) = browser
        .get("/console/experiments/default/runs/second")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(page.contains("there is no run `second`"), "{page}");
    let (status, _) = browser.post("/console/signout", &[]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, _) = browser.get("/console/").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "signed out");
}

#[tokio::test]
async fn values_from_users_are_escaped_on_every_page() {
    const EVIL: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'";
    let backend = start().await;
    let mut documents = DocumentArray::new();
    for mut pair in pairs(8) {
        pair.chunks[1] = Document::text(format!("{EVIL} {}", pair.chunks[1].as_text().unwrap()))
            .with_modality("text");
        documents.push(pair.with_tag(EVIL, EVIL));
    }
    backend.finetuner.push("train", &documents).await.unwrap();
    // Valid names that look like markup.
    let name = "<b>&\"'";
    let evaluation = finetuner::EvaluationCallback::new("train")
        .gather_examples(true)
        .caption("<i>caption");
    let run = crate::support::fit(&backend.finetuner, name, 1)
        .experiment_name(name)
        .description(EVIL)
        .callback(evaluation);
    run.await.unwrap().wait().await.unwrap();
    let other = crate::support::fit(&backend.finetuner, "plain", 1).await;
    other.unwrap().wait().await.unwrap();
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let quoted = "%3Cb%3E&%22'".replace('&', "%26");
    let id = backend
        .finetuner
        .describe_documents("train")
        .await
        .unwrap()
        .id;
    for path in [
        "/console/".to_owned(),
        format!("/console/experiments/{quoted}"),
        format!("/console/experiments/{quoted}?q={quoted}&state={quoted}&sort={quoted}"),
        format!("/console/experiments/{quoted}?filter={quoted}&metric={quoted}"),
        format!("/console/experiments/{quoted}/runs/{quoted}"),
        format!("/console/experiments/{quoted}/runs/{quoted}?x={quoted}&tab={quoted}"),
        format!("/console/experiments/{quoted}/runs/{quoted}?tab=configuration"),
        format!("/console/experiments/{quoted}/runs/{quoted}/delete"),
        format!("/console/experiments/{quoted}/runs/{quoted}/clone"),
        format!("/console/compare?run={quoted}%2F{quoted}&run=default%2Fplain"),
        format!("/console/compare?experiment={quoted}"),
        format!("/console/{quoted}"),
        format!("/console/data?q={quoted}&kind={quoted}"),
        format!("/console/data/{id}"),
        "/console/tokens".to_owned(),
        format!("/console/signin?next={quoted}"),
    ] {
        let (_, page) = browser.get(&path).await;
        for bad in [
            "<script>",
            "<img src=x",
            "onerror=alert(2)>",
            "<b>",
            "<i>caption",
        ] {
            assert!(!page.contains(bad), "{path} has {bad}: {page}");
        }
    }
}

#[tokio::test]
async fn the_guides_need_no_login() {
    let backend = start().await;
    let browser = Browser {
        backend: &backend,
        cookie: String::new(),
    };
    let front = browser.get("/docs/").await.1;
    assert!(front.contains("href=\"/docs/first-run.html\""), "{front}");
    let (status, guide) = browser.get("/docs/server.html").await;
    assert_eq!(status, StatusCode::OK, "{guide}");
    assert!(guide.contains("<h1 id=\"running-a-server\">"), "{guide}");
    assert!(guide.contains("href=\"#users\""), "{guide}");
    assert!(!guide.contains("style="), "{guide}");
    for wrong in ["/docs/nothing.html", "/docs/..%2FCargo.toml"] {
        let (status, page) = browser.get(wrong).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{wrong}: {page}");
        assert!(page.contains("/docs/"), "{page}");
    }
    let (status, style) = browser.get("/docs/book.css").await;
    assert_eq!(status, StatusCode::OK);
    assert!(style.contains(".book"), "{style}");
}
