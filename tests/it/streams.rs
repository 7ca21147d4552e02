//! Streams: in a `select!` they lose no items, and after their end they stay ended.

use std::{future::Future, time::Duration};

use finetuner::{Document, DocumentArray, Finetuner, Run, RunProgress, Update};
use finetuner_test::{TestBackend, TestRun};

/// Returns a client without a socket, for a paused clock.
async fn connected() -> (TestBackend, Finetuner) {
    let backend = TestBackend::start().await.unwrap();
    let builder = Finetuner::builder()
        .registry(backend.url())
        .token(backend.token())
        .http_service(backend.service());
    let finetuner = builder.login().await.unwrap();
    (backend, finetuner)
}

async fn held_run(backend: &TestBackend, finetuner: &Finetuner) -> (Run, TestRun) {
    backend.accept_any_data();
    backend.hold_runs();
    let run = finetuner.fit("minilm-small", "train").run_name("r").await;
    (run.unwrap(), backend.run("r"))
}

/// Waits for a millisecond; `None` if the future is not ready by then.
async fn briefly<F: Future>(next: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_millis(1), next)
        .await
        .ok()
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_log_stream_loses_no_line() {
    let (backend, finetuner) = connected().await;
    let (run, told) = held_run(&backend, &finetuner).await;
    told.start();
    let mut lines = run.stream_logs();
    let mut read = Vec::new();
    let mut waits = 0;
    for number in 0..5 {
        // Dropped before there is anything to read.
        waits += u32::from(briefly(lines.next()).await.is_none());
        told.log(format!("line {number}"));
        let line = loop {
            match briefly(lines.next()).await {
                Some(line) => break line.unwrap().unwrap(),
                None => waits += 1,
            }
        };
        read.push(line);
    }
    told.finish();
    while let Some(line) = lines.next().await {
        read.push(line.unwrap());
    }
    assert!(lines.next().await.is_none());
    for number in 0..5 {
        let end = format!("line {number}");
        let found = read.iter().filter(|line| line.ends_with(&end)).count();
        assert_eq!(found, 1, "{end} of {read:?}");
    }
    assert!(waits > 0, "no wait was given up");
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_watch_loses_no_update() {
    let (backend, finetuner) = connected().await;
    let (run, told) = held_run(&backend, &finetuner).await;
    told.start();
    let mut watch = run.watch();
    let (mut progress, mut waits) = (Vec::new(), 0);
    for step in 1..=4 {
        told.step((1, 1), (step, 4), 0.5);
        loop {
            match briefly(watch.next()).await {
                Some(Some(Ok(Update::Progress(found)))) => {
                    progress.push(found);
                    break;
                }
                Some(update) => drop(update.unwrap().unwrap()),
                None => waits += 1,
            }
        }
    }
    let expected: Vec<RunProgress> = (1..=4).map(|n| RunProgress::new(n, 4, 1, 1)).collect();
    assert_eq!(progress, expected);
    told.finish();
    while let Some(update) = watch.next().await {
        drop(update.unwrap());
    }
    assert!(watch.next().await.is_none());
    assert!(waits > 0, "no wait was given up");
}

#[tokio::test]
async fn cancelling_a_pull_loses_no_document() {
    let (_backend, finetuner) = connected().await;
    let texts = (0..200).map(|n| Document::text(format!("text {n}")));
    let documents: DocumentArray = texts.collect();
    finetuner.push("texts", &documents).await.unwrap();
    let mut stream = finetuner.pull("texts").stream().await.unwrap();
    let mut read = Vec::new();
    loop {
        // A future that is dropped after one poll.
        let next = tokio::select! {
            biased;
            next = stream.next() => Some(next),
            () = std::future::ready(()) => None,
        };
        match next {
            Some(None) => break,
            Some(Some(document)) => read.push(document.unwrap()),
            None => tokio::task::yield_now().await,
        }
    }
    assert!(stream.next().await.is_none());
    assert_eq!(DocumentArray::from(read), documents);
}
