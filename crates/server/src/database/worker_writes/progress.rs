//! Progress of a run, kept in its row and updated by its worker's events.

use std::time::Duration;

use finetuner_protocol::{Event, Stage};
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::database::sql::{millis, now_ms};

/// Progress of a run, as its worker's events report it.
pub(super) struct Progress {
    /// Number of events received from the current launch.
    pub(super) received: u64,
    epoch: u64,
    epochs: u64,
    step: u64,
    steps: u64,
    epochs_done: u64,
    /// Finished steps and the time, in milliseconds since 1970, at the first step
    /// of the current launch.
    pace: Option<(i64, i64)>,
    metrics: Value,
}

impl Progress {
    pub(super) fn read(db: &Connection, run_id: i64) -> rusqlite::Result<Self> {
        db.query_row(
            "SELECT received, epoch, epochs, step, steps, epochs_done, pace_step, pace_at, metrics
             FROM runs WHERE id = ?1",
            [run_id],
            |row| {
                let metrics: String = row.get(8)?;
                Ok(Self {
                    received: row.get(0)?,
                    epoch: row.get(1)?,
                    epochs: row.get(2)?,
                    step: row.get(3)?,
                    steps: row.get(4)?,
                    epochs_done: row.get(5)?,
                    pace: row.get::<_, Option<i64>>(6)?.zip(row.get(7)?),
                    metrics: serde_json::from_str(&metrics).unwrap_or_default(),
                })
            },
        )
    }

    /// Updates the progress. Returns false for a step or an epoch that was
    /// reported before: a run that resumes from a checkpoint repeats them with the
    /// same numbers.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::Step {
                epoch,
                epochs,
                step,
                steps,
                ..
            } => {
                let done = (epoch.saturating_sub(1) * steps + step) as i64;
                self.pace.get_or_insert((done, now_ms()));
                if (*epoch, *step) <= (self.epoch, self.step) {
                    return false;
                }
                (self.epoch, self.epochs) = (*epoch, *epochs);
                (self.step, self.steps) = (*step, *steps);
                true
            }
            Event::Epoch { epoch, .. } => {
                let new = *epoch > self.epochs_done;
                self.epochs_done = self.epochs_done.max(*epoch);
                new
            }
            Event::Evaluation { stage, metrics } => {
                let stage = match stage {
                    Stage::Before => "before",
                    Stage::After => "after",
                };
                for (name, value) in metrics {
                    self.metrics[stage][name] = (*value).into();
                }
                true
            }
            _ => true,
        }
    }

    pub(super) fn write(
        &self,
        db: &Connection,
        run_id: i64,
        worked: Duration,
    ) -> rusqlite::Result<()> {
        let (pace_step, pace_at) = self.pace.unzip();
        db.execute(
            "UPDATE runs SET received = ?2, epoch = ?3, epochs = ?4, step = ?5, steps = ?6,
                 epochs_done = ?7, pace_step = ?8, pace_at = ?9, metrics = ?10, worked = worked + ?11
             WHERE id = ?1",
            params![
                run_id,
                self.received,
                self.epoch,
                self.epochs,
                self.step,
                self.steps,
                self.epochs_done,
                pace_step,
                pace_at,
                self.metrics.to_string(),
                millis(worked)
            ],
        )
        .map(drop)
    }
}
