//! Events of runs: numbered, ordered and immutable.

use finetuner_protocol::{Event, FoundDocuments as Found, Level, Stage};
use rusqlite::{Connection, Row, params};

use super::{Database, sql::now_ms};

/// An event with its number in the run.
#[derive(Clone, Debug)]
pub(crate) struct StoredEvent {
    pub(crate) number: u64,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) event: Event,
}

/// Appends events to a run.
pub(super) fn append(db: &Connection, run_id: i64, events: &[Event]) -> rusqlite::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let next: i64 = db.query_row(
        "SELECT coalesce(max(number) + 1, 0) FROM events WHERE run_id = ?1",
        [run_id],
        |row| row.get(0),
    )?;
    let mut insert = db
        .prepare_cached("INSERT INTO events (run_id, number, at, event) VALUES (?1, ?2, ?3, ?4)")?;
    let now = now_ms();
    for (number, event) in (next..).zip(events) {
        let text = serde_json::to_string(event)
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        insert.execute(params![run_id, number, now, text])?;
    }
    Ok(())
}

/// Appends a line to a run's log.
pub(super) fn log(
    db: &Connection,
    run_id: i64,
    level: Level,
    message: String,
) -> rusqlite::Result<()> {
    append(db, run_id, &[Event::Log { level, message }])
}

