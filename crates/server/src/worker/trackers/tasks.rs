//! The tasks of a run's trackers: a queue of rows, batches, pauses and the end.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use finetuner_protocol::{Event, Level, Stage};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    requests::Failure,
    rows::{End, Row, now},
    tracker::Tracker,
};

/// Maximum number of rows that wait for a tracker.
const MAX_WAITING: usize = 10_000;
/// Maximum number of rows in one request.
const BATCH: usize = 250;
/// Interval between two requests.
const SEND_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between two heartbeats. A tracker that receives nothing for longer
/// considers the run dead.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Pauses after failures. Each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Time that the end of a run waits for its trackers.
const ENDS_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

enum Note {
    Row(Row),
    End(End),
}

/// The task of one tracker.
struct Task {
    notes: mpsc::Sender<Note>,
    handle: JoinHandle<()>,
    /// Number of rows that did not fit into the queue.
    left_out: Arc<AtomicUsize>,
}

/// The trackers of a run.
#[derive(Default)]
pub(crate) struct Trackers {
    tasks: Vec<Task>,
    /// Number of finished steps.
    done: u64,
}

/// Writes a line of the run's log.
pub(super) type Log = Box<dyn Fn(Level, String) + Send + Sync>;

impl Trackers {
    /// Starts a task for each tracker of a run.
    pub(super) fn start(trackers: Vec<Tracker>, runtime: &Handle, log: impl Fn() -> Log) -> Self {
        let tasks = trackers.into_iter().map(|tracker| {
            let (notes, received) = mpsc::channel(MAX_WAITING);
            let left_out = Arc::<AtomicUsize>::default();
            let following = follow(tracker, received, Arc::clone(&left_out), log());
            Task {
                notes,
                handle: runtime.spawn(following),
                left_out,
            }
        });
        Self {
            tasks: tasks.collect(),
            done: 0,
        }
    }

    /// Queues an event's measurements, without waiting.
    pub(crate) fn event(&mut self, event: &Event) {
        if self.tasks.is_empty() {
            return;
        }
        let named = |name: &str, value: f64| (name.to_owned(), value);
        let (step, values) = match event {
            Event::Step {
                epoch,
                step,
                steps,
                loss,
                learning_rate,
                ..
            } => {
                self.done = (epoch - 1) * steps + step;
                let values = vec![
                    named("step/loss", *loss),
                    named("step/learning_rate", *learning_rate),
                ];
                (self.done, values)
            }
            Event::Epoch {
                train_loss,
                val_loss,
                ..
            } => {
                let mut values = vec![named("epoch/train_loss", *train_loss)];
                values.extend(val_loss.map(|loss| named("epoch/val_loss", loss)));
                (self.done, values)
            }
            Event::Evaluation { stage, metrics } => {
                let values = metrics
                    .iter()
                    .map(|(name, value)| named(&format!("eval/{name}"), *value));
                let step = match stage {
                    Stage::Before => 0,
                    Stage::After => self.done,
                };
                (step, values.collect())
            }
            _ => return,
        };
        let row = Row {
            step,
            time: now(),
            values,
        };
        for task in &self.tasks {
            if task.notes.try_send(Note::Row(row.clone())).is_err() {
                task.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tells the trackers that the run has ended. Waits [`ENDS_WITHIN`] at most.
    pub(crate) async fn end(self, end: End) {
        let last = Instant::now() + ENDS_WITHIN;
        for task in self.tasks {
            let abort = task.handle.abort_handle();
            let told = async {
                let _ = task.notes.send(Note::End(end)).await;
                task.handle.await
            };
            let left = last.saturating_duration_since(Instant::now());
            if timeout(left, told).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// Sends queued rows to a tracker until the run has ended.
async fn follow(
    mut tracker: Tracker,
    mut notes: mpsc::Receiver<Note>,
    left_out: Arc<AtomicUsize>,
    log: Log,
) {
    let name = tracker.name();
    let mut waiting: VecDeque<Row> = VecDeque::new();
    let mut ended = None;
    let mut begun = false;
    let mut pause = FIRST_PAUSE;
    let mut unreachable = false;
    let mut last_sent = Instant::now();
    // Time of the next request.
    let mut next = Instant::now();
    loop {
        let closed = tokio::select! {
            note = notes.recv(), if ended.is_none() => {
                match note {
                    Some(Note::Row(mut row)) => {
                        if tracker.wants(&mut row) {
                            waiting.push_back(row);
                        }
                        if waiting.len() > MAX_WAITING {
                            waiting.pop_front();
                            left_out.fetch_add(1, Ordering::Relaxed);
                        }
                        false
                    }
                    Some(Note::End(end)) => {
                        ended = Some(end);
                        true
                    }
                    None => {
                        ended = Some(End::Left);
                        true
                    }
                }
            }
            () = tokio::time::sleep_until(next) => true,
        };
        if !closed || (unreachable && Instant::now() < next) {
            continue;
        }
        let told = tell(
            &mut tracker,
            &mut waiting,
            &mut begun,
            ended,
            last_sent,
            &log,
        )
        .await;
        match told {
            Ok(sent) => {
                if sent {
                    last_sent = Instant::now();
                }
                if unreachable {
                    log(Level::Info, format!("{name} can be reached again"));
                }
                (unreachable, pause) = (false, FIRST_PAUSE);
                next = Instant::now() + SEND_INTERVAL;
                if ended.is_some() && waiting.is_empty() {
                    break;
                }
            }
            Err(Failure::Passing(reason)) => {
                if !unreachable {
                    let line = format!(
                        "{name} can't be reached: {reason}. Requests are repeated; the training \
                         continues"
                    );
                    log(Level::Warning, line);
                }
                unreachable = true;
                next = Instant::now() + pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(refused) => {
                let line = format!(
                    "{name} refused the run: {}. The artifact holds the measurements under logs",
                    refused.reason()
                );
                log(Level::Warning, line);
                return;
            }
        }
    }
    let left_out = left_out.load(Ordering::Relaxed);
    if left_out > 0 {
        let line = format!(
            "{name} could not be reached for too long: {left_out} rows were left out. The artifact \
             holds all of them under logs"
        );
        log(Level::Warning, line);
    }
}

/// Sends the waiting rows, and the end. Returns whether anything was sent.
async fn tell(
    tracker: &mut Tracker,
    waiting: &mut VecDeque<Row>,
    begun: &mut bool,
    ended: Option<End>,
    last_sent: Instant,
    log: &Log,
) -> Result<bool, Failure> {
    if !*begun {
        let address = tracker.begin().await?;
        *begun = true;
        log(
            Level::Info,
            format!("{} shows the run: {address}", tracker.name()),
        );
    }
    let mut sent = false;
    while !waiting.is_empty() {
        let rows: Vec<Row> = waiting.iter().take(BATCH).cloned().collect();
        tracker.send(&rows).await?;
        waiting.drain(..rows.len());
        sent = true;
    }
    if let Some(end) = ended {
        tracker.end(end).await?;
        return Ok(true);
    }
    if !sent && last_sent.elapsed() > HEARTBEAT {
        tracker.send(&[]).await?;
        sent = true;
    }
    Ok(sent)
}
