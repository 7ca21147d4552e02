//! Delivers the messages queued in the database: webhook calls and e-mail. A
//! failed attempt is repeated after increasing pauses, until the message is given
//! up. A receiver may get a message more than once.

mod failure;
mod hooks;
mod links;
mod mail;
mod webhook;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::task::{Id, JoinSet};

use crate::{
    app::App,
    database::{Due, Next, Receiver, now_ms},
    error::StartError,
    settings::Settings,
};
use failure::Failure;
pub(crate) use hooks::{create, mail_address, run_events};
use mail::Mailer;
use webhook::Webhooks;

/// Pauses before the second and later attempts, in seconds.
const PAUSES: [u64; 7] = [2, 30, 5 * 60, 30 * 60, 2 * 3600, 6 * 3600, 12 * 3600];
/// Maximum pause that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of concurrent deliveries. Each receiver gets one message at a
/// time.
const MAX_CONCURRENT: usize = 256;
/// Maximum time between two queries for due messages.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Pause after a database error.
const ERROR_PAUSE: Duration = Duration::from_secs(5);

/// Delivers messages to webhooks and by e-mail.
pub(crate) struct Sender {
    webhooks: Webhooks,
    mailer: Option<Mailer>,
}

impl Sender {
    /// # Errors
    /// [`StartError`] if a setting is invalid.
    pub(crate) fn new(settings: &Settings) -> Result<Self, StartError> {
        Ok(Self {
            webhooks: Webhooks::new(settings)?,
            mailer: Mailer::new(settings)?,
        })
    }

    /// Sends a message to its receiver. Returns a description of the answer.
    async fn send(&self, message: &Due) -> Result<String, Failure> {
        let Due {
            name, event, body, ..
        } = message;
        match (&message.receiver, &self.mailer) {
            (Receiver::Webhook { url, secret, .. }, _) => {
                self.webhooks.send(url, secret, name, body).await
            }
            (Receiver::Mail { address: None }, _) => Err(Failure {
                is_final: true,
                ..Failure::new("e-mail was turned off")
            }),
            (Receiver::Mail { .. }, None) => {
                Err(Failure::new("the server has no settings for e-mail"))
            }
            (Receiver::Mail { address: Some(to) }, Some(mailer)) => {
                mailer.send(to, name, event, body).await
            }
        }
    }
}

/// Delivers messages until the server stops.
pub(crate) async fn serve(app: Arc<App>, sender: Sender) {
    let sender = Arc::new(sender);
    let mut sending = JoinSet::new();
    // Receivers by the task that sends to them.
    let mut busy: HashMap<Id, String> = HashMap::new();
    loop {
        let pause = match begin(&app, &sender, &mut sending, &mut busy).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!("Can't read the waiting messages: {error}. Trying again in 5 s.");
                ERROR_PAUSE
            }
        };
        tokio::select! {
            Some(done) = sending.join_next_with_id() => {
                let id = match done {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!("Sending a message failed: {error}");
                        error.id()
                    }
                };
                busy.remove(&id);
            }
            () = app.outgoing.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Starts the delivery of due messages. Returns the time until the next message
/// is due.
async fn begin(
    app: &Arc<App>,
    sender: &Arc<Sender>,
    sending: &mut JoinSet<()>,
    busy: &mut HashMap<Id, String>,
) -> rusqlite::Result<Duration> {
    let receivers = |busy: &HashMap<Id, String>| -> Vec<String> {
        let all: HashSet<&String> = busy.values().collect();
        all.into_iter().cloned().collect()
    };
    let room = MAX_CONCURRENT.saturating_sub(sending.len());
    if room == 0 {
        return Ok(MAX_SLEEP);
    }
    for message in app.database.due_messages(receivers(busy), room).await? {
        let receiver = message.receiver.key().to_owned();
        let (app, sender) = (Arc::clone(app), Arc::clone(sender));
        let task = sending.spawn(async move { attempt(&app, &sender, message).await });
        busy.insert(task.id(), receiver);
    }
    let next = app.database.next_due(receivers(busy)).await?;
    let wait = next.map_or(MAX_SLEEP, |due_at| {
        Duration::from_millis(u64::try_from(due_at.saturating_sub(now_ms())).unwrap_or(0))
    });
    Ok(wait.min(MAX_SLEEP))
}

/// Makes one attempt to send a message, and records its outcome.
async fn attempt(app: &App, sender: &Sender, message: Due) {
    // The attempt is recorded first. Nothing is sent if the database can't be
    // written, and a message with a lost outcome is not sent again immediately.
    let pause = PAUSES.get(message.attempts as usize).or(PAUSES.last());
    let pause = pause.map_or(0, |seconds| seconds * 1000);
    let due_at = now_ms().saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
    let begun = app
        .database
        .begin_attempt(message.id, message.attempts, due_at);
    match begun.await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!("Can't start sending message {}: {error}", message.name);
            tokio::time::sleep(ERROR_PAUSE).await;
            return;
        }
    }
    let (next, outcome) = match sender.send(&message).await {
        Ok(outcome) => (Next::Sent, outcome),
        Err(failure) => {
            let next = after(message.attempts, &failure, now_ms(), rand::random());
            (next, failure.reason)
        }
    };
    if next == Next::GivenUp {
        tracing::warn!("Gave up sending message {}: {outcome}", message.name);
    }
    let noted = app
        .database
        .note_attempt(message.id, message.attempts + 1, next, outcome);
    if let Err(error) = noted.await {
        tracing::warn!(
            "Can't store the outcome of message {}, so it may be sent again: {error}",
            message.name
        );
    }
}

/// Returns what follows a failed attempt after `attempts` earlier ones. `random`,
/// from 0 to 1, adds jitter to the pause.
fn after(attempts: u32, failure: &Failure, now: i64, random: f64) -> Next {
    let pause = PAUSES.get(attempts as usize);
    let Some(&pause) = pause.filter(|_| !failure.is_final) else {
        return Next::GivenUp;
    };
    let pause = Duration::from_secs(pause).mul_f64(1.0 + random / 5.0);
    let asked = failure.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
    let pause = i64::try_from(pause.max(asked).as_millis()).unwrap_or(i64::MAX);
    Next::At(now.saturating_add(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_attempts_back_off_and_end() {
        let failure = Failure::new("x");
        let mut last = 0;
        for attempts in 0..7 {
            let Next::At(time) = after(attempts, &failure, 1000, 0.5) else {
                panic!("attempt {attempts} is not the last");
            };
            assert!(time > last);
            last = time;
        }
        assert_eq!(after(0, &failure, 0, 0.0), Next::At(2000));
        assert_eq!(after(7, &failure, 0, 0.0), Next::GivenUp);
        assert_eq!(after(u32::MAX, &failure, 0, 0.0), Next::GivenUp);
        let gone = Failure {
            is_final: true,
            ..failure.clone()
        };
        assert_eq!(after(0, &gone, 0, 0.0), Next::GivenUp);
        let asks = |seconds| Failure {
            retry_after: Some(Duration::from_secs(seconds)),
            ..failure.clone()
        };
        assert_eq!(after(0, &asks(60), 0, 0.0), Next::At(60_000));
        assert_eq!(after(0, &asks(u64::MAX), 0, 0.0), Next::At(86_400_000));
    }
}
