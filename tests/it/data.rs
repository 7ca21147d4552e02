//! Uploads and downloads of data: with the real backend, and with connections that
//! break.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use finetuner::{
    Csv, CsvOptions, Document, DocumentArray, DocumentSource, Error, EvaluationCallback, Finetuner,
    Progress, load_documents, save_documents,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use wiremock::ResponseTemplate;

use crate::{
    backend::{self, pairs},
    mock::{Sequence, TOKEN, accept_all, count, on, short_pauses},
};

/// Returns documents of the size of a small image that can't be compressed.
fn incompressible(count: u64, bytes: usize) -> DocumentSource {
    DocumentSource::new(move || incompressible_documents(count, bytes))
}

fn incompressible_documents(count: u64, bytes: usize) -> impl Iterator<Item = Document> {
    (0..count).map(move |n| {
        let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let noise = (0..bytes).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let blob = [b"\x89PNG".to_vec(), noise.collect()].concat();
        let mut document = Document::new().with_id(format!("{n:032x}"));
        document.content = Some(finetuner::Content::Blob(blob));
        document
    })
}

#[tokio::test]
async fn large_data_is_transferred_in_parts_and_unchanged() {
    let (_server, finetuner) = backend::start().await;
    // More than one part, so more than is sent in one request.
    let (count, bytes) = (100, 400_000);
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let watch = Arc::clone(&seen);
    let summary = finetuner
        .push("large", incompressible(count, bytes))
        .on_progress(move |progress| watch.lock().unwrap().push(progress))
        .await
        .unwrap();
    assert_eq!(summary.length, count);
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!((last.done, last.total), (count, Some(count)));
    assert!(last.bytes > count * bytes as u64);

    let mut stream = finetuner.pull("large").stream().await.unwrap();
    let mut pushed = incompressible_documents(count, bytes);
    let mut number = 0;
    while let Some(document) = stream.next().await {
        assert_eq!(document.unwrap(), pushed.next().unwrap());
        number += 1;
    }
    assert_eq!(number, count);

    let info = finetuner.describe_documents("large").await.unwrap();
    assert_eq!(info.length(), Some(count));
    assert_eq!(info.visibility.as_deref(), Some("private"));
}

