//! An upload is complete or fails, whatever the program's code does, and contains no
//! file that the program did not mean to send.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use finetuner::{
    Content, Document, DocumentArray, DocumentSource, Error, Finetuner, load_documents,
    save_documents,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use wiremock::ResponseTemplate;

use crate::{
    backend::{self, pairs},
    mock::{accept_all, count, on},
};

/// Sizes of data sets that are sent in one request and in parts.
const SIZES: [(u64, usize); 2] = [(20, 1000), (60, 400_000)];

fn blob(n: u64, bytes: usize) -> Document {
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let noise = (0..bytes).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let mut document = Document::new().with_id(format!("{n:032x}"));
    document.content = Some(Content::Blob(
        [b"\x89PNG".to_vec(), noise.collect()].concat(),
    ));
    document
}

/// Returns a source that passes the check. When it is sent, `spoil` is called with the
/// number of each document.
fn failing_source(
    (documents, bytes): (u64, usize),
    spoil: impl Fn(u64) -> Result<(), String> + Clone + Send + Sync + 'static,
) -> DocumentSource {
    let made = Arc::new(AtomicUsize::new(0));
    DocumentSource::try_new(move || {
        let sent = made.fetch_add(1, Ordering::SeqCst) > 0;
        let spoil = spoil.clone();
        (0..documents).map(move |n| {
            if sent {
                spoil(n)?;
            }
            Ok::<_, String>(blob(n, bytes))
        })
    })
}

async fn assert_nothing_is_kept(finetuner: &Finetuner) {
    let kept = finetuner.list_documents().await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

fn assert_says(error: &Error, part: &str) {
    assert!(error.to_string().contains(part), "{part}: {error:?}");
}

#[tokio::test]
async fn a_panic_in_the_users_iterator_aborts_the_push() {
    let (_server, finetuner) = backend::start().await;
    for size in SIZES {
        let source = failing_source(size, move |n| {
            assert!(n + 3 < size.0, "no document {n}");
            Ok(())
        });
        let error = finetuner.push("cut", source).await.unwrap_err();
        assert_says(&error, "no document");
        assert_nothing_is_kept(&finetuner).await;
    }
}

#[tokio::test]
async fn an_error_of_the_users_iterator_aborts_the_push() {
    let (_server, finetuner) = backend::start().await;
    for size in SIZES {
        let source = failing_source(size, move |n| match n + 3 < size.0 {
            true => Ok(()),
            false => Err("the tape broke".to_owned()),
        });
        let error = finetuner.push("cut", source).await.unwrap_err();
        assert_says(&error, "the tape broke");
        assert!(error.is_data(), "{error:?}");
        assert_eq!(error.problems().unwrap().problems[0].number, size.0 - 2);
        assert_nothing_is_kept(&finetuner).await;
    }
    // An immediate failure is reported before anything is sent.
    let source = DocumentSource::try_new(|| {
        (0..9).map(|n| match n < 4 {
            true => Ok(Document::text(format!("text {n}"))),
            false => Err("no more"),
        })
    });
    let error = finetuner.push("cut", source).await.unwrap_err();
    let problems = error.problems().unwrap();
    assert_eq!(
        (problems.total, problems.problems[0].number),
        (1, 5),
        "{error}"
    );
}

#[tokio::test]
async fn a_panic_in_on_progress_aborts_the_push() {
    let (_server, finetuner) = backend::start().await;
    for (documents, bytes) in SIZES {
        let source = DocumentSource::new(move || (0..documents).map(move |n| blob(n, bytes)));
        let push = finetuner.push("cut", source).on_progress(move |progress| {
            assert!(progress.done + 2 < documents, "the bar fell down");
        });
        assert_says(&push.await.unwrap_err(), "the bar fell down");
        assert_nothing_is_kept(&finetuner).await;
    }
}

#[tokio::test]
async fn a_file_deleted_after_the_check_aborts_the_push() {
    let (_server, finetuner) = backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("last.png");
    for size in SIZES {
        std::fs::write(&image, pairs("train", 1)[0].chunks[0].as_blob().unwrap()).unwrap();
        let (gone, uri) = (image.clone(), image.to_string_lossy().into_owned());
        let made = Arc::new(AtomicUsize::new(0));
        let source = DocumentSource::new(move || {
            if made.fetch_add(1, Ordering::SeqCst) > 0 {
                let _ = std::fs::remove_file(&gone);
            }
            let last = Document::uri(uri.clone());
            (0..size.0).map(move |n| blob(n, size.1)).chain([last])
        });
        let error = finetuner.push("cut", source).await.unwrap_err();
        assert!(error.is_file(), "{error:?}");
        assert_says(&error, "last.png");
        assert_nothing_is_kept(&finetuner).await;
    }
}

#[tokio::test]
async fn an_error_of_the_users_iterator_is_not_retried() {
    let (server, finetuner) = accept_all().await;
    let missing = ResponseTemplate::new(404).set_body_json(json!({"detail": "not found"}));
    on(&server, "POST", "/v2/rpc/artifact.beginUpload", missing).await;
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let source = failing_source(SIZES[1], move |n| {
        counted.fetch_add(usize::from(n == 0), Ordering::SeqCst);
        match n {
            50 => Err("the tape broke".to_owned()),
            _ => Ok(()),
        }
    });
    let error = finetuner.push("cut", source).await.unwrap_err();
    assert_says(&error, "the tape broke");
    // Packed once to measure its size, and once for the single request.
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

/// Returns the value of a form field and the bytes of the file.
fn field<'a>(body: &'a [u8], name: &str) -> &'a [u8] {
    let find = |from: &[u8], what: &[u8]| from.windows(what.len()).position(|w| w == what);
    let start = find(body, format!("name=\"{name}\"").as_bytes()).unwrap();
    let body = &body[start..];
    let body = &body[find(body, b"\r\n\r\n").unwrap() + 4..];
    &body[..find(body, b"\r\n--").unwrap()]
}

