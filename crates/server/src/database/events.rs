//! What happened in a run.

use finetuner_protocol::Event;
use rusqlite::{Connection, params};

use super::Database;

/// An event with its place in the run.
#[derive(Clone, Debug)]
pub(crate) struct StoredEvent {
    pub(crate) number: u64,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) event: Event,
}

impl Database {
    /// Adds events, the first of which has the given number; those that are
    /// there already are skipped. Without a number they go to the end.
    pub(crate) async fn add_events(
        &self,
        run_id: i64,
        first: Option<u64>,
        events: Vec<Event>,
    ) -> rusqlite::Result<()> {
        self.call(move |db| {
            let transaction = db.transaction()?;
            let next = next_number(&transaction, run_id)?;
            let first = first.unwrap_or(next);
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO events (run_id, number, at, event)
                     VALUES (?1, ?2, CAST(unixepoch('subsec') * 1000 AS INTEGER), ?3)",
                )?;
                // A gap would mean that a batch was lost; its sender sends it first.
                let skip = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
                for (number, event) in (next.max(first)..).zip(events.iter().skip(skip)) {
                    let text = serde_json::to_string(event)
                        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
                    insert.execute(params![run_id, number, text])?;
                }
            }
            transaction.commit()
        })
        .await
    }

    /// The events from number `first` on, at most `limit`.
    pub(crate) async fn events(
        &self,
        run_id: i64,
        first: u64,
        limit: u64,
    ) -> rusqlite::Result<Vec<StoredEvent>> {
        self.select(
            "SELECT number, at, event FROM events WHERE run_id = ?1 AND number >= ?2
             ORDER BY number LIMIT ?3",
            (run_id, first, limit),
        )
        .await
    }

    async fn select(
        &self,
        sql: &'static str,
        (run_id, first, limit): (i64, u64, u64),
    ) -> rusqlite::Result<Vec<StoredEvent>> {
        // SQLite counts with a sign.
        let first = i64::try_from(first).unwrap_or(i64::MAX);
        self.call(move |db| {
            let mut query = db.prepare_cached(sql)?;
            let rows = query.query_map(params![run_id, first, limit], |row| {
                let text: String = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, text))
            })?;
            rows.map(|row| {
                let (number, at, text) = row?;
                let event = serde_json::from_str(&text).map_err(|e| {
                    rusqlite::Error::FromSqlConversionFailure(
                        2,
                        rusqlite::types::Type::Text,
                        e.into(),
                    )
                })?;
                Ok(StoredEvent { number, at, event })
            })
            .collect()
        })
        .await
    }
}

impl Database {
    /// The points of a run's curves behind number `after`, at most `limit`.
    pub(crate) async fn points(
        &self,
        run_id: i64,
        after: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<Vec<StoredEvent>> {
        let first = after.map_or(0, |number| number.saturating_add(1));
        self.select(
            "SELECT number, at, event FROM events WHERE run_id = ?1 AND number >= ?2
             AND event ->> '$.kind' IN ('step', 'epoch', 'evaluation')
             ORDER BY number LIMIT ?3",
            (run_id, first, limit as u64),
        )
        .await
    }
}

fn next_number(db: &Connection, run_id: i64) -> rusqlite::Result<u64> {
    db.query_row(
        "SELECT coalesce(max(number) + 1, 0) FROM events WHERE run_id = ?1",
        [run_id],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::Level;

    use super::*;
    use crate::database::{NewRunRow, in_memory};

    #[tokio::test]
    async fn a_batch_that_comes_twice_is_stored_once_and_in_order() {
        let db = in_memory();
        db.create_token("u".into(), "t".into()).await.unwrap();
        let owner = db
            .call(|db| db.query_row("SELECT id FROM users", [], |row| row.get(0)))
            .await
            .unwrap();
        let experiment = db
            .create_experiment(owner, "e".into(), String::new(), None)
            .await
            .unwrap();
        db.create_run(NewRunRow {
            experiment_id: experiment.id,
            name: "r".into(),
            description: String::new(),
            config: "{}".into(),
            device: "cpu".into(),
            task: "training".into(),
            details: String::new(),
            artifact_id: "a".into(),
            idempotency_key: None,
        })
        .await
        .unwrap();
        let run = db.run(experiment.id, "r".into()).await.unwrap().unwrap();
        let log = |text: &str| Event::Log {
            level: Level::Info,
            message: text.into(),
        };
        let add = |first, events| db.add_events(run.id, first, events);
        add(Some(0), vec![log("0"), log("1")]).await.unwrap();
        add(Some(0), vec![log("0"), log("1")]).await.unwrap();
        add(Some(1), vec![log("1"), log("2")]).await.unwrap();
        add(None, vec![log("3")]).await.unwrap();
        let stored = db.events(run.id, 1, 10).await.unwrap();
        let seen: Vec<_> = stored.into_iter().map(|s| (s.number, s.event)).collect();
        assert_eq!(seen, [(1, log("1")), (2, log("2")), (3, log("3"))]);
    }
}
