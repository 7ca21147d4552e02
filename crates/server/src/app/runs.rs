//! The end of a run: failure, cancellation, deletion.

use std::sync::Arc;

use finetuner_protocol::{Level, Status};

use super::App;
use crate::{
    database::{CANCELLED, End, Identity},
    error::Result,
    tasks::to_the_end,
};

impl App {
    /// Fails a run without an artifact, unless it has ended. With `token`, only
    /// on behalf of the worker that has it. Returns whether the run was ended.
    pub(crate) async fn fail(
        self: &Arc<Self>,
        run_id: i64,
        token: Option<Vec<u8>>,
        reason: String,
    ) -> Result<bool> {
        let end = End {
            status: Status::Failed,
            lines: vec![(Level::Error, reason.clone())],
            details: reason,
        };
        self.end(run_id, token, end).await
    }

    /// Cancels a run on behalf of a user, unless it has ended.
    pub(crate) async fn cancel(self: &Arc<Self>, run_id: i64, by: Identity) -> Result<()> {
        let reason = format!("{CANCELLED}{}", by.name);
        let end = End {
            status: Status::Failed,
            lines: vec![(Level::Error, reason.clone())],
            details: reason,
        };
        let app = Arc::clone(self);
        to_the_end(async move {
            let orphans = app.database.cancel_run(by, run_id, end).await?;
            app.ended(run_id, orphans.unwrap_or_default()).await;
            Ok(())
        })
        .await
    }

    /// Wakes the followers of an ended run, the queue and the outbox, and removes
    /// contents.
    async fn ended(&self, run_id: i64, orphans: Vec<String>) {
        self.changes.notify(run_id);
        self.submitted.notify_one();
        self.outgoing.notify_one();
        self.remove_orphans(orphans).await;
    }

    /// Ends a run, unless it has ended. Returns whether it was ended.
    pub(crate) async fn end(
        self: &Arc<Self>,
        run_id: i64,
        token: Option<Vec<u8>>,
        end: End,
    ) -> Result<bool> {
        let app = Arc::clone(self);
        to_the_end(async move {
            let orphans = app.database.end_run(run_id, token, end).await?;
            let ended = orphans.is_some();
            app.ended(run_id, orphans.unwrap_or_default()).await;
            Ok(ended)
        })
        .await
    }

    /// Deletes a run and its results. Its worker, if there is one, finds its
    /// token invalid and stops.
    pub(crate) async fn delete_run(self: &Arc<Self>, by: Identity, run_id: i64) -> Result<()> {
        let app = Arc::clone(self);
        to_the_end(async move {
            let orphans = app.database.delete_run(by, run_id).await?;
            app.ended(run_id, orphans).await;
            Ok(())
        })
        .await
    }
}
