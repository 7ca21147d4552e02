//! The SQLite database: accounts, projects, experiments, runs, events, artifacts
//! and messages. Each has its own file here, and all SQL is in this folder.

mod access;
mod accounts;
mod admin;
mod annotations;
mod announcements;
mod artifacts;
mod audit;
mod checkpoints;
mod connections;
mod contents;
mod events;
mod experiments;
mod identities;
mod links;
mod mail;
mod messages;
mod migrations;
mod open;
mod outbox;
mod projects;
mod queue;
mod refusal;
mod roles;
mod run_ends;
mod run_lists;
mod run_rows;
mod runs;
mod selected;
mod served;
mod shares;
mod sql;
#[cfg(test)]
mod testing;
mod upkeep;
mod usage;
mod waiting;
mod webhooks;
mod worker_writes;

pub(crate) use connections::Database;

pub(crate) use access::{Identity, Wanted};
pub(crate) use accounts::{NewToken, TokenRow};
pub(crate) use admin::{AccountChange, AccountRow, Manager, OpenRun, StorageRow};
pub(crate) use annotations::Annotated;
pub(crate) use announcements::RunEvent;
pub(crate) use artifacts::{ArtifactChange, ArtifactList, ArtifactRow, NewArtifact, Put, Which};
pub(crate) use audit::{Actor, AuditFilter, Entry, csv};
pub(crate) use checkpoints::CheckpointRow;
pub(crate) use events::StoredEvent;
pub(crate) use experiments::ExperimentRow;
pub(crate) use finetuner_protocol::FoundDocuments as Found;
pub(crate) use identities::Linked;
pub(crate) use links::UseRow;
pub(crate) use mail::{MailAddress, PutMail};
pub(crate) use messages::{CONFIRM, MessageRow};
pub(crate) use open::{file, replace};
pub(crate) use outbox::{Due, Next, Receiver};
pub(crate) use projects::{MemberRow, ProjectRow};
pub(crate) use queue::{Claim, Launched, Release};
pub(crate) use refusal::Refusal;
pub(crate) use roles::{Role, Scope};
pub(crate) use run_ends::End;
pub(crate) use run_lists::{Among, Outline, RunFilter, Standing};
pub(crate) use run_rows::{CANCELLED, RunRow};
pub(crate) use runs::{Created, NewRunRow};
pub(crate) use selected::SelectedRun;
pub(crate) use served::ModelRow;
pub(crate) use shares::{NewShare, ShareRow};
pub(crate) use sql::{is_duplicate, now_ms};
#[cfg(test)]
pub(crate) use testing::{in_memory, with_run};
pub(crate) use usage::Usage;
pub(crate) use waiting::QueuedRow;
pub(crate) use webhooks::{NewWebhook, WebhookRow};
