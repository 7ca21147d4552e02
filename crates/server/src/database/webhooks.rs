//! Webhooks: addresses that the server calls when something happens to a run.

use rusqlite::{OptionalExtension, Row, params};
use serde_json::json;

use super::{
    Database, Identity, Role, RunEvent,
    messages::{self, MESSAGE, MessageRow, message},
    sql::{NOW, now_ms},
};
use crate::secret;

/// Event of a test message.
const TEST: &str = "webhook.test";
/// A webhook without its secret.
#[derive(Clone, Debug)]
pub(crate) struct WebhookRow {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) events: Vec<RunEvent>,
    pub(crate) created_at: String,
}

/// A webhook to create.
pub(crate) struct NewWebhook {
    pub(crate) url: String,
    pub(crate) events: Vec<RunEvent>,
    pub(crate) secret: Vec<u8>,
}

impl WebhookRow {
    /// Returns the address as a user may see it: complete only for owners, since
    /// it may contain a key.
    pub(crate) fn shown(&self, to_owner: bool) -> String {
        let url = url::Url::parse(&self.url).ok().filter(|_| !to_owner);
        match url {
            Some(url) => format!(
                "{}://{}/…",
                url.scheme(),
                url.host_str().unwrap_or_default()
            ),
            None if to_owner => self.url.clone(),
            None => "…".to_owned(),
        }
    }

    /// Returns id and host, for the audit log. The rest of the address may
    /// contain a key.
    fn label(&self) -> String {
        let url = url::Url::parse(&self.url).ok();
        let host = url.as_ref().and_then(url::Url::host_str);
        format!("{} {}", self.id, host.unwrap_or_default())
    }
}

const COLUMNS: &str = "id, url, events, created_at";

fn webhook(row: &Row<'_>) -> rusqlite::Result<WebhookRow> {
    Ok(WebhookRow {
        id: row.get(0)?,
        url: row.get(1)?,
        events: RunEvent::of_column(row, 2)?,
        created_at: row.get(3)?,
    })
}

impl Database {
    /// Creates a webhook of an owner's project. `None` if the project already has
    /// `most` webhooks.
    pub(crate) async fn add_webhook(
        &self,
        by: Identity,
        new: NewWebhook,
        most: u64,
    ) -> rusqlite::Result<Option<WebhookRow>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Owner)?;
            let made = transaction
                .query_row(
                    &format!(
                        "INSERT INTO webhooks (id, project_id, url, secret, events, created_at)
                         SELECT ?1, ?2, ?3, ?4, ?5, {NOW}
                         WHERE (SELECT count(*) FROM webhooks WHERE project_id = ?2) < ?6
                         RETURNING {COLUMNS}"
                    ),
                    params![
                        secret::new_id(),
                        by.namespace,
                        new.url,
                        new.secret,
                        RunEvent::stored(&new.events),
                        most
                    ],
                    webhook,
                )
                .optional()?;
            if let Some(made) = &made {
                by.note(&transaction, "webhook.create", &made.label())?;
            }
            transaction.commit()?;
            Ok(made)
        })
        .await
    }

    /// Returns a project's webhooks, oldest first.
    pub(crate) async fn webhooks(&self, project_id: String) -> rusqlite::Result<Vec<WebhookRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM webhooks WHERE project_id = ?1 ORDER BY created_at, rowid"
            ))?
            .query_map([project_id], webhook)?
            .collect()
        })
        .await
    }

    /// Returns the project's webhook with this id.
    pub(crate) async fn webhook(
        &self,
        project_id: String,
        id: String,
    ) -> rusqlite::Result<Option<WebhookRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM webhooks WHERE project_id = ?1 AND id = ?2"
            ))?
            .query_row([project_id, id], webhook)
            .optional()
        })
        .await
    }

    /// Deletes a webhook of an owner's project with its messages. Returns whether
    /// it existed.
    pub(crate) async fn delete_webhook(&self, by: Identity, id: String) -> rusqlite::Result<bool> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Owner)?;
            let deleted = transaction
                .query_row(
                    &format!(
                        "DELETE FROM webhooks WHERE project_id = ?1 AND id = ?2
                         RETURNING {COLUMNS}"
                    ),
                    [&by.namespace, &id],
                    webhook,
                )
                .optional()?;
            if let Some(deleted) = &deleted {
                by.note(&transaction, "webhook.delete", &deleted.label())?;
            }
            transaction.commit()?;
            Ok(deleted.is_some())
        })
        .await
    }

    /// Returns the messages of a project's webhook, newest first.
    pub(crate) async fn deliveries(
        &self,
        project_id: String,
        webhook_id: String,
        most: u64,
    ) -> rusqlite::Result<Vec<MessageRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {MESSAGE} FROM messages WHERE webhook_id = (
                     SELECT id FROM webhooks WHERE project_id = ?1 AND id = ?2)
                 ORDER BY id DESC LIMIT ?3"
            ))?
            .query_map(params![project_id, webhook_id, most], message)?
            .collect()
        })
        .await
    }

    /// Inserts a test message for a webhook of an owner's project. `None` if the
    /// project has no such webhook.
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
            // Only one test message may wait, so that nobody can make the server
            // call an address without a pause.
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
            let body = messages::body(&transaction, TEST, json!({}))?;
            let name = messages::write(&transaction, (Some(&webhook_id), None), TEST, &body)?;
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

    /// Requeues a message of a webhook of an owner's project, with all attempts.
    /// `None` if there is no such message.
    pub(crate) async fn send_again(
        &self,
        by: Identity,
        webhook_id: String,
        name: String,
    ) -> rusqlite::Result<Option<MessageRow>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            by.check(&transaction, Role::Owner)?;
            let again = transaction
                .query_row(
                    &format!(
                        "UPDATE messages SET due_at = ?4, attempts = 0, sent = 0,
                             outcome = ''
                         WHERE name = ?3 AND webhook_id = (
                             SELECT id FROM webhooks WHERE project_id = ?1 AND id = ?2)
                         RETURNING {MESSAGE}"
                    ),
                    params![by.namespace, webhook_id, name, now_ms()],
                    message,
                )
                .optional()?;
            transaction.commit()?;
            Ok(again)
        })
        .await
    }
}
