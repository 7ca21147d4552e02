//! The versions of the schema.

/// SQL that migrates each version to the next. Entries are only appended, never
/// changed.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("0001_first.sql"),
    include_str!("0002_accounts.sql"),
    include_str!("0003_queue.sql"),
    include_str!("0004_launches.sql"),
    include_str!("0005_jobs.sql"),
    include_str!("0006_tags.sql"),
    include_str!("0007_projects.sql"),
    include_str!("0008_team.sql"),
    include_str!("0009_creators.sql"),
    include_str!("0010_run_ids.sql"),
];
