//! Following a run during an outage of the backend.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use finetuner::{Finetuner, Run, Update};
use finetuner_test::{Fault, TestBackend};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::mock::{ARTIFACT, TOKEN, finished_test_run, raw_server, send, short_pauses};

/// Lets more polls of a run fail than a call has attempts.
fn fail_polls(backend: &TestBackend) {
    for status in [502, 503, 500, 520, 504, 502, 502] {
        backend.fault(Fault::status(status).on("/status"));
    }
}

#[tokio::test]
async fn waiting_tolerates_more_failures_than_a_call() {
    let (backend, _, run) = finished_test_run().await;
    fail_polls(&backend);
    run.wait().await.unwrap();
    assert_eq!(backend.count("/status"), 8);
}

#[tokio::test]
async fn watching_tolerates_more_failures_than_a_call() {
    let (backend, _, run) = finished_test_run().await;
    fail_polls(&backend);
    // An old server has no history.
    backend.fault(Fault::status(404).on("/history").always());
    let mut watch = run.watch();
    let mut seen = Vec::new();
    while let Some(update) = watch.next().await {
        seen.push(update.unwrap());
    }
    assert!(matches!(seen.as_slice(), [Update::Status(status)] if status.status.is_final()));
}

#[tokio::test]
async fn errors_other_than_outages_end_the_wait() {
    let (backend, finetuner, run) = finished_test_run().await;
    finetuner.delete_run("r").await.unwrap();
    assert!(run.wait().await.unwrap_err().is_not_found());
    let error = run.watch().next().await.unwrap().unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(backend.count("/status"), 2);
}

/// Collects log lines.
#[derive(Clone)]
struct Lines(UnboundedSender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Captures the log lines of this thread.
fn logged() -> (tracing::subscriber::DefaultGuard, UnboundedReceiver<String>) {
    let (send, receive) = unbounded_channel();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(Mutex::new(Lines(send)))
        .finish();
    (tracing::subscriber::set_default(subscriber), receive)
}

async fn wait_for(lines: &mut UnboundedReceiver<String>, text: &str) {
    while !lines.recv().await.unwrap().contains(text) {}
}

/// Answers connections at an address with `answer` until it returns `false`, and then
/// frees the address.
fn serve_until(
    listener: TcpListener,
    answer: impl Fn(&str, &mut TcpStream) -> bool + Send + 'static,
) -> std::thread::JoinHandle<TcpListener> {
    std::thread::spawn(move || {
        loop {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 8192];
            let length = connection.read(&mut request).unwrap();
            if length == 0 {
                continue;
            }
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            if !answer(&request, &mut connection) {
                break listener;
            }
        }
    })
}

/// A backend during an outage: each connection ends without an answer. The address
/// stays in use, so no other test can take it.
struct Away {
    back: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<TcpListener>,
}

impl Away {
    fn at(listener: TcpListener) -> Self {
        let back = Arc::new(AtomicBool::new(false));
        let is_back = Arc::clone(&back);
        let thread = std::thread::spawn(move || {
            while let Ok((connection, _)) = listener.accept()
                && !is_back.load(Ordering::SeqCst)
            {
                drop(connection);
            }
            listener
        });
        Self { back, thread }
    }

    fn end(self, address: SocketAddr) -> TcpListener {
        self.back.store(true, Ordering::SeqCst);
        // Wakes the thread if no client does.
        drop(TcpStream::connect(address).unwrap());
        self.thread.join().unwrap()
    }
}

async fn run_at(address: SocketAddr) -> Run {
    let finetuner = Finetuner::builder()
        .registry(format!("http://{address}"))
        .token(TOKEN)
        .retry(short_pauses())
        .connect()
        .await
        .unwrap();
    finetuner.get_run("r").await.unwrap()
}

fn send_run(connection: &mut TcpStream) {
    let run = json!({"name": "r", "config": {}, "artifact_id": ARTIFACT});
    send(connection, &run.to_string());
}

#[tokio::test]
async fn waiting_survives_a_restart_and_logs_it() {
    let (backend, _, run) = finished_test_run().await;
    backend.disconnect().await;
    let (_guard, mut lines) = logged();
    let waiting = tokio::spawn(async move { run.wait().await });
    wait_for(&mut lines, "does not answer").await;
    backend.reconnect().await.unwrap();
    waiting.await.unwrap().unwrap();
    wait_for(&mut lines, "answers again").await;
}

#[tokio::test]
async fn a_log_stream_survives_a_restart_without_gaps_or_repeats() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let first = serve_until(listener, |request, connection| {
        if !request.contains("/logstream") {
            send_run(connection);
            return true;
        }
        let _ = write!(connection, "{HEAD}id: 1\ndata: one\n\nid: 2\ndata: tw");
        false
    });
    let run = run_at(address).await;
    let (_guard, mut lines) = logged();
    let reading = tokio::spawn(async move {
        let mut stream = run.stream_logs();
        let mut lines = Vec::new();
        while let Some(line) = stream.next().await {
            lines.push(line.unwrap());
        }
        lines
    });
    let away = Away::at(
        tokio::task::spawn_blocking(|| first.join().unwrap())
            .await
            .unwrap(),
    );
    wait_for(&mut lines, "does not answer").await;
    let resumed = Arc::new(Mutex::new(String::new()));
    let asked = Arc::clone(&resumed);
    let second = serve_until(away.end(address), move |request, connection| {
        if !request.contains("/logstream") {
            send(connection, r#"{"status": "FINISHED", "details": ""}"#);
            return true;
        }
        asked.lock().unwrap().push_str(request);
        // Whether the client asks for the lines after all events.
        let is_last = request.contains("last-event-id: 2\r\n");
        // An event with two lines, and another one with the same number.
        let events = match is_last {
            true => "",
            false => "id: 2\ndata: two\ndata: three\n\nid: 2\ndata: four\n\n",
        };
        let _ = write!(connection, "{HEAD}{events}");
        !is_last
    });
    assert_eq!(reading.await.unwrap(), ["one", "two", "three", "four"]);
    second.join().unwrap();
    assert!(resumed.lock().unwrap().contains("last-event-id: 1\r\n"));
}

#[tokio::test]
async fn a_silent_log_stream_is_reopened() {
    let url = raw_server(|n, connection| {
        if n == 0 {
            let run = json!({"name": "r", "config": {}, "artifact_id": ARTIFACT}).to_string();
            return send(connection, &run);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let _ = write!(connection, "{head}id: 1\ndata: one\n\n");
        let _ = connection.read(&mut [0; 1]);
    });
    let finetuner = Finetuner::builder()
        .registry(url)
        .token(TOKEN)
        .timeout(Duration::from_secs(1))
        .idle_timeout(Duration::from_secs(1))
        .outage_limit(Duration::from_secs(2))
        .retry(short_pauses())
        .connect()
        .await
        .unwrap();
    let run = finetuner.get_run("r").await.unwrap();
    let mut lines = run.stream_logs();
    assert_eq!(lines.next().await.unwrap().unwrap(), "one");
    // Repeated lines are dropped, and no new ones arrive before the limit.
    let error = lines.next().await.unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(lines.next().await.is_none(), "an error ends the stream");
}