#[tokio::test]
async fn data_is_listed_described_replaced_and_deleted() {
    let (server, finetuner) = backend::start().await;
    finetuner.push("a", pairs("train", 3)).await.unwrap();
    finetuner
        .push("b", pairs("train", 2))
        .public(true)
        .await
        .unwrap();
    finetuner.push("a", pairs("train", 4)).await.unwrap();
    let listed = finetuner.list_documents().await.unwrap();
    let names: BTreeSet<_> = listed.iter().filter_map(|d| d.name.as_deref()).collect();
    assert_eq!(names, BTreeSet::from(["a", "b"]));
    assert_eq!(finetuner.pull("a").await.unwrap().len(), 4);

    // Other users read public data as `owner/name`.
    let token = server.create_token("bob", "laptop").await.unwrap();
    let bob = Finetuner::builder().registry(server.url()).token(token);
    let bob = bob.login().await.unwrap();
    let owner = &finetuner.user().unwrap().name;
    assert_eq!(bob.pull(format!("{owner}/b")).await.unwrap().len(), 2);
    let error = bob.pull(format!("{owner}/a")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(bob.delete_documents("b").await.unwrap_err().is_not_found());

    finetuner.delete_documents("a").await.unwrap();
    assert!(finetuner.pull("a").await.unwrap_err().is_not_found());
    let error = finetuner.delete_documents("a").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn unchanged_data_is_not_downloaded_again() {
    let (_server, finetuner) = backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    // The documents, and the number of bytes transferred for them.
    let pull = async || {
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let pull = finetuner.pull("train").cache_folder(folder.path());
        let pull = pull.on_progress(move |p| counted.store(p.bytes, Ordering::SeqCst));
        let documents = pull.await.unwrap();
        (documents, received.load(Ordering::SeqCst))
    };
    let copies = || {
        let files = std::fs::read_dir(folder.path().join("documents")).unwrap();
        files.map(|f| f.unwrap().path()).collect::<Vec<_>>()
    };
    let (first, second) = (pairs("train", 3), pairs("train", 4));
    finetuner.push("train", &first).await.unwrap();
    let whole = first.to_bytes().unwrap().len() as u64;
    assert_eq!(pull().await, (first.clone(), whole));
    assert_eq!(pull().await, (first.clone(), 0));
    // A damaged copy is not used.
    let [copy] = copies().try_into().unwrap();
    std::fs::write(&copy, "damaged").unwrap();
    assert_eq!(pull().await, (first, whole));
    // Changed data is downloaded again and replaces the copy.
    finetuner.push("train", &second).await.unwrap();
    let whole = second.to_bytes().unwrap().len() as u64;
    assert_eq!(pull().await, (second.clone(), whole));
    assert_eq!(pull().await, (second, 0));
    let [new] = copies().try_into().unwrap();
    assert_ne!(new, copy);
}

#[tokio::test]
async fn a_cached_copy_is_valid_for_all_tokens_of_its_user() {
    let (server, finetuner) = backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    finetuner.push("train", pairs("train", 2)).await.unwrap();
    let pull = |finetuner: &Finetuner| finetuner.pull("train").cache_folder(folder.path());
    pull(&finetuner).await.unwrap();
    let token = finetuner.create_token("another").await.unwrap();
    let builder = Finetuner::builder().registry(server.url()).token(token);
    let another = builder.login().await.unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&received);
    let pull = pull(&another).on_progress(move |p| counted.store(p.bytes, Ordering::SeqCst));
    assert_eq!(pull.await.unwrap().len(), 2);
    assert_eq!(received.load(Ordering::SeqCst), 0);
    let copies = std::fs::read_dir(folder.path().join("documents")).unwrap();
    assert_eq!(copies.count(), 1);
}

#[tokio::test]
async fn image_files_are_read_during_the_upload() {
    let (_server, finetuner) = backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for (n, (image, title)) in backend::rows("train", 6).into_iter().enumerate() {
        std::fs::write(folder.path().join(format!("{n}.png")), &image).unwrap();
        lines += &format!("{n}.png,{title}\n");
    }
    std::fs::write(folder.path().join("train.csv"), &lines).unwrap();
    let csv = Csv::path(folder.path().join("train.csv"))
        .options(CsvOptions::new().base_folder(folder.path()));
    finetuner.push("files", csv).await.unwrap();
    let pulled = finetuner.pull("files").await.unwrap();
    let expected = backend::rows("train", 6);
    for (document, (image, title)) in pulled.iter().zip(&expected) {
        assert_eq!(document.chunks[0].as_blob(), Some(image.as_slice()));
        assert_eq!(document.chunks[1].as_text(), Some(title.as_str()));
    }

    // A run can use a CSV file; the same file is uploaded once.
    let csv = || Csv::text(&lines).options(CsvOptions::new().base_folder(folder.path()));
    let run = finetuner
        .fit("clip-small", csv())
        .run_name("from-csv")
        .csv_options(CsvOptions::new())
        .epochs(1)
        .loss("CLIPLoss")
        .callback(EvaluationCallback::new("files").limit(2))
        .await
        .unwrap();
    run.wait().await.unwrap();
    let names = finetuner.list_documents().await.unwrap();
    let names: Vec<_> = names.iter().filter_map(|d| d.name.clone()).collect();
    let pushed = |name: &String| name.starts_with("finetuner-dastorage-default-from-csv-train-");
    assert_eq!(
        names.iter().filter(|name| pushed(name)).count(),
        1,
        "{names:?}"
    );
}

#[tokio::test]
async fn all_invalid_documents_are_reported_before_the_upload() {
    let (server, finetuner) = accept_all().await;
    let mut documents = DocumentArray::new();
    documents.push(Document::text("good"));
    documents.push(Document::new());
    documents.push(Document::uri("no-such-picture.png"));
    let check = |error: Error| {
        let problems = error.problems().unwrap().clone();
        let numbers: Vec<u64> = problems.problems.iter().map(|p| p.number).collect();
        assert_eq!(numbers, [2, 3], "{error}");
        assert!(error.to_string().contains("no-such-picture.png"), "{error}");
    };
    check(finetuner.push("bad", &documents).await.unwrap_err());
    let fit = finetuner.fit("clip-base-en", "t").eval_data(&documents);
    check(fit.await.unwrap_err());
    let error = finetuner
        .push("none", DocumentArray::new())
        .await
        .unwrap_err();
    assert!(error.is_data(), "{error}");
    let error = finetuner.push("a/b", &documents).await.unwrap_err();
    assert!(error.is_invalid() && !error.is_data(), "{error}");
    assert_eq!(count(&server, "artifact.upload").await, 0);
}

#[tokio::test]
async fn files_of_documents_are_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.da");
    let documents = pairs("train", 5);
    save_documents(&path, documents.clone()).await.unwrap();
    assert_eq!(load_documents(&path).await.unwrap(), documents);
    let error = load_documents(folder.path().join("none.da"))
        .await
        .unwrap_err();
    assert!(
        error.is_file() && error.to_string().contains("none.da"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Requests that a raw server received.
type Asked = Arc<Mutex<Vec<String>>>;

/// Starts a server that answers each request with `answer(number, head)`, and closes
/// the connection after each answer.
fn raw(answer: impl Fn(usize, &str, &mut TcpStream) + Send + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for (n, connection) in listener.incoming().enumerate() {
            let Ok(mut connection) = connection else {
                break;
            };
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                match connection.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => head.extend_from_slice(&buffer[..read]),
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            seen.lock().unwrap().push(head.clone());
            answer(n, &head, &mut connection);
        }
    });
    (url, asked)
}

fn json(connection: &mut TcpStream, body: &str) {
    let _ = write!(
        connection,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Answers with the address of a download.
fn address(connection: &mut TcpStream, head: &str) {
    let host = head.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    let data = format!(r#"{{"data": {{"download": "http://{host}/v2/download/key"}}}}"#);
    json(connection, &data);
}

/// Serves a download of which each connection transfers at most a third.
fn breaking_download(honours_ranges: bool) -> (String, Asked, DocumentArray) {
    let documents = pairs("train", 40);
    let bytes = documents.to_bytes().unwrap();
    let tag = hex::encode(Sha256::digest(&bytes));
    let given = AtomicU64::new(0);
    let (url, asked) = raw(move |_, head, connection| {
        if head.contains("getDownloadUrl") {
            return address(connection, head);
        }
        let range = head.lines().find_map(|l| l.strip_prefix("range: bytes="));
        let start: usize = match range {
            Some(range) if honours_ranges => range.trim_end_matches('-').parse().unwrap(),
            _ => 0,
        };
        let status = if start > 0 {
            "206 Partial Content"
        } else {
            "200 OK"
        };
        let rest = &bytes[start..];
        let _ = write!(
            connection,
            "HTTP/1.1 {status}\r\netag: \"{tag}\"\r\ncontent-length: {}\r\n\r\n",
            rest.len()
        );
        let third = bytes.len() / 3 + 1;
        let end = match honours_ranges {
            true => third.min(rest.len()),
            // Each connection advances a little.
            false => {
                let round = given.fetch_add(1, Ordering::SeqCst) as usize + 1;
                (round * third).min(rest.len())
            }
        };
        let _ = connection.write_all(&rest[..end]);
    });
    (url, asked, documents)
}

async fn connect(url: String) -> Finetuner {
    let builder = Finetuner::builder().registry(url).token(TOKEN);
    builder.retry(short_pauses()).connect().await.unwrap()
}

#[tokio::test]
async fn a_broken_download_resumes() {
    let (url, asked, documents) = breaking_download(true);
    let pulled = connect(url).await.pull("x").await.unwrap();
    assert_eq!(pulled, documents);
    let asked = asked.lock().unwrap();
    let ranges: Vec<&str> = asked
        .iter()
        .filter_map(|head| head.lines().find_map(|l| l.strip_prefix("range: ")))
        .collect();
    let third = documents.to_bytes().unwrap().len() / 3 + 1;
    assert_eq!(
        ranges,
        [format!("bytes={third}-"), format!("bytes={}-", 2 * third)]
    );
    assert!(asked.iter().any(|head| head.contains("if-range: \"")));
    assert!(
        asked[1..]
            .iter()
            .all(|head| !head.contains("authorization"))
    );
}

#[tokio::test]
async fn a_download_from_a_server_without_ranges_restarts_without_duplicates() {
    let (url, _, documents) = breaking_download(false);
    let pulled = connect(url).await.pull("x").await.unwrap();
    assert_eq!(pulled, documents);
}

#[tokio::test]
async fn a_lost_part_is_sent_again() {
    // A proxy that cuts connections: the third part gets no answer at first.
    let (server, _) = backend::start().await;
    let target = server.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cuts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&cuts);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (target, counted) = (target.clone(), Arc::clone(&counted));
            std::thread::spawn(move || forward(connection, &target, &counted));
        }
    });
    let finetuner = Finetuner::builder()
        .registry(url)
        .token(server.first_token().unwrap())
        .retry(short_pauses())
        .connect()
        .await
        .unwrap();
    finetuner
        .push("large", incompressible(100, 400_000))
        .await
        .unwrap();
    assert_eq!(
        cuts.load(Ordering::SeqCst),
        2,
        "it was cut off, then sent again"
    );
    assert_eq!(finetuner.pull("large").await.unwrap().len(), 100);
}

