//! Delivery of a run's events to the server: limited in size, in batches, and
//! in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use finetuner_protocol::{
    Event, Level,
    worker::{EventBatch, Outcome, WorkerOrders},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Place,
    calls::{CallError, Server},
    examples::{cut, split_examples},
    limits::Limits,
    signals::Signals,
};
use crate::local_paths::LocalPaths;

/// Maximum number of events in one report.
const BATCH: usize = 256;
/// Maximum size of one report's events, in bytes. The server accepts 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// Maximum size of a line of the log, in bytes.
const LINE_BYTES: usize = 64 << 10;
/// Time for a run that exceeded a limit to stop at its next step.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// An item of the reporting task's queue.
pub(super) enum Item {
    Event(Event),
    /// Answered when the server has all events before this item.
    Delivered(oneshot::Sender<()>),
}

/// Sends events in order until the run has ended. Sends at least one report
/// every `heartbeat`, as a sign of life. Lines of the log are sent without `paths`.
pub(super) async fn report(
    server: Server,
    mut items: mpsc::UnboundedReceiver<Item>,
    signals: Arc<Signals>,
    limits: Limits,
    heartbeat: Duration,
    place: Place,
    paths: LocalPaths,
) -> Result<(), String> {
    let server = server.trying_every(heartbeat);
    let mut first = 0;
    let mut over_since: Option<Instant> = None;
    loop {
        let mut new = Vec::new();
        let waited = tokio::time::timeout(heartbeat, items.recv_many(&mut new, BATCH)).await;
        if waited == Ok(0) {
            return Ok(());
        }
        let (mut bounded, mut waiting) = (Vec::new(), Vec::new());
        for item in new {
            match item {
                Item::Event(mut event) => {
                    if let Event::Log { message, .. } = &mut event {
                        *message = paths.hide(message);
                    }
                    bounded.extend(split_long(event));
                }
                Item::Delivered(told) => waiting.push(told),
            }
        }
        for batch in batches(bounded) {
            let count = batch.len() as u64;
            match send(&server, first, batch).await {
                Ok(WorkerOrders::GoOn) => {}
                Ok(WorkerOrders::Pause) => signals.pause(),
                Err(error) => {
                    if matches!(error, CallError::Ended) {
                        signals.end();
                    }
                    signals.stop();
                    return Err(error.to_string());
                }
            }
            first += count;
        }
        for told in waiting {
            // The receiver is gone if the run has ended.
            let _ = told.send(());
        }
        if let Some(reason) = limits.passed() {
            let since = *over_since.get_or_insert_with(Instant::now);
            signals.fail(reason.clone());
            // A worker in a thread can only wait for the next step.
            if place == Place::Process && since.elapsed() > STOPS_WITHIN {
                let outcome = Outcome::Failed { reason };
                let told = server.send(|| server.post("outcome").json(&outcome)).await;
                if let Err(error) = told {
                    tracing::error!("The run's outcome can't be reported: {error}");
                }
                // Nothing else removes the files after the exit.
                let _ = std::fs::remove_dir_all(limits.folder());
                std::process::exit(1);
            }
        }
    }
}

/// Sends a batch. An event that the server refuses is replaced by a line of the
/// log with the reason.
async fn send(server: &Server, first: u64, events: Vec<Event>) -> Result<WorkerOrders, CallError> {
    match post(server, first, &events).await {
        Err(CallError::Refused(..)) => {}
        other => return other,
    }
    let mut orders = WorkerOrders::GoOn;
    for (number, event) in (first..).zip(events) {
        let sent = match post(server, number, std::slice::from_ref(&event)).await {
            Err(refused @ CallError::Refused(..)) => {
                let message = format!("An event (`{}`) was left out: {refused}", kind(&event));
                let line = Event::Log {
                    level: Level::Warning,
                    message,
                };
                post(server, number, &[line]).await
            }
            other => other,
        };
        if sent? == WorkerOrders::Pause {
            orders = WorkerOrders::Pause;
        }
    }
    Ok(orders)
}

async fn post(server: &Server, first: u64, events: &[Event]) -> Result<WorkerOrders, CallError> {
    let batch = EventBatch {
        first,
        events: events.to_vec(),
    };
    server.answer(|| server.post("events").json(&batch)).await
}