impl Database {
    /// Returns up to `limit` events from number `first` on, of some kinds or of
    /// all.
    pub(crate) async fn events(
        &self,
        run_id: i64,
        kinds: Option<&'static [&'static str]>,
        first: u64,
        limit: usize,
    ) -> rusqlite::Result<Vec<StoredEvent>> {
        // SQLite's integers are signed.
        let first = i64::try_from(first).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |db| {
            // The kinds are constants, so the SQL is safe. For one kind the index is
            // forced: otherwise a few log lines would be searched among very many
            // steps.
            let (index, wanted) = match kinds {
                Some([kind]) => ("INDEXED BY events_by_kind", format!("AND kind = '{kind}'")),
                Some(kinds) => ("", format!("AND kind IN ('{}')", kinds.join("', '"))),
                None => ("", String::new()),
            };
            let mut query = db.prepare_cached(&format!(
                "SELECT number, at, event FROM events {index}
                 WHERE run_id = ?1 AND number >= ?2 {wanted}
                 ORDER BY number LIMIT ?3"
            ))?;
            let rows = query.query_map(params![run_id, first, limit], stored)?;
            rows.collect()
        })
        .await
    }

    /// Returns about `wanted` steps of a run, spread evenly, with the first and the
    /// last.
    pub(crate) async fn sampled_steps(
        &self,
        run_id: i64,
        wanted: u64,
    ) -> rusqlite::Result<Vec<StoredEvent>> {
        let numbers = self
            .read(move |db| {
                db.prepare_cached(
                    "SELECT number FROM (
                         SELECT number, row_number() OVER (ORDER BY number) AS place,
                             count(*) OVER () AS total
                         FROM events WHERE run_id = ?1 AND kind = 'step')
                     WHERE (place - 1) % (total / ?2 + 1) = 0 OR place = total",
                )?
                .query_map(params![run_id, wanted.max(1)], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()
            })
            .await?;
        self.by_numbers(run_id, numbers).await
    }

    /// Returns the ends of a run's epochs.
    pub(crate) async fn epochs(&self, run_id: i64) -> rusqlite::Result<Vec<StoredEvent>> {
        self.events(run_id, Some(&["epoch"]), 0, usize::MAX).await
    }

    /// Returns up to `limit` warnings of a run's log.
    pub(crate) async fn warnings(&self, run_id: i64, limit: u64) -> rusqlite::Result<Vec<String>> {
        self.lines(run_id, "event ->> '$.level' = 'WARNING'", limit)
            .await
    }

    /// Returns up to `limit` lines of a run's log that begin with `start`, a
    /// constant.
    pub(crate) async fn lines_that_begin(
        &self,
        run_id: i64,
        start: &'static str,
        limit: u64,
    ) -> rusqlite::Result<Vec<String>> {
        let start = start.replace('\'', "''");
        let condition = format!("instr(event ->> '$.message', '{start}') = 1");
        self.lines(run_id, &condition, limit).await
    }

    async fn lines(
        &self,
        run_id: i64,
        condition: &str,
        limit: u64,
    ) -> rusqlite::Result<Vec<String>> {
        let query = format!(
            "SELECT event ->> '$.message' FROM events INDEXED BY events_by_kind
             WHERE run_id = ?1 AND kind = 'log' AND {condition} ORDER BY number LIMIT ?2"
        );
        self.read(move |db| {
            db.prepare_cached(&query)?
                .query_map(params![run_id, limit], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Returns the positions of the example queries' matches before and after
    /// training.
    pub(crate) async fn found_documents(
        &self,
        run_id: i64,
    ) -> rusqlite::Result<[Option<Found>; 2]> {
        let (mut before, mut after) = (None, None);
        let examples = self.events(run_id, Some(&["examples"]), 0, usize::MAX);
        for stored in examples.await? {
            if let Event::Examples { stage, found, .. } = stored.event {
                let all: &mut Option<Found> = match stage {
                    Stage::Before => &mut before,
                    Stage::After => &mut after,
                };
                // Many examples are split into several events.
                match (all, found) {
                    (Some(all), Some(found)) if all.data == found.data => {
                        all.places.extend(found.places);
                        all.hits.extend(found.hits);
                        all.distances.extend(found.distances);
                    }
                    (all, found) => *all = found.or(all.take()),
                }
            }
        }
        Ok([before, after])
    }

    async fn by_numbers(
        &self,
        run_id: i64,
        numbers: Vec<i64>,
    ) -> rusqlite::Result<Vec<StoredEvent>> {
        self.read(move |db| {
            let mut query = db.prepare_cached(
                "SELECT number, at, event FROM events WHERE run_id = ?1 AND number = ?2",
            )?;
            numbers
                .into_iter()
                .map(|number| query.query_row(params![run_id, number], stored))
                .collect()
        })
        .await
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    let text: String = row.get(2)?;
    let event = serde_json::from_str(&text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, e.into())
    })?;
    Ok(StoredEvent {
        number: row.get(0)?,
        at: row.get(1)?,
        event,
    })
}

#[cfg(test)]
mod tests {
    use finetuner_protocol::Level;

    use super::*;
    use crate::database::{in_memory, with_run};

    #[tokio::test]
    async fn sampled_steps_include_the_first_and_the_last() {
        let db = in_memory();
        let run = with_run(&db, "r").await;
        let step = |step| Event::Step {
            epoch: 1,
            epochs: 1,
            step,
            steps: 1000,
            loss: 1.0,
            mean_loss: 1.0,
            learning_rate: 0.1,
        };
        let line = Event::Log {
            level: Level::Info,
            message: "x".into(),
        };
        let steps: Vec<Event> = (1..=1000).map(step).collect();
        let all = [vec![line], steps].concat();
        db.write(move |db| append(db, run, &all)).await.unwrap();
        for wanted in [1, 10, 999, 5000] {
            let sample = db.sampled_steps(run, wanted).await.unwrap();
            let numbers: Vec<u64> = sample.iter().map(|s| s.number).collect();
            assert_eq!((numbers[0], numbers[numbers.len() - 1]), (1, 1000));
            assert!(
                numbers.len() as u64 <= wanted + 2,
                "{wanted}: {}",
                numbers.len()
            );
        }
        assert_eq!(db.sampled_steps(run, 5000).await.unwrap().len(), 1000);
        assert_eq!(db.found_documents(run).await.unwrap(), [None, None]);
        let warning = Event::Log {
            level: Level::Warning,
            message: "it's hot".into(),
        };
        db.write(move |db| append(db, run, &[warning]))
            .await
            .unwrap();
        assert_eq!(db.warnings(run, 9).await.unwrap(), ["it's hot"]);
        let lines = db.lines_that_begin(run, "it's", 9).await.unwrap();
        assert_eq!(lines, ["it's hot"]);
        assert_eq!(db.lines_that_begin(run, "x", 0).await.unwrap().len(), 0);
    }
}
