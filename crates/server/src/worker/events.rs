//! Events on their way to the server: cut to what a request may hold, put into
//! batches, and sent in their order.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use finetuner_protocol::{
    Event, FoundDocuments, Level, Stage,
    worker::{EventBatch, Outcome, WorkerOrders},
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    Place,
    calls::{CallError, Server, not_understood},
    limits::Limits,
    signals::Signals,
};

/// The most events of one report.
const BATCH: usize = 256;
/// The most bytes of one report's events; the server takes 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// The most bytes of one event.
const EVENT_BYTES: usize = 256 << 10;
/// The most bytes of a line of the log, and of a text among examples where all
/// of them are too long.
const LINE_BYTES: usize = 64 << 10;
const EXAMPLE_BYTES: usize = 2 << 10;
/// How long a run that has passed a limit may take to stop at its next step.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// What a run hands over.
pub(super) enum Item {
    Event(Event),
    /// Answered once the server has all events before it.
    Delivered(oneshot::Sender<()>),
}

/// Sends events in their order until the run has ended, and shows at least
/// every `heartbeat` that the worker lives.
pub(super) async fn report(
    server: Server,
    mut items: mpsc::UnboundedReceiver<Item>,
    signals: Arc<Signals>,
    limits: Limits,
    heartbeat: Duration,
    place: Place,
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
                Item::Event(event) => bounded.extend(bound(event)),
                Item::Delivered(told) => waiting.push(told),
            }
        }
        for batch in batches(bounded) {
            let count = batch.len() as u64;
            match send(&server, first, batch).await {
                Ok(WorkerOrders::GoOn) => {}
                Ok(WorkerOrders::Pause) => signals.pause(),
                Err(error) => {
                    signals.stop();
                    return Err(error.to_string());
                }
            }
            first += count;
        }
        for told in waiting {
            // Nobody waits for it any more where the run has ended.
            let _ = told.send(());
        }
        if let Some(reason) = limits.passed() {
            let since = *over_since.get_or_insert_with(Instant::now);
            signals.fail(reason.clone());
            // A thread can only wait for the next step.
            if place == Place::Process && since.elapsed() > STOPS_WITHIN {
                let outcome = Outcome::Failed { reason };
                let told = server.send(|| server.post("outcome").json(&outcome)).await;
                if let Err(error) = told {
                    tracing::error!("The end of the run can't be told: {error}");
                }
                // Nothing else removes them after the exit.
                let _ = std::fs::remove_dir_all(limits.folder());
                std::process::exit(1);
            }
        }
    }
}