fn kind(event: &Event) -> String {
    let value = serde_json::to_value(event).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}

fn bytes(event: &Event) -> usize {
    serde_json::to_vec(event).map_or(0, |bytes| bytes.len())
}

/// Splits events into batches within the size limit. Returns one empty batch if
/// there are no events.
fn batches(events: Vec<Event>) -> Vec<Vec<Event>> {
    let mut all = vec![Vec::new()];
    let mut size = 0;
    for event in events {
        let more = bytes(&event);
        if size + more > BATCH_BYTES && size > 0 {
            all.push(Vec::new());
            size = 0;
        }
        size += more;
        if let Some(last) = all.last_mut() {
            last.push(event);
        }
    }
    all
}

/// Splits or cuts an event that is too long.
fn split_long(event: Event) -> Vec<Event> {
    match event {
        Event::Log { level, message } if message.len() > LINE_BYTES => {
            let message = cut(&message, LINE_BYTES);
            vec![Event::Log { level, message }]
        }
        Event::Examples {
            stage,
            examples,
            found,
        } => split_examples(stage, examples, found),
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use finetuner_protocol::{FoundDocuments, Stage};
    use serde_json::Value;

    use super::*;
    use crate::{
        app::App,
        database::{in_memory, with_run},
        http, routes, runs, secret,
        settings::Settings,
        space::Space,
        store::Store,
    };
    use crate::{requests::Authorities, worker::examples::EVENT_BYTES};

    fn examples(queries: usize, matches: usize, length: usize) -> Event {
        let query = |n: usize| format!("query {n:05}");
        let texts = |n: usize| {
            let text = |m: usize| Value::from(format!("{n}-{m} {}", "é".repeat(length / 2)));
            (0..matches).map(text).collect()
        };
        let places = |_| (0..matches as u64).collect();
        let mut found = FoundDocuments::new(
            "train",
            (0..queries).map(|n| (query(n), places(n))).collect(),
        );
        found.hits = (0..queries)
            .map(|n| (query(n), vec![n % 2 == 0; matches]))
            .collect();
        found.distances = (0..queries)
            .map(|n| (query(n), vec![0.5; matches]))
            .collect();
        Event::Examples {
            stage: Stage::After,
            examples: (0..queries).map(|n| (query(n), texts(n))).collect(),
            found: Some(found),
        }
    }

    #[test]
    fn many_examples_are_split_over_events_without_loss() {
        let whole = examples(3000, 20, 200);
        assert!(bytes(&whole) > 8 << 20);
        let parts = split_long(whole.clone());
        assert!(parts.len() > 20 && parts.iter().all(|part| bytes(part) < BATCH_BYTES));
        let Event::Examples {
            examples: expected,
            found: Some(expected_found),
            ..
        } = whole
        else {
            unreachable!()
        };
        let (mut all, mut together) = (BTreeMap::new(), FoundDocuments::default());
        for part in &parts {
            let Event::Examples {
                examples, found, ..
            } = part
            else {
                panic!("{part:?}")
            };
            all.extend(examples.clone());
            let found = found.clone().unwrap();
            together.data = found.data;
            together.places.extend(found.places);
            together.hits.extend(found.hits);
            together.distances.extend(found.distances);
        }
        assert_eq!(all, expected);
        assert_eq!(together, expected_found);
        let batches = batches(parts);
        for batch in batches {
            let size: usize = batch.iter().map(bytes).sum();
            assert!(size <= BATCH_BYTES, "{size}");
        }
    }

    #[test]
    fn long_texts_are_truncated_with_a_log_line() {
        for event in [examples(2, 3, 3 << 20), examples(1, 500_000, 2)] {
            let parts = split_long(event);
            assert!(parts.iter().all(|part| bytes(part) <= 2 * EVENT_BYTES));
            let Some(Event::Log { message, .. }) = parts.last() else {
                panic!("{parts:?}")
            };
            assert!(message.contains("were cut"), "{message}");
        }
        let line = Event::Log {
            level: Level::Info,
            message: "ü".repeat(1 << 20),
        };
        let [Event::Log { message, .. }] = &split_long(line)[..] else {
            unreachable!()
        };
        assert!(message.len() < LINE_BYTES + 100);
        assert!(message.ends_with("bytes are left out)"), "{message}");
    }

    #[test]
    fn short_events_stay_unchanged() {
        let event = examples(2, 2, 10);
        assert_eq!(split_long(event.clone()), [event]);
        let line = Event::Log {
            level: Level::Info,
            message: "x".into(),
        };
        assert_eq!(split_long(line.clone()), [line]);
        assert_eq!(batches(Vec::new()), [Vec::<Event>::new()]);
    }

    /// Starts a server with a waiting run. Returns a client with the token of its
    /// worker.
    async fn server_with_a_run(folder: &std::path::Path) -> (Arc<App>, Server) {
        let database = in_memory();
        with_run(&database, "r").await;
        let store = Store::in_folder(folder).unwrap();
        let space = Space::new(folder.to_owned(), Some(0));
        let app = App::new(
            database,
            store,
            Settings::default(),
            space,
            None,
            [0; 32],
            &crate::secret::new_id(),
        );
        let given = app.database.give_worker(1, secret::hash("t"));
        given.await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let served = http::serve(
            listener,
            None,
            routes::worker_router(Arc::clone(&app)),
            stopped,
        );
        tokio::spawn(async move {
            served.await;
            drop(stop);
        });
        (
            app,
            Server::new(&url, "t".into(), &Authorities::default()).unwrap(),
        )
    }

    #[tokio::test]
    async fn events_before_a_checkpoint_are_delivered_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let (app, server) = server_with_a_run(folder.path()).await;
        let (items, received) = mpsc::unbounded_channel();
        let signals = Arc::new(Signals::default());
        let every = Duration::from_secs(60);
        let reports = report(
            server,
            received,
            signals,
            Limits::none(),
            every,
            Place::Thread,
            LocalPaths::of([]),
        );
        let reports = tokio::spawn(reports);
        for n in 0..2 * BATCH {
            let level = Level::Info;
            let message = format!("line {n}");
            items
                .send(Item::Event(Event::Log { level, message }))
                .unwrap();
        }
        let (told, delivered) = oneshot::channel();
        items.send(Item::Delivered(told)).unwrap();
        delivered.await.unwrap();
        let log = runs::log_text(&app, 1).await.unwrap();
        assert_eq!(log.lines().count(), 2 * BATCH);
        drop(items);
        reports.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn refused_events_are_logged_and_the_others_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let (app, server) = server_with_a_run(folder.path()).await;
        let line = |text: &str| Event::Log {
            level: Level::Info,
            message: text.into(),
        };
        // Longer than any event of the engine, and not cut by the worker.
        let refused = Event::Evaluation {
            stage: Stage::After,
            metrics: BTreeMap::from([("x".repeat(5 << 20), 0.5)]),
        };
        let (events, received) = mpsc::unbounded_channel();
        for event in [
            line("/none/run/x is first"),
            refused,
            line("last"),
            examples(3000, 20, 200),
        ] {
            events.send(Item::Event(event)).unwrap();
        }
        drop(events);
        let signals = Arc::new(Signals::default());
        let limits = Limits::none();
        let every = Duration::from_secs(1);
        let paths = LocalPaths::of(["/none/run".into()]);
        report(
            server,
            received,
            signals,
            limits,
            every,
            Place::Thread,
            paths,
        )
        .await
        .unwrap();
        let log = runs::log_text(&app, 1).await.unwrap();
        let said: Vec<&str> = log.lines().collect();
        assert_eq!(said.len(), 3, "{log}");
        assert!(said[0].ends_with(" x is first"), "{log}");
        assert!(said[2].ends_with("last"));
        assert!(
            said[1].contains("An event (`evaluation`) was left out"),
            "{log}"
        );
        assert!(said[1].contains("413"), "{log}");
        let all = runs::examples_of(&app, 1).await.unwrap();
        assert_eq!(all.after.len(), 3000);
        let [_, found] = app.database.found_documents(1).await.unwrap();
        assert_eq!(found.unwrap().places.len(), 3000);
    }
}
