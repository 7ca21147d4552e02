//! Ends of runs by a worker, by the server or by a user.

use finetuner_protocol::{Level, Status};
use rusqlite::{Connection, params};

use super::{
    Database, Identity,
    announcements::{RunEvent, announce},
    checkpoints,
    contents::{begun_with, data_of, orphans},
    events,
    run_rows::OPEN,
    sql::now_ms,
};

/// Details of a run's end: the status, its text, and lines for the log.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) status: Status,
    pub(crate) details: String,
    pub(crate) lines: Vec<(Level, String)>,
}

impl Database {
    /// Ends an open run, on behalf of the worker with `token` or, without a
    /// token, of the server. Returns the contents that have lost their last
    /// reference, or `None` if the run was not ended.
    pub(crate) async fn end_run(
        &self,
        run_id: i64,
        token: Option<Vec<u8>>,
        end: End,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let gone = end_in(&transaction, run_id, token, end)?;
            transaction.commit()?;
            Ok(gone)
        })
        .await
    }

    /// Cancels a run on behalf of a user who may do so, unless it has ended.
    /// Returns the same as [`Database::end_run`].
    pub(crate) async fn cancel_run(
        &self,
        by: Identity,
        run_id: i64,
        end: End,
    ) -> rusqlite::Result<Option<Vec<String>>> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let Some(label) = by.check_own_run(&transaction, run_id)? else {
                return Ok(None);
            };
            let gone = end_in(&transaction, run_id, None, end)?;
            if gone.is_some() {
                by.note(&transaction, "run.cancel", &label)?;
            }
            transaction.commit()?;
            Ok(gone)
        })
        .await
    }
}

/// Like [`Database::end_run`], within the caller's transaction.
fn end_in(
    db: &Connection,
    run_id: i64,
    token: Option<Vec<u8>>,
    end: End,
) -> rusqlite::Result<Option<Vec<String>>> {
    let changed = db.execute(
        &format!(
            "UPDATE runs SET status = ?3, details = ?4, ended_at = ?5
             WHERE id = ?1 AND coalesce(worker_token = ?2, ?2 IS NULL) AND {OPEN}"
        ),
        params![run_id, token, end.status.as_str(), end.details, now_ms()],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    // In the same transaction, so that a reader of the final status sees all lines.
    for (level, message) in end.lines {
        events::log(db, run_id, level, message)?;
    }
    // A failed run can be resumed.
    let keep_last = end.status != Status::Finished;
    let mut gone = checkpoints::thin(db, run_id, keep_last)?;
    let mut used = data_of(db, run_id)?;
    if end.status == Status::Finished {
        used.extend(begun_with(db, run_id)?);
        db.execute(
            "UPDATE runs SET first_checkpoint = NULL WHERE id = ?1",
            [run_id],
        )?;
    }
    gone.extend(orphans(db, used)?);
    let event = RunEvent::of_end(end.status == Status::Finished, &end.details);
    announce(db, run_id, event)?;
    Ok(Some(gone))
}
