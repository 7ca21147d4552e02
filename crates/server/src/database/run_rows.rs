//! A run as stored in its row: state, progress, and the text of its status.

use std::time::Duration;

use finetuner_protocol::{Annotations, Status};
use rusqlite::Row;

use super::{annotations, sql::now_ms};

/// SQL condition of runs that wait or train.
pub(super) const OPEN: &str = "status IN ('CREATED', 'STARTED')";

/// Start of the status details of a run that a user has cancelled.
pub(crate) const CANCELLED: &str = "Run cancelled by ";

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) id: i64,
    pub(crate) experiment: String,
    pub(crate) project_id: String,
    /// Id of the user who started it; `None` if the user was deleted.
    pub(crate) created_by: Option<String>,
    /// Name of that user.
    pub(crate) starter: Option<String>,
    pub(crate) name: String,
    pub(crate) description: String,
    /// Configuration in JSON, as the client sent it.
    pub(crate) config: String,
    pub(crate) device: String,
    pub(crate) task: String,
    pub(crate) status: String,
    /// Text that was stored with the status; see [`RunRow::details`].
    pub(crate) noted: String,
    pub(crate) created_at: String,
    pub(crate) artifact_id: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) attempts: u32,
    /// Number of the last launch.
    pub(crate) launches: u64,
    /// Whether it has a job.
    pub(crate) has_job: bool,
    /// Whether the job's worker has made its first call.
    pub(crate) has_worker: bool,
    /// Cores and GPUs, if the client requested a number.
    pub(crate) cpus: Option<u32>,
    pub(crate) gpus: Option<u32>,
    /// Milliseconds since 1970, like all times here.
    pub(crate) started_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) progress: Progress,
    /// JSON: metrics by stage and name.
    pub(crate) metrics: String,
    /// JSON: the content of each data set by its name, as of the run's creation.
    pub(crate) data: String,
    pub(crate) annotations: Annotations,
}

/// Training progress of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    pub(crate) epochs: u64,
    pub(crate) step: u64,
    pub(crate) steps: u64,
    /// Number of a step, counted over all epochs, and the time of its end. The
    /// remaining time is estimated from it.
    pace: Option<(u64, i64)>,
}

impl Progress {
    /// Returns the number of finished steps over all epochs.
    fn done(&self) -> u64 {
        self.epoch.saturating_sub(1) * self.steps + self.step
    }

    /// Returns the finished share, from 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        match self.epochs * self.steps {
            0 => 0.0,
            all => self.done() as f64 / all as f64,
        }
    }

    /// Estimates the remaining training time from the pace so far.
    pub(crate) fn left(&self, now: i64) -> Option<Duration> {
        let (step, at) = self.pace?;
        let (done, all) = (self.done(), self.epochs * self.steps);
        let passed = u64::try_from(now - at).ok()?;
        let trained = done.checked_sub(step).filter(|&steps| steps > 0)?;
        let millis = passed as f64 / trained as f64 * all.saturating_sub(done) as f64;
        Some(Duration::from_millis(millis as u64))
    }
}

/// Formats a duration in its largest unit of which it has at least one and a
/// half.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (count, unit) = match seconds {
        s if s < 90.0 => (s, "second"),
        s if s < 90.0 * 60.0 => (s / 60.0, "minute"),
        s if s < 36.0 * 3600.0 => (s / 3600.0, "hour"),
        s => (s / 86400.0, "day"),
    };
    let count = count.round().max(1.0);
    let plural = if count > 1.0 { "s" } else { "" };
    format!("about {count} {unit}{plural}")
}

impl RunRow {
    /// Returns `experiment/run`, which users see and `/v1/embeddings` accepts.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.experiment, self.name)
    }

    /// Returns the run's status.
    pub(crate) fn status(&self) -> Status {
        Status::from(self.status.as_str())
    }

    /// Returns the text for the status: the place in the queue, the progress, or
    /// the reason of the end. `ahead` is the number of runs before this one, and
    /// `waits` says where its job waits.
    pub(crate) fn details(&self, ahead: u64, waits: Option<&str>) -> String {
        let progress = &self.progress;
        let waits = waits.map_or(String::new(), |waits| format!(": {waits}"));
        match self.status() {
            Status::Created if self.has_job => format!("{}{waits}", self.noted),
            Status::Created if ahead == 1 => format!("{}: 1 run is before it", self.noted),
            Status::Created if ahead > 1 => format!("{}: {ahead} runs are before it", self.noted),
            Status::Started if !self.has_worker => {
                // The attempt number increases when the next job is submitted.
                let attempt = self.attempts + u32::from(!self.has_job);
                format!("Run waits for a worker, attempt {attempt}{waits}")
            }
            Status::Started if progress.epoch > 0 => {
                let left = progress.left(now_ms());
                let left = left.map_or(String::new(), |left| format!(", {} left", about(left)));
                format!(
                    "{}: epoch {} of {}, step {} of {}{left}",
                    self.noted, progress.epoch, progress.epochs, progress.step, progress.steps
                )
            }
            _ => self.noted.clone(),
        }
    }
}

