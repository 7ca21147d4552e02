//! The page for trying a finished run, used as a browser without JavaScript does.

use reqwest::{StatusCode, multipart};

use crate::{
    logins::sign_in,
    support::{Backend, finished_run, fit, pairs, start, wait_for_step},
};

struct Browser<'a> {
    backend: &'a Backend,
    cookie: String,
}

impl Browser<'_> {
    async fn get(&self, path: &str) -> (StatusCode, String) {
        let http = self.backend.http.with_token(None);
        let answer = http
            .get(path)
            .header("cookie", &self.cookie)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        (status, answer.text().await.unwrap())
    }

    async fn post(&self, path: &str, form: multipart::Form, site: &str) -> (StatusCode, String) {
        let http = self.backend.http.with_token(None);
        let request = http
            .post(path)
            .multipart(form)
            .header("cookie", &self.cookie);
        let answer = request.header("sec-fetch-site", site).send().await.unwrap();
        let status = answer.status();
        (status, answer.text().await.unwrap())
    }
}

fn form(query: &str, picture: &[u8], data: &str) -> multipart::Form {
    // A browser sends an empty file if none was chosen.
    let picture = multipart::Part::bytes(picture.to_vec()).file_name("picture.png");
    multipart::Form::new()
        .text("query", query.to_owned())
        .part("picture", picture)
        .text("data", data.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_is_tried_with_a_text_and_an_image() {
    let backend = start().await;
    finished_run(&backend.finetuner, "first").await;
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let data = backend
        .finetuner
        .describe_documents("train")
        .await
        .unwrap()
        .id;
    let path = "/console/experiments/default/runs/first/try";
    let (_, run) = browser.get(path.trim_end_matches("/try")).await;
    assert!(run.contains(&format!("href=\"{path}\"")), "{run}");

    let (status, page) = browser.get(path).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let url = backend.server.url();
    for part in [
        "type=\"file\"",
        ">train</option>",
        "/v1/embeddings",
        "default/first",
        "onnxruntime",
        &url,
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert_eq!(page.matches("<script").count(), 1);

    let own = "same-origin";
    let title = pairs(1)[0].chunks[1].as_text().unwrap().to_owned();
    let (status, page) = browser.post(path, form(&title, b"", &data), own).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    assert!(
        page.contains("This run") && page.contains("Before: <bdi>clip-small</bdi>"),
        "{page}"
    );
    assert_eq!(
        page.matches("<img").count(),
        16,
        "all eight images, twice: {page}"
    );
    assert_eq!(
        page.matches("8 searched of 8 documents").count(),
        2,
        "{page}"
    );
    assert!(page.contains(&format!("value=\"{title}\"")), "{page}");
    let picture = page
        .split("src=\"")
        .find(|part| part.contains("/picture?"))
        .unwrap();
    let picture = picture.split('"').next().unwrap().replace("&amp;", "&");
    let http = backend.http.with_token(None);
    let answer = http
        .get(&picture)
        .header("cookie", &browser.cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "image/png");

    // An image finds itself first, in the model and in its backbone.
    let query = pairs(3)[2].chunks[0].as_blob().unwrap().to_vec();
    let (status, page) = browser.post(path, form("", &query, &data), own).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    for side in page.split("<ol class=\"found\">").skip(1) {
        let first = side.split("</li>").next().unwrap();
        assert!(
            first.contains("1.000") && first.contains("document=2&"),
            "{first}"
        );
    }
    // Both data sets were embedded once.
    let metrics = backend.http.get("/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "finetuner_loaded_indexes 2",
        "finetuner_model_loads_total 2",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is not in {metrics}"
        );
    }
    assert!(
        metrics.contains(r#"finetuner_embedded_total{kind="picture"} 18"#),
        "eight twice, and the query twice: {metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_search_are_shown_on_the_page() {
    let backend = start().await;
    finished_run(&backend.finetuner, "first").await;
    let going_on = fit(&backend.finetuner, "second", 49).await.unwrap();
    wait_for_step(&going_on, 1).await;
    let browser = Browser {
        backend: &backend,
        cookie: sign_in(&backend).await,
    };
    let data = backend
        .finetuner
        .describe_documents("train")
        .await
        .unwrap()
        .id;
    let runs = "/console/experiments/default/runs";
    let (status, page) = browser.get(&format!("{runs}/second/try")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(page.contains("STARTED"), "{page}");
    going_on.cancel().await.unwrap();
    let path = format!("{runs}/first/try");
    let (own, other) = ("same-origin", "cross-site");
    let evil = "<b>\"'";
    for (query, picture, data, site, expected, said) in [
        (
            "",
            "",
            data.as_str(),
            own,
            StatusCode::BAD_REQUEST,
            "type a query, or choose an image",
        ),
        (
            "x",
            "x",
            &data,
            own,
            StatusCode::BAD_REQUEST,
            "search with only one of them",
        ),
        (
            "",
            "x",
            &data,
            own,
            StatusCode::BAD_REQUEST,
            "not a readable image",
        ),
        (
            evil,
            "",
            "none",
            own,
            StatusCode::NOT_FOUND,
            "value=\"&lt;b&gt;&quot;'\"",
        ),
        ("x", "", evil, own, StatusCode::NOT_FOUND, "no data set"),
        (
            "x",
            "",
            &data,
            other,
            StatusCode::FORBIDDEN,
            "did not come from a page",
        ),
    ] {
        let form = form(query, picture.as_bytes(), data);
        let (status, page) = browser.post(&path, form, site).await;
        assert_eq!(status, expected, "{query} {data}: {page}");
        assert!(page.contains(said), "{said} is not in {page}");
        assert!(!page.contains("<b>"), "{page}");
    }
    // Limits are named beside the form.
    let (long, large) = ("x".repeat((16 << 10) + 1), vec![0_u8; (8 << 20) + 1]);
    let many = (0..101).fold(multipart::Form::new(), |form, _| form.text("query", "x"));
    let unknown = form("x", b"", &data).text("odd", "x");
    for (form, expected, said) in [
        (
            form(&long, b"", &data),
            StatusCode::PAYLOAD_TOO_LARGE,
            "`query` has more than 16 KiB",
        ),
        (
            form("", &large, &data),
            StatusCode::PAYLOAD_TOO_LARGE,
            "`picture` has more than 8 MiB",
        ),
        (many, StatusCode::PAYLOAD_TOO_LARGE, "more than 100 parts"),
        (
            unknown,
            StatusCode::BAD_REQUEST,
            "`odd` is not a field of this form",
        ),
    ] {
        let (status, page) = browser.post(&path, form, own).await;
        assert_eq!(status, expected, "{page}");
        assert!(page.contains(said), "{said} is not in {page}");
        assert!(page.contains("type=\"file\""), "{page}");
    }
    let (status, _) = browser.get(&format!("{runs}/none/try")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Runs and data of another user are not found.
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let form_of = [("name", ""), ("password", eve.as_str())];
    let signed_in = backend
        .http
        .with_token(None)
        .post("/console/signin")
        .form(&form_of);
    let signed_in = signed_in
        .header("sec-fetch-site", own)
        .send()
        .await
        .unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap();
    let eve = Browser {
        backend: &backend,
        cookie: cookie.split(';').next().unwrap().to_owned(),
    };
    assert_eq!(eve.get(&path).await.0, StatusCode::NOT_FOUND);
    let (status, _) = eve.post(&path, form("x", b"", &data), own).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
