//! Messages that leave the server. Each is written in the transaction of the
//! change that it tells of, and stays until it was sent or given up.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::{
    CANCELLED, Database, Identity, Role,
    sql::{NOW, now_ms},
};
use crate::secret;

/// Messages of one webhook that may wait. More are given up at once.
const MAX_WAITING: u64 = 1000;
/// Messages of one webhook that are kept after they were sent or given up.
const KEPT: u64 = 100;

/// The event of a message that a user sends to try a webhook.
const TEST: &str = "webhook.test";
/// The event of a message that confirms an address for e-mail.
pub(crate) const CONFIRM: &str = "mail.confirm";

/// Something that happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEvent {
    /// The first worker has begun.
    Started,
    Finished,
    Failed,
    /// Ended by a user.
    Cancelled,
}

impl RunEvent {
    pub(crate) const ALL: [Self; 4] =
        [Self::Started, Self::Finished, Self::Failed, Self::Cancelled];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Started => "run.started",
            Self::Finished => "run.finished",
            Self::Failed => "run.failed",
            Self::Cancelled => "run.cancelled",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }

    /// The event of a run that ends with this status and these details.
    pub(super) fn of_end(has_finished: bool, details: &str) -> Self {
        match has_finished {
            true => Self::Finished,
            false if details.starts_with(CANCELLED) => Self::Cancelled,
            false => Self::Failed,
        }
    }
}

/// A message, as a list shows it.
#[derive(Clone, Debug)]
pub(crate) struct MessageRow {
    pub(crate) name: String,
    pub(crate) event: String,
    pub(crate) created_at: String,
    /// When it is sent next; none once it was sent or given up.
    pub(crate) due_at: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) tried_at: Option<String>,
    pub(crate) sent: bool,
    pub(crate) outcome: String,
}

impl MessageRow {
    /// Returns the state of the message, in the words of the API.
    pub(crate) fn state(&self) -> &'static str {
        match (self.sent, &self.due_at) {
            (true, _) => "delivered",
            (false, Some(_)) => "waiting",
            (false, None) => "failed",
        }
    }
}

pub(super) const MESSAGE: &str = "name, event, created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', due_at / 1000.0, 'unixepoch'), attempts, tried_at, sent,
    outcome";

pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<MessageRow> {
    Ok(MessageRow {
        name: row.get(0)?,
        event: row.get(1)?,
        created_at: row.get(2)?,
        due_at: row.get(3)?,
        attempts: row.get(4)?,
        tried_at: row.get(5)?,
        sent: row.get(6)?,
        outcome: row.get(7)?,
    })
}

/// A message that is due. It has no `Debug`: it holds a secret.
pub(crate) struct Due {
    pub(crate) id: i64,
    pub(crate) name: String,
    /// Attempts so far.
    pub(crate) attempts: u32,
    pub(crate) event: String,
    pub(crate) body: String,
    pub(crate) receiver: Receiver,
}

/// Receiver of a message.
pub(crate) enum Receiver {
    Webhook {
        id: String,
        url: String,
        secret: Vec<u8>,
    },
    /// None if the user has turned e-mail off, was disabled or has left the project.
    Mail { address: Option<String> },
}

impl Receiver {
    /// The key under which the receiver is busy. All e-mail has one: the SMTP server.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Webhook { id, .. } => id,
            Self::Mail { .. } => "",
        }
    }
}

/// Outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Sent,
    /// Another attempt, at this time in milliseconds since 1970.
    At(i64),
    GivenUp,
}

/// Writes down a message for every webhook of the project that wants this event of
/// a run, and for the user who started it, if they want e-mail and are still a member.
pub(super) fn announce(db: &Connection, run_id: i64, event: RunEvent) -> rusqlite::Result<()> {
    let receivers: Vec<(Option<String>, Option<String>)> = db
        .prepare_cached(
            "WITH run AS (
                 SELECT project_id, created_by FROM runs
                     JOIN experiments ON experiments.id = experiment_id
                 WHERE runs.id = ?1)
             SELECT webhooks.id, NULL FROM run
                 JOIN webhooks ON webhooks.project_id = run.project_id
             WHERE EXISTS (SELECT 1 FROM json_each(events) WHERE value = ?2)
             UNION ALL
             SELECT NULL, users.id FROM run
                 JOIN members ON members.project_id = run.project_id
                     AND members.user_id = created_by
                 JOIN users ON users.id = created_by
                 JOIN mail_addresses ON mail_addresses.user_id = created_by
             WHERE NOT disabled AND code IS NULL
                 AND EXISTS (SELECT 1 FROM json_each(events) WHERE value = ?2)",
        )?
        .query_map(params![run_id, event.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<Result<_, _>>()?;
    if receivers.is_empty() {
        return Ok(());
    }
    let body = json!({
        "type": event.as_str(),
        "timestamp": time(db)?,
        "data": description(db, run_id)?,
    })
    .to_string();
    for (webhook_id, user_id) in receivers {
        let to = (webhook_id.as_deref(), user_id.as_deref());
        let name = write(db, to, event.as_str(), &body)?;
        if user_id.is_some() {
            db.execute(
                "UPDATE messages SET project_id = (
                     SELECT project_id FROM runs
                         JOIN experiments ON experiments.id = experiment_id
                     WHERE runs.id = ?2)
                 WHERE name = ?1",
                params![name, run_id],
            )?;
        }
    }
    Ok(())
}