/// Sends a batch. An event that the server refuses is replaced by a line of
/// the log that says so.
async fn send(server: &Server, first: u64, events: Vec<Event>) -> Result<WorkerOrders, CallError> {
    match post(server, first, &events).await {
        Err(CallError::Refused(..)) => {}
        other => return other,
    }
    let mut orders = WorkerOrders::GoOn;
    for (number, event) in (first..).zip(events) {
        let sent = match post(server, number, std::slice::from_ref(&event)).await {
            Err(refused @ CallError::Refused(..)) => {
                let message = format!("An event (`{}`) is left out: {refused}", kind(&event));
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
    let answer = server.send(|| server.post("events").json(&batch)).await?;
    answer.json().await.map_err(not_understood)
}

fn kind(event: &Event) -> String {
    let value = serde_json::to_value(event).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}

fn bytes(event: &Event) -> usize {
    serde_json::to_vec(event).map_or(0, |bytes| bytes.len())
}

/// Batches that a request may hold; one without events where there are none.
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

/// An event as one or several that are not too long.
fn bound(event: Event) -> Vec<Event> {
    match event {
        Event::Log { level, message } if message.len() > LINE_BYTES => {
            let message = cut(&message, LINE_BYTES);
            vec![Event::Log { level, message }]
        }
        Event::Examples {
            stage,
            examples,
            found,
        } => Parts::of(stage, found.as_ref().map(|found| found.data.clone())).fill(
            examples,
            found.map(|found| found.places).unwrap_or_default(),
        ),
        other => vec![other],
    }
}

/// The start of a text, and how much is left out.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "{} … ({} bytes are left out)",
        &text[..end],
        text.len() - end
    )
}

/// Examples, spread over several events.
struct Parts {
    stage: Stage,
    /// The name of the data that was searched.
    data: Option<String>,
    done: Vec<Event>,
    examples: BTreeMap<String, Vec<Value>>,
    places: BTreeMap<String, Vec<u64>>,
    size: usize,
    /// Queries whose matches were cut.
    were_cut: usize,
}

impl Parts {
    fn of(stage: Stage, data: Option<String>) -> Self {
        Self {
            stage,
            data,
            done: Vec::new(),
            examples: BTreeMap::new(),
            places: BTreeMap::new(),
            size: 0,
            were_cut: 0,
        }
    }

    fn fill(
        mut self,
        examples: BTreeMap<String, Vec<Value>>,
        mut places: BTreeMap<String, Vec<u64>>,
    ) -> Vec<Event> {
        for (query, mut matches) in examples {
            let mut found = places.remove(&query).unwrap_or_default();
            let mut query = query;
            let mut size = size_of(&query, &matches, &found);
            if size > EVENT_BYTES {
                self.were_cut += 1;
                if query.len() > EXAMPLE_BYTES {
                    query = cut(&query, EXAMPLE_BYTES);
                }
                for text in &mut matches {
                    if let Value::String(text) = text
                        && text.len() > EXAMPLE_BYTES
                    {
                        *text = cut(text, EXAMPLE_BYTES);
                    }
                }
                size = size_of(&query, &matches, &found);
                while size > EVENT_BYTES && !matches.is_empty() {
                    matches.truncate(matches.len() / 2);
                    found.truncate(matches.len());
                    size = size_of(&query, &matches, &found);
                }
            }
            if self.size + size > EVENT_BYTES {
                self.end_part();
            }
            self.size += size;
            if !found.is_empty() {
                self.places.insert(query.clone(), found);
            }
            self.examples.insert(query, matches);
        }
        self.places.append(&mut places);
        if self.size > 0 || !self.places.is_empty() || self.done.is_empty() {
            self.end_part();
        }
        if self.were_cut > 0 {
            let message = format!(
                "The examples of {} queries are too long and were cut",
                self.were_cut
            );
            self.done.push(Event::Log {
                level: Level::Warning,
                message,
            });
        }
        self.done
    }

    fn end_part(&mut self) {
        let places = std::mem::take(&mut self.places);
        let found = self
            .data
            .clone()
            .map(|data| FoundDocuments::new(data, places));
        self.done.push(Event::Examples {
            stage: self.stage,
            examples: std::mem::take(&mut self.examples),
            found,
        });
        self.size = 0;
    }
}

fn size_of(query: &str, matches: &[Value], places: &[u64]) -> usize {
    let size = |value: serde_json::Result<Vec<u8>>| value.map_or(0, |bytes| bytes.len());
    // The query stands with its matches and with their places.
    2 * size(serde_json::to_vec(query))
        + size(serde_json::to_vec(matches))
        + size(serde_json::to_vec(places))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::tls::Authorities;
    use crate::{
        api,
        app::App,
        database::{in_memory, with_run},
        http, secret,
        settings::Settings,
        space::Space,
        store::Store,
    };

    fn examples(queries: usize, matches: usize, length: usize) -> Event {
        let query = |n: usize| format!("query {n:05}");
        let texts = |n: usize| {
            let text = |m: usize| Value::from(format!("{n}-{m} {}", "é".repeat(length / 2)));
            (0..matches).map(text).collect()
        };
        let places = |_| (0..matches as u64).collect();
        Event::Examples {
            stage: Stage::After,
            examples: (0..queries).map(|n| (query(n), texts(n))).collect(),
            found: Some(FoundDocuments::new(
                "train",
                (0..queries).map(|n| (query(n), places(n))).collect(),
            )),
        }
    }

    #[test]
    fn many_examples_are_spread_over_events_and_none_is_lost() {
        let whole = examples(3000, 20, 200);
        assert!(bytes(&whole) > 8 << 20);
        let parts = bound(whole.clone());
        assert!(parts.len() > 20 && parts.iter().all(|part| bytes(part) < BATCH_BYTES));
        let Event::Examples {
            examples: expected,
            found: Some(expected_found),
            ..
        } = whole
        else {
            unreachable!()
        };
        let (mut all, mut places) = (BTreeMap::new(), BTreeMap::new());
        for part in &parts {
            let Event::Examples {
                examples, found, ..
            } = part
            else {
                panic!("{part:?}")
            };
            all.extend(examples.clone());
            places.extend(found.clone().unwrap().places);
        }
        assert_eq!(all, expected);
        assert_eq!(places, expected_found.places);
        let batches = batches(parts);
        for batch in batches {
            let size: usize = batch.iter().map(bytes).sum();
            assert!(size <= BATCH_BYTES, "{size}");
        }
    }

    #[test]
    fn long_texts_are_cut_and_the_log_says_so() {
        for event in [examples(2, 3, 3 << 20), examples(1, 500_000, 2)] {
            let parts = bound(event);
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
        let [Event::Log { message, .. }] = &bound(line)[..] else {
            unreachable!()
        };
        assert!(message.len() < LINE_BYTES + 100);
        assert!(message.ends_with("bytes are left out)"), "{message}");
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let event = examples(2, 2, 10);
        assert_eq!(bound(event.clone()), [event]);
        let line = Event::Log {
            level: Level::Info,
            message: "x".into(),
        };
        assert_eq!(bound(line.clone()), [line]);
        assert_eq!(batches(Vec::new()), [Vec::<Event>::new()]);
    }

    /// A server with a run that waits, and the token of a worker that has it.
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
            api::worker_router(Arc::clone(&app)),
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
    async fn what_comes_before_a_checkpoint_is_delivered_before_it() {
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
        let log = api::log_text(&app, 1).await.unwrap();
        assert_eq!(log.lines().count(), 2 * BATCH);
        drop(items);
        reports.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_the_server_refuses_is_said_in_the_log_and_the_rest_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let (app, server) = server_with_a_run(folder.path()).await;
        let line = |text: &str| Event::Log {
            level: Level::Info,
            message: text.into(),
        };
        // No event of the engine is as long, and is not cut.
        let refused = Event::Evaluation {
            stage: Stage::After,
            metrics: BTreeMap::from([("x".repeat(5 << 20), 0.5)]),
        };
        let (events, received) = mpsc::unbounded_channel();
        for event in [
            line("first"),
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
        report(server, received, signals, limits, every, Place::Thread)
            .await
            .unwrap();
        let log = api::log_text(&app, 1).await.unwrap();
        let said: Vec<&str> = log.lines().collect();
        assert_eq!(said.len(), 3, "{log}");
        assert!(said[0].ends_with("first") && said[2].ends_with("last"));
        assert!(
            said[1].contains("An event (`evaluation`) is left out"),
            "{log}"
        );
        assert!(said[1].contains("413"), "{log}");
        let all = api::examples_of(&app, 1).await.unwrap();
        assert_eq!(all.after.len(), 3000);
        let [_, found] = app.database.found_documents(1).await.unwrap();
        assert_eq!(found.unwrap().places.len(), 3000);
    }
}