#[tokio::test]
async fn a_single_request_declares_hash_and_number_of_documents() {
    for (documents, bytes) in [(3, 100), (45, 400_000)] {
        let (server, finetuner) = accept_all().await;
        let missing = ResponseTemplate::new(404).set_body_json(json!({"detail": "not found"}));
        on(&server, "POST", "/v2/rpc/artifact.beginUpload", missing).await;
        let source = DocumentSource::new(move || (0..documents).map(move |n| blob(n, bytes)));
        finetuner.push("told", source).await.unwrap();
        let requests = server.received_requests().await.unwrap();
        let upload = requests.last().unwrap();
        assert_eq!(upload.url.path(), "/v2/rpc/artifact.upload");
        let hash = hex::encode(Sha256::digest(field(&upload.body, "file")));
        let text = |name: &str| String::from_utf8_lossy(field(&upload.body, name)).into_owned();
        assert_eq!(text("documents"), documents.to_string());
        assert_eq!(text("sha256"), hash);
    }
}

#[tokio::test]
async fn pushing_received_documents_reads_no_local_files() {
    let (_server, finetuner) = backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("id_ed25519");
    std::fs::write(&secret, "a private key").unwrap();
    let names_it = || Document::uri(secret.to_string_lossy());
    // Shared documents name a local file of their user.
    let chunk = Document::new()
        .with_chunk(Document::text("key"))
        .with_chunk(names_it());
    let bad = DocumentArray::from(vec![names_it(), chunk]);
    let shared = DocumentSource::from(bad.clone()).reads_files(false);
    finetuner.push("shared", shared).await.unwrap();
    let pulled = finetuner.pull("shared").await.unwrap();
    let file = folder.path().join("shared.da");
    save_documents(&file, bad.clone()).await.unwrap();
    let loaded = load_documents(&file).await.unwrap();
    let read = DocumentArray::from_bytes(&bad.to_bytes().unwrap()).unwrap();
    for received in [pulled, loaded, read] {
        assert_eq!(received, bad);
        let again = received.clone();
        let stream = DocumentSource::new(move || again.clone().into_iter());
        let changed: DocumentArray = received.iter().cloned().collect();
        for push in [
            finetuner.push("again", &received).public(true),
            finetuner.push("again", stream),
            finetuner.push("again", changed),
        ] {
            let error = push.await.unwrap_err();
            let problems = error.problems().unwrap();
            assert_eq!(problems.problems.len(), 2, "{error}");
            assert_says(&error, "id_ed25519");
            assert_says(&error, "reads_files");
        }
        let fit = finetuner.fit("clip-small", "shared").loss("CLIPLoss");
        let error = fit.eval_data(&received).await.unwrap_err();
        assert_says(&error, "reads_files");
        let names = finetuner.list_documents().await.unwrap();
        assert_eq!(names.len(), 1, "nothing else was stored: {names:?}");

        // The program can allow it.
        let allowed = DocumentSource::from(received).reads_files(true);
        finetuner.push("allowed", allowed).await.unwrap();
        let allowed = finetuner.pull("allowed").await.unwrap();
        assert_eq!(allowed[0].as_blob(), Some(&b"a private key"[..]));
        finetuner.delete_documents("allowed").await.unwrap();
    }
    // The program's own documents may name files.
    finetuner
        .push("own", DocumentArray::from(vec![names_it()]))
        .await
        .unwrap();
    let own = finetuner.pull("own").await.unwrap();
    assert_eq!(own[0].as_blob(), Some(&b"a private key"[..]));
    // Addresses and existing content are sent unchanged.
    let good = DocumentArray::from(vec![
        Document::uri("https://example.com/a.png"),
        blob(1, 10),
    ]);
    finetuner.push("good", &good).await.unwrap();
    let good = finetuner.pull("good").await.unwrap();
    finetuner.push("good", &good).await.unwrap();
}

