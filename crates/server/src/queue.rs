//! Runs wait here for their turn: oldest first, as many at once as allowed.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{app::App, launcher::Launcher, secret};

/// Launches runs until the server ends. Dropping the future ends the workers
/// that it launched.
pub(crate) async fn serve(app: Arc<App>, launcher: Launcher, at_once: usize) {
    fail_interrupted(&app).await;
    let slots = Arc::new(Semaphore::new(at_once));
    let mut workers = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (run_id, token) = next(&app).await;
        let (app, launcher) = (Arc::clone(&app), launcher.clone());
        workers.spawn(async move {
            let reason = match launcher.work(token).await {
                Ok(()) => "the worker ended without saying how".to_owned(),
                Err(reason) => reason,
            };
            // Has no effect where the worker has reported the outcome.
            if let Err(error) = app.fail(run_id, reason).await {
                tracing::error!("run {run_id} can't be ended: {error:?}");
            }
            drop(slot);
        });
        while workers.try_join_next().is_some() {}
    }
}

/// Waits for a run to launch. Returns it with the token of its worker.
async fn next(app: &App) -> (i64, String) {
    loop {
        // Asked for before looking, so that no submission is missed.
        let submitted = app.submitted.notified();
        let token = secret::new_token();
        match app.database.launch_next(secret::hash(&token)).await {
            Ok(Some(run_id)) => return (run_id, token),
            Ok(None) => {}
            Err(error) => tracing::error!("the queue can't be read: {error}"),
        }
        submitted.await;
    }
}

/// Ends the runs whose workers were lost with an earlier server.
async fn fail_interrupted(app: &App) {
    let interrupted = app.database.launched().await.unwrap_or_default();
    for run_id in interrupted {
        let reason = "the server was stopped while this run was in progress: submit it again";
        if let Err(error) = app.fail(run_id, reason.to_owned()).await {
            tracing::error!("run {run_id} can't be ended: {error:?}");
        }
    }
}
