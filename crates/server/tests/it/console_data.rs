//! Console pages for uploads, for starting a run on the uploaded data, and for the queue.

use std::{io::Write, path::Path};

use finetuner_server::Server;
use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};

use crate::{
    console::Browser,
    logins::sign_in,
    support::{Backend, Http, connect, fit, pairs, start, start_with, wait_for_step},
};

const NEW: &str = "/console/data/new";

async fn browser(backend: &Backend) -> Browser<'_> {
    Browser {
        backend,
        cookie: sign_in(backend).await,
    }
}

/// Returns a form of the first user's project with these fields and a file.
fn form(fields: &[(&'static str, &str)], file: (&'static str, Vec<u8>)) -> Form {
    let mut form = Form::new().text("project", "finetuner");
    for (name, value) in fields {
        form = form.text(*name, (*value).to_owned());
    }
    form.part("file", Part::bytes(file.1).file_name(file.0))
}

/// Sends a form. Returns the status, the redirect's address, and the page.
async fn upload(browser: &Browser<'_>, form: Form) -> (StatusCode, String, String) {
    let http = browser.backend.http.with_token(None);
    let request = http.post(NEW).multipart(form);
    let request = request.header("cookie", &browser.cookie);
    let answer = request.header("sec-fetch-site", "same-origin").send().await;
    let answer = answer.unwrap();
    let to = answer.headers().get("location");
    let to = to.map_or(String::new(), |to| to.to_str().unwrap().to_owned());
    (answer.status(), to, answer.text().await.unwrap())
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Starts a server with this data folder.
pub(crate) async fn start_in(folder: &Path) -> Backend {
    let server = Server::embedded().folder(folder).start().await.unwrap();
    let token = server.first_token().unwrap().to_owned();
    Backend {
        finetuner: connect(&server.url(), &token).await,
        http: Http::new(&server.url(), Some(&token)),
        server,
    }
}

/// Counts the temporary files left by uploads.
fn leftover_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("incoming-"))
        .count()
}

#[tokio::test]
async fn an_uploaded_file_equals_the_data_that_a_client_pushes() {
    let folder = tempfile::tempdir().unwrap();
    let backend = start_in(folder.path()).await;
    let browser = browser(&backend).await;
    assert!(
        browser
            .page(NEW)
            .await
            .contains("enctype=\"multipart/form-data\"")
    );
    let csv = "query,answer\nred dress,a long red dress\nshoe,a brown shoe\n";
    let fields = [("name", "pairs"), ("rows", "text-to-text")];
    let (status, to, page) = upload(&browser, form(&fields, ("pairs.csv", csv.into()))).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let page = browser.page(&to).await;
    for part in [
        "a long red dress",
        "4 documents",
        "pairs.csv",
        "/console/start?data=pairs",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let pulled = backend.finetuner.pull("pairs").await.unwrap();
    let pushed =
        finetuner::Csv::text(csv).options(finetuner::CsvOptions::new().header(["query", "answer"]));
    backend
        .finetuner
        .push("pushed", pushed)
        .model("minilm-small")
        .await
        .unwrap();
    let pushed = backend.finetuner.pull("pushed").await.unwrap();
    let shown = |all: &finetuner::DocumentArray| -> Vec<(Option<String>, Option<String>)> {
        let one = |d: &finetuner::Document| (d.as_text().map(str::to_owned), d.label());
        all.iter().map(one).collect()
    };
    assert_eq!(shown(&pulled), shown(&pushed));

    // An existing name needs a confirmation.
    let (status, _, page) = upload(&browser, form(&fields, ("pairs.csv", csv.into()))).await;
    assert_eq!(status, StatusCode::CONFLICT, "{page}");
    assert!(page.contains("name=\"replace\""), "{page}");
    let lines = "{\"anchor\": \"a\", \"positive\": \"b\"}\n";
    let fields = [fields[0], fields[1], ("replace", "yes")];
    let (status, ..) = upload(&browser, form(&fields, ("pairs.jsonl", lines.into()))).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert_eq!(backend.finetuner.pull("pairs").await.unwrap().len(), 2);

    // Of two uploads of one name at once, one is stored and the other is told.
    let fields = [("name", "raced"), ("rows", "text-to-text")];
    let send = || upload(&browser, form(&fields, ("pairs.csv", csv.into())));
    let (one, other) = tokio::join!(send(), send());
    let mut statuses = [one.0, other.0];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::SEE_OTHER, StatusCode::CONFLICT]);
    assert_eq!(leftover_files(folder.path()), 0);
}