#[tokio::test]
async fn a_refused_run_uploads_nothing() {
    let (_server, finetuner) = backend::with_data(8).await;
    let before = finetuner.list_documents().await.unwrap().len();
    let data = pairs("train", 8);
    let fit = || backend::short_fit(&finetuner, "mine");
    let with_data = || {
        finetuner
            .fit("clip-small", &data)
            .run_name("mine")
            .loss("CLIPLoss")
    };
    let bad = [
        with_data().loss("MagicLoss"),
        with_data().optimizer("Adamant"),
        with_data().model_option("seed", "high"),
        with_data().eval_data("no-such-data"),
        with_data().model_artifact("no-such-artifact"),
    ];
    for fit in bad {
        let error = fit.await.unwrap_err();
        assert!(error.is_invalid(), "{error:?}");
        assert_eq!(finetuner.list_documents().await.unwrap().len(), before);
    }
    // The check neither requires nor creates the experiment.
    let fit_elsewhere = with_data().experiment_name("new").loss("MagicLoss");
    assert!(fit_elsewhere.await.unwrap_err().is_invalid());
    assert!(
        finetuner
            .get_experiment("new")
            .await
            .unwrap_err()
            .is_not_found()
    );

    let run = fit().await.unwrap();
    let error = with_data().await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert_says(&error, "`mine`");
    assert_eq!(finetuner.list_documents().await.unwrap().len(), before);
    run.cancel().await.unwrap();
}

#[tokio::test]
async fn data_is_deleted_if_its_run_is_refused_because_of_it() {
    let (_server, finetuner) = backend::start().await;
    let mut data = pairs("train", 4);
    data.push(Document::new().with_chunk(Document::text("no image").with_modality("text")));
    let fit = finetuner.fit("clip-small", data).loss("CLIPLoss");
    assert!(fit.await.unwrap_err().is_invalid());
    assert_nothing_is_kept(&finetuner).await;
}

#[tokio::test]
async fn a_run_never_replaces_the_data_of_another() {
    let (server, finetuner) = accept_all().await;
    for (experiment, run) in [("a-b", "c"), ("a", "b-c"), ("a", "b-c")] {
        let data = pairs("train", 2);
        let fit = finetuner.fit("clip-base-en", data).loss("CLIPLoss");
        fit.experiment_name(experiment).run_name(run).await.unwrap();
    }
    let requests = server.received_requests().await.unwrap();
    let mut names: Vec<String> = requests
        .iter()
        .filter(|request| request.url.path() == "/v2/rpc/artifact.upload")
        .map(|request| String::from_utf8_lossy(field(&request.body, "name")).into_owned())
        .collect();
    assert_eq!(names.len(), 3);
    assert!(
        names[0].starts_with("finetuner-dastorage-a-b-c-train-"),
        "{names:?}"
    );
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}");
    // Names of any length are cut.
    let long = "ü".repeat(120);
    let fit = finetuner
        .fit("clip-base-en", pairs("train", 2))
        .loss("CLIPLoss");
    fit.experiment_name(&long).run_name(&long).await.unwrap();
}

#[tokio::test]
async fn a_backend_without_run_checks_is_asked_once() {
    for status in [404, 405, 500, 501] {
        let (server, finetuner) = accept_all().await;
        let no = ResponseTemplate::new(status).set_body_json(json!({"detail": "no such route"}));
        on(&server, "POST", "/api/v1/experiments/default/check", no).await;
        finetuner
            .fit("clip-base-en", pairs("train", 2))
            .await
            .unwrap();
        assert_eq!(count(&server, "artifact.upload").await, 1, "{status}");
        finetuner.fit("clip-base-en", "by-name").await.unwrap();
        assert_eq!(count(&server, "/runs").await, 2, "{status}");
    }
}
