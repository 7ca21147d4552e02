//! Messages about runs, to the project's webhooks and to the user who started the
//! run.

use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};

use super::{messages, run_rows::CANCELLED};

/// An event of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEvent {
    /// The first worker has started.
    Started,
    Finished,
    Failed,
    /// Cancelled by a user.
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

    /// Parses a receiver's events from their column. Skips unknown events.
    pub(super) fn of_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Self>> {
        let names: String = row.get(column)?;
        let names: Vec<String> = serde_json::from_str(&names).unwrap_or_default();
        Ok(names.iter().filter_map(|name| Self::parse(name)).collect())
    }

    /// Encodes events for their column.
    pub(super) fn stored(events: &[Self]) -> String {
        let names: Vec<&str> = events.iter().map(|event| event.as_str()).collect();
        json!(names).to_string()
    }

    /// Returns the event of a run that ended with this status and these details.
    pub(super) fn of_end(has_finished: bool, details: &str) -> Self {
        match has_finished {
            true => Self::Finished,
            false if details.starts_with(CANCELLED) => Self::Cancelled,
            false => Self::Failed,
        }
    }
}

/// Inserts a message for each webhook of the project that is subscribed to this
/// event, and for the user who started the run if the user wants e-mail and is
/// still a member.
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
    let body = messages::body(db, event.as_str(), description(db, run_id)?)?;
    for (webhook_id, user_id) in receivers {
        let to = (webhook_id.as_deref(), user_id.as_deref());
        let name = messages::write(db, to, event.as_str(), &body)?;
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

/// Returns a run as the `data` of a message.
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