#[tokio::test]
async fn images_are_read_only_from_the_uploaded_zip() {
    let folder = tempfile::tempdir().unwrap();
    let backend = start_in(folder.path()).await;
    let browser = browser(&backend).await;
    let picture = pairs(1)[0].chunks[0].as_blob().unwrap().to_vec();
    let table = b"file_name,caption\na.png,a red dress\n";
    let fields = [("name", "pictures"), ("rows", "text-to-image")];
    let good = zip(&[("set/metadata.csv", table), ("set/a.png", &picture)]);
    let (status, to, page) = upload(&browser, form(&fields, ("pictures.zip", good))).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    assert!(browser.page(&to).await.contains("/picture?document=0"));
    let pulled = backend.finetuner.pull("pictures").await.unwrap();
    assert_eq!(pulled[0].chunks[0].as_blob(), Some(&*picture));

    let fields = [("name", "stolen"), ("rows", "image-to-image")];
    let secret = folder.path().join("finetuner.sqlite");
    let secret = secret.display().to_string();
    assert!(std::path::Path::new(&secret).is_file());
    let link = format!("file://{secret}");
    for path in [
        secret.as_str(),
        &link,
        "../finetuner.sqlite",
        "../../../../etc/passwd",
    ] {
        let table = format!("image,label\n{path},a\n{path},b\n");
        let alone = ("stolen.csv", table.clone().into_bytes());
        let zipped = ("stolen.zip", zip(&[("metadata.csv", table.as_bytes())]));
        for file in [alone, zipped] {
            let (status, _, page) = upload(&browser, form(&fields, file)).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {page}");
            assert!(page.contains("is outside the folder"), "{path}: {page}");
        }
    }
    let text = zip(&[
        ("metadata.csv", b"image,label\na.png,a\n"),
        ("a.png", b"no picture"),
    ]);
    let (_, _, page) = upload(&browser, form(&fields, ("x.zip", text))).await;
    assert!(
        page.contains("it is not an image in a supported format"),
        "{page}"
    );
    let (_, _, page) = upload(
        &browser,
        form(&fields, ("x.zip", zip(&[("a.png", &picture)]))),
    )
    .await;
    assert!(
        page.contains("has no CSV, JSON Lines or Parquet file"),
        "{page}"
    );
    assert!(!page.contains("incoming-"), "{page}");
    assert_eq!(leftover_files(folder.path()), 0);
}