pub(super) const SELECT: &str =
    "SELECT runs.id, experiments.name, project_id, runs.name, runs.description,
    config, device, task, status, details, runs.created_at, artifact_id, runs.idempotency_key,
    attempts, worker_token IS NOT NULL, started_at, ended_at, epoch, epochs, step, steps,
    pace_step, pace_at, metrics, data, launches, job IS NOT NULL, cpus, gpus,
    created_by, (SELECT users.name FROM users WHERE users.id = created_by), runs.tags,
    runs.note
    FROM runs JOIN experiments ON experiments.id = experiment_id";

pub(super) fn run(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: row.get(0)?,
        experiment: row.get(1)?,
        project_id: row.get(2)?,
        name: row.get(3)?,
        description: row.get(4)?,
        config: row.get(5)?,
        device: row.get(6)?,
        task: row.get(7)?,
        status: row.get(8)?,
        noted: row.get(9)?,
        created_at: row.get(10)?,
        artifact_id: row.get(11)?,
        idempotency_key: row.get(12)?,
        attempts: row.get(13)?,
        has_worker: row.get(14)?,
        started_at: row.get(15)?,
        ended_at: row.get(16)?,
        progress: Progress {
            epoch: row.get(17)?,
            epochs: row.get(18)?,
            step: row.get(19)?,
            steps: row.get(20)?,
            pace: row.get::<_, Option<u64>>(21)?.zip(row.get(22)?),
        },
        metrics: row.get(23)?,
        data: row.get(24)?,
        launches: row.get(25)?,
        has_job: row.get(26)?,
        cpus: row.get(27)?,
        gpus: row.get(28)?,
        created_by: row.get(29)?,
        starter: row.get(30)?,
        annotations: annotations::annotations(row, 31, 32)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{in_memory, with_run};

    #[tokio::test]
    async fn details_show_the_progress_of_a_run() {
        let db = in_memory();
        let id = with_run(&db, "r").await;
        let mut run = db.run_by_id(id).await.unwrap().unwrap();
        assert_eq!(run.details(0, None), "Run submitted");
        assert_eq!(run.details(1, None), "Run submitted: 1 run is before it");
        assert_eq!(run.details(7, None), "Run submitted: 7 runs are before it");
        run.has_job = true;
        let waits = Some("waiting in Slurm's queue, job 812");
        let told = "Run submitted: waiting in Slurm's queue, job 812";
        assert_eq!(run.details(3, waits), told);
        run.has_job = false;
        run.status = "STARTED".into();
        run.attempts = 1;
        assert_eq!(run.details(0, None), "Run waits for a worker, attempt 2");
        run.has_job = true;
        let waits = Some("waiting in Slurm's queue, job 812");
        let told = "Run waits for a worker, attempt 1: waiting in Slurm's queue, job 812";
        assert_eq!(run.details(3, waits), told);
        run.has_worker = true;
        run.noted = "Run is being executed".into();
        run.progress = Progress {
            epoch: 2,
            epochs: 4,
            step: 5,
            steps: 10,
            pace: Some((5, now_ms() - 10_000)),
        };
        assert_eq!(run.progress.share(), 15.0 / 40.0);
        assert_eq!(
            run.details(0, None),
            "Run is being executed: epoch 2 of 4, step 5 of 10, about 25 seconds left"
        );
        run.status = "FAILED".into();
        run.noted = "why".into();
        assert_eq!(run.details(0, None), "why");
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        for (seconds, text) in [
            (0, "about 1 second"),
            (80, "about 80 seconds"),
            (100, "about 2 minutes"),
            (7200, "about 2 hours"),
            (200_000, "about 2 days"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), text);
        }
    }
}
