//! Messages that leave the server. A message is inserted in the transaction of
//! the change that it describes, and stays until it is sent or given up.

use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};

use super::sql::{NOW, now_ms};
use crate::secret;

/// Maximum number of waiting messages per webhook. Further ones are given up at
/// once.
const MAX_WAITING: u64 = 1000;
/// Number of sent or given-up messages that are kept per webhook.
const KEPT: u64 = 100;

/// Event of a message that confirms an e-mail address.
pub(crate) const CONFIRM: &str = "mail.confirm";

/// A message in a list.
#[derive(Clone, Debug)]
pub(crate) struct MessageRow {
    pub(crate) name: String,
    pub(crate) event: String,
    pub(crate) created_at: String,
    /// Time of the next attempt; `None` once it is sent or given up.
    pub(crate) due_at: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) tried_at: Option<String>,
    pub(crate) sent: bool,
    pub(crate) outcome: String,
}

impl MessageRow {
    /// Returns the state of the message, as the API names it.
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

/// Returns the body of a message about an event.
pub(super) fn body(db: &Connection, event: &str, data: Value) -> rusqlite::Result<String> {
    let now: String = db.query_row(&format!("SELECT {NOW}"), [], |row| row.get(0))?;
    Ok(json!({"type": event, "timestamp": now, "data": data}).to_string())
}

/// Inserts a message for a webhook or a user, exactly one of which is given, and
/// removes the receiver's oldest ones. Returns the message's name.
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
            format!("not sent: {MAX_WAITING} messages are already waiting"),
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
            // Confirmations of the last hour are kept, because the limit of codes
            // counts them.
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

/// Withdraws messages to a user that have not been sent.
pub(super) fn withdraw(db: &Connection, user_id: &str, outcome: &str) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE messages SET due_at = NULL, body = '{}', outcome = ?2
         WHERE user_id = ?1 AND due_at IS NOT NULL",
        [user_id, outcome],
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{NewWebhook, in_memory, with_run};

    #[tokio::test]
    async fn the_number_of_queued_messages_per_webhook_is_limited() {
        let db = in_memory();
        with_run(&db, "r").await;
        let user = db.identity_of("u").await;
        let new = NewWebhook {
            url: "https://example.org/hook".into(),
            events: Vec::new(),
            secret: vec![1],
        };
        let hook = db.add_webhook(user, new, 10).await.unwrap().unwrap().id;
        let fill = db.write(move |db| {
            for _ in 0..MAX_WAITING + KEPT + 5 {
                write(db, (Some(&hook), None), "webhook.test", "{}")?;
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
