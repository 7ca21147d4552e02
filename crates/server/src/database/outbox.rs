//! Queue of outgoing messages: which are due, and the outcomes of attempts.

use rusqlite::params;
use serde_json::json;

use super::{
    Database,
    messages::CONFIRM,
    sql::{NOW, now_ms},
};

/// A due message. Without `Debug`, because it contains a secret.
pub(crate) struct Due {
    pub(crate) id: i64,
    pub(crate) name: String,
    /// Number of attempts so far.
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
    /// `None` if the user has turned e-mail off, was disabled or has left the
    /// project.
    Mail { address: Option<String> },
}

impl Receiver {
    /// Returns the key under which the receiver counts as busy. All e-mail shares
    /// one, because the SMTP server receives it.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Webhook { id, .. } => id,
            Self::Mail { .. } => "",
        }
    }
}

/// Outcome of an attempt to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Sent,
    /// Another attempt, at this time in milliseconds since 1970.
    At(i64),
    GivenUp,
}

impl Database {
    /// Returns up to `most` due messages: the oldest of each receiver, except
    /// receivers whose key is in `busy`.
    pub(crate) async fn due_messages(
        &self,
        busy: Vec<String>,
        most: usize,
    ) -> rusqlite::Result<Vec<Due>> {
        self.read(move |db| {
            // SQLite takes the other columns from the row with the minimum.
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

    /// Returns the time when the next message is due, in milliseconds since 1970,
    /// ignoring receivers in `busy`.
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

    /// Records the start of an attempt, after `attempts` earlier ones. If its
    /// outcome is never recorded, the next attempt starts at `due_at`. Returns
    /// false if the message was requeued or given up in the meantime.
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

    /// Records the outcome of an attempt, given by its number. Does nothing if
    /// the message was requeued in the meantime.
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
    use serde_json::Value;

    use super::*;
    use crate::database::{End, Identity, NewWebhook, RunEvent, in_memory, with_run};

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
    async fn one_test_of_a_webhook_waits_at_a_time() {
        let db = in_memory();
        with_run(&db, "r").await;
        let user = db.identity_of("u").await;
        let id = hook(&db, &user, &RunEvent::ALL).await;
        let test = async || {
            let made = db.test_webhook(user.clone(), id.clone()).await;
            made.unwrap().unwrap().name
        };
        let first = test().await;
        assert_eq!(test().await, first);
        let message = due(&db, &[]).await.remove(0);
        // It waits for its next attempt, too.
        let later = now_ms() + 60_000;
        assert!(db.begin_attempt(message.id, 0, later).await.unwrap());
        assert_eq!(test().await, first);
        let noted = db.note_attempt(message.id, 1, Next::Sent, "o".into());
        noted.await.unwrap();
        assert_ne!(test().await, first);
        let all = db.deliveries(user.namespace.clone(), id.clone(), 9).await;
        assert_eq!(all.unwrap().len(), 2);
    }
}