fn time(db: &Connection) -> rusqlite::Result<String> {
    db.query_row(&format!("SELECT {NOW}"), [], |row| row.get(0))
}

/// A run, as receivers of messages read it.
fn description(db: &Connection, run_id: i64) -> rusqlite::Result<Value> {
    db.query_row(
        "SELECT experiments.name, runs.name, runs.status, details, artifact_id, task, metrics,
             runs.created_at,
             strftime('%Y-%m-%dT%H:%M:%fZ', started_at / 1000.0, 'unixepoch'),
             strftime('%Y-%m-%dT%H:%M:%fZ', ended_at / 1000.0, 'unixepoch')
         FROM runs JOIN experiments ON experiments.id = experiment_id WHERE runs.id = ?1",
        [run_id],
        |row| {
            let text = |index: usize| row.get::<_, String>(index);
            let metrics: Value = serde_json::from_str(&text(6)?).unwrap_or_default();
            Ok(json!({
                "experiment": text(0)?,
                "run": text(1)?,
                "status": text(2)?,
                "details": text(3)?,
                "artifact_id": text(4)?,
                "task": text(5)?,
                "metrics": metrics,
                "created_at": text(7)?,
                "started_at": row.get::<_, Option<String>>(8)?,
                "ended_at": row.get::<_, Option<String>>(9)?,
            }))
        },
    )
}

/// Writes down a message for a webhook or for a user, one of which is given, and
/// forgets the receiver's oldest ones. Returns the message's name.
pub(super) fn write(
    db: &Connection,
    (webhook_id, user_id): (Option<&str>, Option<&str>),
    event: &str,
    body: &str,
) -> rusqlite::Result<String> {
    const OWN: &str = "webhook_id IS ?1 AND user_id IS ?2";
    let waiting: u64 = db.query_row(
        &format!("SELECT count(*) FROM messages WHERE {OWN} AND due_at IS NOT NULL"),
        params![webhook_id, user_id],
        |row| row.get(0),
    )?;
    let (due_at, outcome) = match waiting < MAX_WAITING {
        true => (Some(now_ms()), String::new()),
        false => (
            None,
            format!("not sent: {MAX_WAITING} messages wait already"),
        ),
    };
    let name = format!("msg_{}", secret::new_id());
    db.execute(
        &format!(
            "INSERT INTO messages (name, webhook_id, user_id, event, body, created_at, due_at,
                 outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, {NOW}, ?6, ?7)"
        ),
        params![name, webhook_id, user_id, event, body, due_at, outcome],
    )?;
    db.execute(
        &format!(
            // Codes of the last hour are counted.
            "DELETE FROM messages WHERE {OWN} AND due_at IS NULL
             AND NOT (event = '{CONFIRM}'
                 AND created_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour'))
             AND id <= (
                 SELECT id FROM messages WHERE {OWN} AND due_at IS NULL
                 ORDER BY id DESC LIMIT 1 OFFSET ?3)"
        ),
        params![webhook_id, user_id, KEPT],
    )?;
    Ok(name)
}

