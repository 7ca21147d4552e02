//! Stopping the jobs when the server stops.

use std::{collections::HashSet, time::Duration};

use finetuner_protocol::Level;
use futures_util::{StreamExt, stream};

use super::engine::{Engine, is_over};
use crate::{app::App, database::Release};

/// Time limit for stopped processes to end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// Time limit for the stop requests to all jobs.
const TOLD_WITHIN: Duration = Duration::from_secs(45);
/// Number of jobs that are stopped at the same time.
const TOLD_AT_ONCE: usize = 16;

/// Stops all workers and releases their runs without counting an attempt.
///
/// Jobs whose workers have not called yet stay, unless `everything` is set. The
/// next server finds them by their names.
pub(crate) async fn end_all(app: &App, engine: &Engine, everything: bool) {
    let launched = app.database.launched().await.unwrap_or_else(|error| {
        tracing::error!("The queue can't be read: {error}");
        Vec::new()
    });
    let (ending, staying): (Vec<_>, Vec<_>) = launched
        .into_iter()
        .partition(|run| everything || run.has_worker);
    let mut jobs: HashSet<String> = ending.iter().map(|run| run.job.clone()).collect();
    let listed = engine.list().await.unwrap_or_default();
    jobs.extend(
        listed
            .into_iter()
            .filter(|job| !is_over(&job.1))
            .map(|job| job.0),
    );
    for run in &staying {
        jobs.remove(&run.job);
    }
    // The runs are released first, because telling the jobs may take longer than
    // the server has.
    for run in ending {
        let message = "The server stopped before the run had paused. The run continues from its \
                       last checkpoint when the server starts again";
        let release = Release {
            counts: false,
            worked: app.leases.take_worked(run.held()),
            line: Some((Level::Warning, message.to_owned())),
        };
        let released = app.database.release(run.held(), release, || true).await;
        if let Err(error) = released {
            tracing::error!("Run {} can't be released: {error}", run.id);
        }
        app.changes.notify(run.id);
    }
    let told = stream::iter(&jobs).for_each_concurrent(TOLD_AT_ONCE, |job| engine.stop(job));
    if tokio::time::timeout(TOLD_WITHIN, told).await.is_err() {
        tracing::error!("Some jobs were not told to stop; the next server stops them");
    }
    // Nothing else ends processes of this machine when the server is gone.
    if engine.launcher.outlives_the_server() && !engine.launcher.is_remote() {
        let ended = async {
            while let Ok(listed) = engine.list().await
                && listed
                    .iter()
                    .any(|(job, state)| jobs.contains(job) && !is_over(state))
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(ENDS_WITHIN, ended).await.is_err() {
            tracing::error!("Some workers are still running although they were told to stop");
        }
    }
}
