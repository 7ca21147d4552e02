//! Accounts, experiments, runs, events and artifacts in one SQLite file. Each
//! of them has its own file here; all SQL is in this folder.

mod access;
mod accounts;
mod admin;
mod annotations;
mod artifacts;
mod audit;
mod checkpoints;
mod connections;
mod events;
mod experiments;
mod identities;
mod links;
mod mail;
mod open;
mod outbox;
mod projects;
mod queue;
mod run_lists;
mod runs;
mod served;
mod shares;
mod upkeep;
mod usage;
mod waiting;
mod webhooks;

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) use connections::Database;

pub(crate) use access::{Identity, Refusal, Role, Wanted};
pub(crate) use accounts::{NewToken, Scope, TokenRow};
pub(crate) use admin::{AccountChange, AccountRow, Manager, OpenRun, StorageRow};
pub(crate) use annotations::Annotated;
pub(crate) use artifacts::{ArtifactChange, ArtifactList, ArtifactRow, NewArtifact, Put, Which};
pub(crate) use audit::{Actor, AuditFilter, Entry, csv};
pub(crate) use checkpoints::CheckpointRow;
pub(crate) use events::StoredEvent;
pub(crate) use experiments::ExperimentRow;
pub(crate) use finetuner_protocol::FoundDocuments as Found;
pub(crate) use identities::Linked;
pub(crate) use links::UseRow;
pub(crate) use mail::{MailAddress, PutMail};
pub(crate) use open::replace;
pub(crate) use outbox::{CONFIRM, Due, MessageRow, Next, Receiver, RunEvent};
pub(crate) use projects::{MemberRow, ProjectRow};
pub(crate) use queue::{Claim, End, Launched, Release};
pub(crate) use run_lists::{Among, Outline, RunFilter, Standing};
#[cfg(test)]
pub(crate) use runs::tests::with_run;
pub(crate) use runs::{CANCELLED, Created, NewRunRow, RunRow};
pub(crate) use served::ModelRow;
pub(crate) use shares::{NewShare, ShareRow};
pub(crate) use usage::Usage;
pub(crate) use waiting::QueuedRow;
pub(crate) use webhooks::{NewWebhook, WebhookRow};

/// One entry for each version of the schema. Entries are never changed, only
/// added.
const MIGRATIONS: &[&str] = &[
    include_str!("0001_first.sql"),
    include_str!("0002_accounts.sql"),
    include_str!("0003_queue.sql"),
    include_str!("0004_launches.sql"),
    include_str!("0005_jobs.sql"),
    include_str!("0006_tags.sql"),
    include_str!("0007_projects.sql"),
    include_str!("0008_team.sql"),
];

/// The time in UTC as SQL.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// Where the file lies in the folder of a server.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("finetuner.sqlite")
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// Offset and limit as SQLite wants them; a limit of -1 is none.
fn bounds(page: Option<(u64, u64)>) -> (i64, i64) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    page.map_or((0, -1), |(offset, limit)| (number(offset), number(limit)))
}

/// Whether an error says that something of that name is there already.
pub(crate) fn is_duplicate(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

#[cfg(test)]
impl Database {
    /// Runs statements, to disturb what follows.
    pub(crate) async fn disturb(&self, sql: &'static str) {
        self.write(|db| db.execute_batch(sql)).await.unwrap();
    }
}

#[cfg(test)]
pub(crate) fn in_memory() -> Database {
    let mut writer = rusqlite::Connection::open_in_memory().unwrap();
    open::prepare(&writer).unwrap();
    open::migrate(&mut writer, None).unwrap();
    connections::Connections::new(writer, Vec::new())
        .unwrap()
        .into()
}