impl Database {
    /// Writes down a message that tries a webhook of an owner's project. Returns none
    /// if the project has no such webhook.
    pub(crate) async fn test_webhook(
        &self,
        by: Identity,
        webhook_id: String,
    ) -> rusqlite::Result<Option<MessageRow>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Owner)?;
            let found: Option<String> = transaction
                .query_row(
                    "SELECT id FROM webhooks WHERE project_id = ?1 AND id = ?2",
                    [&by.namespace, &webhook_id],
                    |row| row.get(0),
                )
                .optional()?;
            if found.is_none() {
                return Ok(None);
            }
            // One at a time: nobody can make the server call an address without a pause.
            let waiting = transaction
                .query_row(
                    &format!(
                        "SELECT {MESSAGE} FROM messages
                         WHERE webhook_id = ?1 AND event = ?2 AND due_at IS NOT NULL"
                    ),
                    params![webhook_id, TEST],
                    message,
                )
                .optional()?;
            if waiting.is_some() {
                return Ok(waiting);
            }
            let body = json!({"type": TEST, "timestamp": time(&transaction)?, "data": {}});
            let name = write(
                &transaction,
                (Some(&webhook_id), None),
                TEST,
                &body.to_string(),
            )?;
            let row = transaction.query_row(
                &format!("SELECT {MESSAGE} FROM messages WHERE name = ?1"),
                [name],
                message,
            )?;
            transaction.commit()?;
            Ok(Some(row))
        })
        .await
    }

    /// The messages that are due, at most `most`: the oldest of each receiver, unless
    /// the receiver's key is one of `busy`.
    pub(crate) async fn due_messages(
        &self,
        busy: Vec<String>,
        most: usize,
    ) -> rusqlite::Result<Vec<Due>> {
        self.read(move |db| {
            // Columns beside `min` are those of the row that has it.
            db.prepare_cached(
                "SELECT min(due_at), messages.id, messages.name, attempts, event, body, webhook_id, url,
                     secret, address
                 FROM messages LEFT JOIN webhooks ON webhooks.id = webhook_id
                     LEFT JOIN users ON users.id = messages.user_id AND NOT disabled
                         AND (messages.project_id IS NULL OR EXISTS (
                             SELECT 1 FROM members WHERE members.user_id = users.id
                                 AND members.project_id = messages.project_id))
                     LEFT JOIN mail_addresses ON mail_addresses.user_id = users.id
                 WHERE due_at <= ?1
                     AND coalesce(webhook_id, '') NOT IN (SELECT value FROM json_each(?2))
                 GROUP BY webhook_id ORDER BY min(due_at) LIMIT ?3",
            )?
            .query_map(params![now_ms(), json!(busy).to_string(), most], |row| {
                let webhook: Option<String> = row.get(6)?;
                Ok(Due {
                    id: row.get(1)?,
                    name: row.get(2)?,
                    attempts: row.get(3)?,
                    event: row.get(4)?,
                    body: row.get(5)?,
                    receiver: match webhook {
                        Some(id) => Receiver::Webhook {
                            id,
                            url: row.get(7)?,
                            secret: row.get(8)?,
                        },
                        None => Receiver::Mail {
                            address: row.get(9)?,
                        },
                    },
                })
            })?
            .collect()
        })
        .await
    }

    /// When the next message is due, in milliseconds since 1970, except those of
    /// receivers that are `busy`.
    pub(crate) async fn next_due(&self, busy: Vec<String>) -> rusqlite::Result<Option<i64>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT min(due_at) FROM messages
                 WHERE due_at IS NOT NULL
                     AND coalesce(webhook_id, '') NOT IN (SELECT value FROM json_each(?1))",
            )?
            .query_row([json!(busy).to_string()], |row| row.get(0))
        })
        .await
    }

    /// Begins the attempt after `attempts` others. If its outcome is never written
    /// down, the next one begins at `due_at`. Returns false if the message was sent
    /// again or given up meanwhile.
    pub(crate) async fn begin_attempt(
        &self,
        id: i64,
        attempts: u32,
        due_at: i64,
    ) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let begun = db.execute(
                &format!(
                    "UPDATE messages SET attempts = attempts + 1, due_at = ?3, outcome = '',
                         tried_at = {NOW}
                     WHERE id = ?1 AND attempts = ?2 AND due_at IS NOT NULL"
                ),
                params![id, attempts, due_at],
            )?;
            Ok(begun == 1)
        })
        .await
    }

    /// Writes down the outcome of an attempt, by its number. Does nothing if the
    /// message was sent again meanwhile.
    pub(crate) async fn note_attempt(
        &self,
        id: i64,
        attempts: u32,
        next: Next,
        outcome: String,
    ) -> rusqlite::Result<()> {
        let due_at = match next {
            Next::At(time) => Some(time),
            Next::Sent | Next::GivenUp => None,
        };
        self.write(move |db| {
            db.execute(
                &format!(
                    "UPDATE messages SET due_at = ?3, sent = ?4, outcome = ?5, tried_at = {NOW},
                         -- The code of a confirmation is in its receiver's hands now.
                         body = CASE WHEN ?4 AND event = '{CONFIRM}' THEN '{{}}' ELSE body END
                     WHERE id = ?1 AND attempts = ?2 AND due_at IS NOT NULL"
                ),
                params![id, attempts, due_at, next == Next::Sent, outcome],
            )
            .map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::Status;

    use super::*;
    use crate::database::{End, in_memory, runs::tests::with_run, webhooks::NewWebhook};

    async fn hook(db: &Database, owner: &Identity, events: &[RunEvent]) -> String {
        let new = NewWebhook {
            url: "https://example.org/hook".into(),
            events: events.to_vec(),
            secret: vec![1],
        };
        let made = db.add_webhook(owner.clone(), new, 10).await.unwrap();
        made.unwrap().id
    }

    async fn due(db: &Database, busy: &[&str]) -> Vec<Due> {
        let busy = busy.iter().map(|&id| id.to_owned()).collect();
        db.due_messages(busy, 10).await.unwrap()
    }

    fn end(status: Status, details: &str) -> End {
        End {
            status,
            details: details.into(),
            lines: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_end_of_a_run_queues_one_message_per_subscriber() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let (user, eve) = (db.identity_of("u").await, db.identity_of("eve").await);
        let all = hook(&db, &user, &RunEvent::ALL).await;
        let finished = hook(&db, &user, &[RunEvent::Finished]).await;
        let other = hook(&db, &eve, &RunEvent::ALL).await;
        db.give_worker(run, vec![1]).await.unwrap();
        for _ in 0..2 {
            assert!(db.begin(run, vec![1]).await.unwrap());
        }
        let cancelled = end(Status::Failed, "Run cancelled by u");
        db.end_run(run, None, cancelled).await.unwrap().unwrap();
        let again = end(Status::Failed, "again");
        assert!(db.end_run(run, None, again).await.unwrap().is_none());
        let told = async |hook: &str, user: &Identity| {
            let project = user.namespace.clone();
            let rows = db.deliveries(project, hook.into(), 10).await.unwrap();
            rows.into_iter().map(|row| row.event).collect::<Vec<_>>()
        };
        assert_eq!(told(&all, &user).await, ["run.cancelled", "run.started"]);
        assert!(told(&finished, &user).await.is_empty());
        assert!(told(&other, &eve).await.is_empty());
        assert!(
            told(&all, &eve).await.is_empty(),
            "it belongs to another user"
        );
        // One at a time, the oldest first.
        let first = due(&db, &[]).await;
        assert_eq!(first.len(), 1);
        let body: Value = serde_json::from_str(&first[0].body).unwrap();
        assert_eq!(body["type"], "run.started");
        assert_eq!(
            (&body["data"]["run"], &body["data"]["experiment"]),
            (&json!("r"), &json!("e"))
        );
        assert!(due(&db, &[&all]).await.is_empty());
        assert_eq!(db.next_due(vec![all]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_message_stays_queued_until_sent_or_abandoned() {
        let db = in_memory();
        with_run(&db, "r").await;
        let user = db.identity_of("u").await;
        let id = hook(&db, &user, &RunEvent::ALL).await;
        let made = db.test_webhook(user.clone(), id.clone()).await.unwrap();
        let name = made.unwrap().name;
        let later = now_ms() + 60_000;
        let message = due(&db, &[]).await.remove(0);
        let note = async |attempts: u32, next| {
            let begun = db.begin_attempt(message.id, attempts, later).await;
            begun.unwrap();
            let noted = db.note_attempt(message.id, attempts + 1, next, "o".into());
            noted.await.unwrap();
            let rows = db.deliveries(user.namespace.clone(), id.clone(), 1).await;
            rows.unwrap().remove(0)
        };
        // An attempt with an unknown outcome is not repeated at once.
        assert!(db.begin_attempt(message.id, 0, later).await.unwrap());
        assert!(due(&db, &[]).await.is_empty());
        assert!(!db.begin_attempt(message.id, 0, later).await.unwrap());
        db.send_again(user.clone(), id.clone(), name.clone())
            .await
            .unwrap();
        let row = note(0, Next::At(later)).await;
        assert_eq!(
            (row.attempts, row.sent, row.outcome.as_str()),
            (1, false, "o")
        );
        assert!(row.due_at.is_some() && due(&db, &[]).await.is_empty());
        assert_eq!(db.next_due(Vec::new()).await.unwrap(), Some(later));
        let row = note(1, Next::GivenUp).await;
        assert!(row.due_at.is_none() && !row.sent);
        let again = db.send_again(user.clone(), id.clone(), name).await.unwrap();
        assert_eq!(again.unwrap().attempts, 0);
        // The outcome of an earlier attempt changes nothing.
        let row = note(2, Next::GivenUp).await;
        assert!(row.due_at.is_some());
        let row = note(0, Next::Sent).await;
        assert!(row.sent && row.due_at.is_none());
    }

    #[tokio::test]
    async fn the_number_of_queued_messages_per_webhook_is_limited() {
        let db = in_memory();
        with_run(&db, "r").await;
        let user = db.identity_of("u").await;
        let id = hook(&db, &user, &RunEvent::ALL).await;
        let hook = id.clone();
        let fill = db.write(move |db| {
            for _ in 0..MAX_WAITING + KEPT + 5 {
                write(db, (Some(&hook), None), TEST, "{}")?;
            }
            db.query_row(
                "SELECT count(due_at), count(*) - count(due_at) FROM messages",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        });
        assert_eq!(fill.await.unwrap(), (MAX_WAITING, KEPT));
    }
}