/// Forwards bytes in both directions, but cuts the first connection that sends a part
/// after the first two.
fn forward(mut client: TcpStream, target: &str, cuts: &AtomicU64) {
    let Ok(mut server) = TcpStream::connect(target) else {
        return;
    };
    let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(std::net::Shutdown::Both);
    });
    let mut buffer = [0; 65536];
    while let Ok(read) = client.read(&mut buffer) {
        if read == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[..read]);
        let is_third = text.contains("uploadPart") && text.contains("offset=16777216");
        if is_third && cuts.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = client.shutdown(std::net::Shutdown::Both);
            break;
        }
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[tokio::test]
async fn a_download_does_not_continue_with_other_content() {
    for range in ["bytes 10-99/200", "bytes 0-99/100", "10-99/100"] {
        // No tag shows that the content is another.
        let (url, _) = raw(move |_, head, connection| {
            if head.contains("getDownloadUrl") {
                return address(connection, head);
            }
            let (status, size) = match head.contains("range: bytes=10-") {
                true => (format!("206 Partial Content\r\ncontent-range: {range}"), 90),
                false => ("200 OK".to_owned(), 10),
            };
            let length = if size == 10 { 100 } else { size };
            let _ = write!(
                connection,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{}",
                "x".repeat(size)
            );
        });
        let error = connect(url).await.pull("x").await.unwrap_err();
        assert!(error.is_artifact(), "{range}: {error}");
        assert!(error.to_string().contains("changed"), "{range}: {error}");
    }
}

#[tokio::test]
async fn a_list_without_a_total_is_read_to_its_end() {
    let (server, finetuner) = accept_all().await;
    let page = |items: std::ops::Range<u64>| {
        let data: Vec<_> = items.map(|n| json!({"_id": n.to_string()})).collect();
        let body = json!({"code": 200, "status": 20000, "data": data});
        ResponseTemplate::new(200).set_body_json(body)
    };
    let pages = Sequence::new([page(0..100), page(100..200), page(200..203)]);
    on(&server, "POST", "/v2/rpc/artifact.list", pages).await;
    let listed = finetuner.list_documents().await.unwrap();
    let ids: Vec<u64> = listed.iter().map(|info| info.id.parse().unwrap()).collect();
    assert_eq!(ids, (0..203).collect::<Vec<_>>());
    assert_eq!(count(&server, "/v2/rpc/artifact.list").await, 3);
}