#[tokio::test]
async fn errors_are_shown_and_the_form_keeps_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let backend = start_in(folder.path()).await;
    let browser = browser(&backend).await;
    let mut csv = String::from("good one,label a\n");
    for row in 0..30 {
        csv.push_str(&format!("text {row},\n"));
    }
    let fields = [
        ("name", "<b>"),
        ("rows", "text-to-text"),
        ("first_row", "data"),
        ("labeled", "yes"),
    ];
    let (status, _, page) = upload(&browser, form(&fields, ("x.csv", csv.into()))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    for part in [
        "30 problems",
        "its label is empty",
        "And 10 more",
        "good one",
        "value=\"&lt;b&gt;\"",
        "value=\"data\" selected",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert_eq!(page.matches("its label is empty").count(), 20);
    assert!(!page.contains("<b>"), "{page}");
    let lines: Vec<u8> = b"{\"text\": \"a\", \"label\": \"b\"}\n".to_vec();
    for (fields, file, told) in [
        (vec![("name", ""), ("rows", "texts")], "x.csv", "name"),
        (
            vec![("name", "x"), ("rows", "songs")],
            "x.csv",
            "`songs` is not one of the choices",
        ),
        (
            vec![("name", "x"), ("rows", "texts")],
            "x.exe",
            "it is not a CSV",
        ),
        (
            vec![("name", "x"), ("rows", "texts"), ("delimiter", "tab")],
            "x.jsonl",
            "it applies to CSV files only",
        ),
        (
            vec![("name", "x"), ("rows", "texts"), ("color", "red")],
            "x.csv",
            "`color` is not a field",
        ),
        (
            vec![("name", "x"), ("rows", "texts"), ("encoding", "klingon")],
            "x.csv",
            "klingon",
        ),
        (
            vec![("name", "x"), ("rows", "text-to-text"), ("anchor", "q")],
            "x.jsonl",
            "has no column `q`",
        ),
    ] {
        let (status, _, page) = upload(&browser, form(&fields, (file, lines.clone()))).await;
        assert_eq!(
            status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{fields:?}: {page}"
        );
        assert!(page.contains(told), "{told} is not in {page}");
        for word in ["CsvOptions", "`Columns", "incoming-"] {
            assert!(!page.contains(word), "{word} is in {page}");
        }
    }
    let (_, _, page) = upload(&browser, form(&fields[..2], ("x.csv", Vec::new()))).await;
    assert!(page.contains("choose a file that is not empty"), "{page}");
    assert!(backend.finetuner.list_documents().await.unwrap().is_empty());
    assert_eq!(leftover_files(folder.path()), 0);
}

#[tokio::test]
async fn uploads_need_a_session_write_access_and_the_same_site() {
    let backend = start().await;
    let cookie = sign_in(&backend).await;
    let http = backend.http.with_token(None);
    let send = async |cookie: &str, site: &'static str, project: &'static str| {
        let form = Form::new()
            .text("name", "x")
            .text("rows", "texts")
            .text("project", project)
            .part("file", Part::bytes(b"a\n".to_vec()).file_name("x.csv"));
        let request = http.post(NEW).multipart(form).header("cookie", cookie);
        let answer = request.header("sec-fetch-site", site).send().await;
        answer.unwrap().status()
    };
    assert_eq!(
        send("", "same-origin", "finetuner").await,
        StatusCode::SEE_OTHER
    );
    for site in ["cross-site", "same-site", "none"] {
        assert_eq!(
            send(&cookie, site, "finetuner").await,
            StatusCode::FORBIDDEN
        );
    }
    assert_eq!(
        send(&cookie, "same-origin", "other").await,
        StatusCode::CONFLICT
    );
    let made = backend.http.post("/v2/rpc/user.pat.create");
    let made = made
        .form(&[("name", "reader"), ("scope", "read")])
        .send()
        .await;
    let made: serde_json::Value = made.unwrap().json().await.unwrap();
    let reader = format!(
        "finetuner_session={}",
        made["data"]["token"].as_str().unwrap()
    );
    assert_eq!(
        send(&reader, "same-origin", "finetuner").await,
        StatusCode::FORBIDDEN
    );
    assert!(backend.finetuner.list_documents().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_members_start_runs_from_console_forms_on_their_own_data() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let cookie = sign_in(&backend).await;
    let eve = backend.server.create_token("eve", "laptop").await.unwrap();
    let eve = format!("finetuner_session={eve}");
    let http = backend.http.with_token(None);
    let send = async |cookie: &str, site: &'static str, project: &'static str| {
        let fields = [
            ("project", project),
            ("data", "train"),
            ("name", "stolen"),
            ("model", "clip-small"),
            ("loss", "CLIPLoss"),
            ("epochs", "1"),
        ];
        let request = http.post("/console/start").form(&fields);
        let request = request.header("cookie", cookie);
        let answer = request.header("sec-fetch-site", site).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(
        send("", "same-origin", "finetuner").await.0,
        StatusCode::SEE_OTHER
    );
    for site in ["cross-site", "same-site", "none"] {
        assert_eq!(
            send(&cookie, site, "finetuner").await.0,
            StatusCode::FORBIDDEN
        );
    }
    assert_eq!(
        send(&eve, "same-origin", "finetuner").await.0,
        StatusCode::CONFLICT
    );
    let (status, page) = send(&eve, "same-origin", "eve").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(page.contains("there is no data named"), "{page}");
    let eves = Browser {
        backend: &backend,
        cookie: eve,
    };
    let page = eves.page("/console/start?data=train").await;
    assert!(
        page.contains("There is no data in this project yet"),
        "{page}"
    );
    let page = eves.page("/console/queue").await;
    assert!(!page.contains("/runs/"), "{page}");
    assert!(backend.finetuner.list_runs().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_form_starts_a_run_that_links_to_its_data() {
    let backend = start().await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let browser = browser(&backend).await;
    let page = browser.page("/console/start?data=train").await;
    for part in [
        "an image and its text",
        "value=\"CLIPLoss\" selected",
        "value=\"clip-small\" selected",
        ".fit(&quot;clip-small&quot;, &quot;train&quot;)",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let mut fields = vec![
        ("data", "train"),
        ("name", "from-page"),
        ("experiment", "new"),
        ("model", "clip-small"),
        ("loss", "CLIPLoss"),
        ("eval_data", "train"),
        ("evaluate", "yes"),
        ("epochs", "1"),
        ("batch_size", "4"),
        ("learning_rate", "1e-4"),
        ("device", "cpu"),
        ("action", "code"),
    ];
    let (status, page) = browser.post("/console/start", &fields).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.contains("--evaluate &#39;name:train&#39;")
            || page.contains("--evaluate 'name:train'"),
        "{page}"
    );
    assert!(
        backend
            .finetuner
            .list_experiments()
            .await
            .unwrap()
            .is_empty()
    );
    fields.pop();
    let (status, page) = browser.post("/console/start", &fields).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    let experiment = backend.finetuner.get_experiment("new").await.unwrap();
    let run = experiment.get_run("from-page").await.unwrap();
    run.wait().await.unwrap();
    assert!(!run.metrics().await.unwrap().after.is_empty());

    // Errors are beside their field, and the form keeps its values.
    for (field, value, told) in [
        ("name", "from-page", "has a run `from-page` already"),
        ("epochs", "many", "Epochs is `many`"),
        ("epochs", "1000", "epochs"),
        ("loss", "NoLoss", "NoLoss"),
        ("eval_data", "none", "there is no data named `none`"),
    ] {
        let mut wrong = fields.clone();
        wrong
            .iter_mut()
            .find(|(name, _)| *name == "name")
            .unwrap()
            .1 = "second";
        wrong.iter_mut().find(|(name, _)| *name == field).unwrap().1 = value;
        let (status, page) = browser.post("/console/start", &wrong).await;
        assert!(status.is_client_error(), "{field}: {status}");
        let beside = page.split(&format!("id=\"{field}-wrong\"")).nth(1);
        let beside = beside.unwrap_or_else(|| panic!("no error beside {field}: {page}"));
        assert!(
            beside.split("</p>").next().unwrap().contains(told),
            "{page}"
        );
        assert!(page.contains(&format!("value=\"{value}\"")), "{page}");
    }

    let data = browser.page("/console/data?kind=documentArray").await;
    let link = data
        .split('"')
        .find(|part| part.starts_with("/console/data/") && !part.ends_with("/new"));
    let page = browser.page(link.unwrap()).await;
    assert!(
        page.contains("/console/experiments/new/runs/from-page\""),
        "{page}"
    );
}

#[tokio::test]
async fn the_queue_page_names_runs_of_the_project_and_counts_others() {
    let settings = finetuner_server::Settings {
        runs_at_once: 1,
        ..Default::default()
    };
    let backend = start_with(settings).await;
    backend.finetuner.push("train", pairs(8)).await.unwrap();
    let token = backend.server.create_token("eve", "laptop").await.unwrap();
    let eve = connect(&backend.server.url(), &token).await;
    eve.push("train", pairs(8)).await.unwrap();
    let running = fit(&backend.finetuner, "first", 49).await.unwrap();
    wait_for_step(&running, 1).await;
    fit(&eve, "hidden", 49).await.unwrap();
    fit(&backend.finetuner, "second", 49).await.unwrap();
    let browser = browser(&backend).await;
    let page = browser.page("/console/queue").await;
    for part in [
        "runs/first\"",
        "runs/second\"",
        "1 run of others",
        "2 runs<",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(
        !page.contains("hidden\"") && !page.contains(">eve<"),
        "{page}"
    );
    let live = browser.get("/console/queue?part=live").await.1;
    assert!(live.starts_with("<div id=\"queue\">"), "{live}");
}
