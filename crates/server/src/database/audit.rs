//! The audit log: who did what, when and from where. An entry is appended in the
//! transaction of the change that it describes, and is never changed. Entries
//! contain only names of users, projects and objects, never tokens, passwords or
//! failed input.

use std::{io, iter, net::IpAddr};

use rusqlite::{Connection, Row, params};

use super::{Database, sql::NOW};
use crate::spreadsheet::{plain, to_csv};

/// Author of an action: a user, or the operator on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actor {
    pub(crate) person: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) address: Option<IpAddr>,
}

impl Actor {
    /// Returns the operator on the command line, who also stands for the server
    /// itself.
    pub(crate) fn operator() -> Self {
        Self::default()
    }

    /// Returns a user, for an action outside of projects.
    pub(crate) fn user(name: &str, address: Option<IpAddr>) -> Self {
        Self {
            person: Some(name.to_owned()),
            project: None,
            address,
        }
    }

    /// Returns the user who started a run, for actions of its worker.
    pub(super) fn starter(db: &Connection, run_id: i64) -> rusqlite::Result<Self> {
        db.query_row(
            "SELECT users.name, projects.name
             FROM runs JOIN experiments ON experiments.id = experiment_id
                 JOIN projects ON projects.id = project_id
                 LEFT JOIN users ON users.id = created_by
             WHERE runs.id = ?1",
            [run_id],
            |row| {
                Ok(Self {
                    person: row.get(0)?,
                    project: row.get(1)?,
                    address: None,
                })
            },
        )
    }

    /// Appends an entry.
    pub(super) fn note(
        &self,
        db: &Connection,
        action: &'static str,
        object: &str,
    ) -> rusqlite::Result<()> {
        db.prepare_cached(&format!(
            "INSERT INTO audit (at, person, project, action, object, address)
             VALUES ({NOW}, ?1, ?2, ?3, ?4, ?5)"
        ))?
        .execute(params![
            self.person,
            self.project,
            action,
            object,
            self.address.map(|address| address.to_string())
        ])
        .map(drop)
    }
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) at: String,
    pub(crate) person: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) action: String,
    pub(crate) object: String,
    pub(crate) address: Option<String>,
}

/// Filter of entries. `None` applies no condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditFilter {
    /// Only entries about this user.
    pub(crate) person: Option<String>,
    /// Only entries about this project.
    pub(crate) project: Option<String>,
    /// Only actions that begin with this, such as `run` or `run.start`.
    pub(crate) action: Option<String>,
    /// Only entries older than the one with this id.
    pub(crate) before: Option<i64>,
    pub(crate) limit: u64,
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        id: row.get(0)?,
        at: row.get(1)?,
        person: row.get(2)?,
        project: row.get(3)?,
        action: row.get(4)?,
        object: row.get(5)?,
        address: row.get(6)?,
    })
}

impl Database {
    /// Appends an entry about an action without another change, such as a failed
    /// sign-in.
    pub(crate) async fn note(
        &self,
        actor: Actor,
        action: &'static str,
        object: String,
    ) -> rusqlite::Result<()> {
        self.write(move |db| actor.note(db, action, &object)).await
    }

    /// Returns entries of the log, newest first.
    pub(crate) async fn audit(&self, filter: AuditFilter) -> rusqlite::Result<Vec<Entry>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT id, at, person, project, action, object, address FROM audit
                 WHERE (?1 IS NULL OR person = ?1) AND (?2 IS NULL OR project = ?2)
                     AND (?3 IS NULL OR instr(action, ?3) = 1) AND (?4 IS NULL OR id < ?4)
                 ORDER BY id DESC LIMIT ?5",
            )?
            .query_map(
                params![
                    filter.person,
                    filter.project,
                    filter.action,
                    filter.before,
                    i64::try_from(filter.limit).unwrap_or(i64::MAX)
                ],
                entry,
            )?
            .collect()
        })
        .await
    }

    /// Removes entries that are older than this number of days, at least one day.
    pub(crate) async fn prune_audit(&self, days: u32) -> rusqlite::Result<usize> {
        let age = format!("-{} days", days.max(1));
        self.write(move |db| {
            db.execute(
                "DELETE FROM audit WHERE at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)",
                [age],
            )
        })
        .await
    }
}

/// Formats entries as CSV with a header line.
///
/// # Errors
/// None occurs, since all rows have as many cells as the header line.
pub(crate) fn csv(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let rows = entries.iter().map(|entry| {
        let of = |cell: &Option<String>| plain(cell.as_deref().unwrap_or_default());
        [
            plain(&entry.at),
            of(&entry.person),
            of(&entry.project),
            plain(&entry.action),
            plain(&entry.object),
            of(&entry.address),
            entry.id.to_string(),
        ]
    });
    to_csv(iter::once(HEADINGS.map(str::to_owned)).chain(rows))
}

const HEADINGS: [&str; 7] = [
    "time", "person", "project", "action", "object", "address", "id",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::in_memory;

    fn all() -> AuditFilter {
        AuditFilter {
            limit: 100,
            ..AuditFilter::default()
        }
    }

    #[tokio::test]
    async fn audit_entries_are_append_only_and_can_be_filtered() {
        let db = in_memory();
        let ada = Actor::user("ada", "192.0.2.1".parse().ok());
        for (actor, action, object) in [
            (&ada, "signin", ""),
            (&ada, "run.start", "e/r"),
            (&Actor::operator(), "user.add", "bob"),
        ] {
            let noted = db.note(actor.clone(), action, object.to_owned());
            noted.await.unwrap();
        }
        let actions = async |filter: AuditFilter| {
            let found = db.audit(filter).await.unwrap();
            found
                .iter()
                .map(|e| e.action.clone())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(actions(all()).await, "user.add run.start signin");
        let of_ada = AuditFilter {
            person: Some("ada".into()),
            ..all()
        };
        assert_eq!(actions(of_ada).await, "run.start signin");
        let runs = AuditFilter {
            action: Some("run".into()),
            ..all()
        };
        assert_eq!(actions(runs).await, "run.start");
        let older = AuditFilter {
            before: Some(3),
            limit: 1,
            ..AuditFilter::default()
        };
        assert_eq!(actions(older).await, "run.start");
        let found = db.audit(all()).await.unwrap();
        assert_eq!(found[1].address.as_deref(), Some("192.0.2.1"));
        assert_eq!((&found[0].person, &found[0].address), (&None, &None));
        for sql in ["UPDATE audit SET person = 'eve'", "DELETE FROM audit"] {
            let tried = db.write(move |db| db.execute(sql, [])).await;
            assert!(tried.is_err(), "{sql}");
        }
        assert_eq!(db.prune_audit(0).await.unwrap(), 0);
        db.disturb(
            "INSERT INTO audit (at, action, object) VALUES ('2020-01-01T00:00:00.000Z', 'x', '')",
        )
        .await;
        assert_eq!(db.prune_audit(365).await.unwrap(), 1);
        assert_eq!(db.audit(all()).await.unwrap().len(), 3);
    }

    #[test]
    fn csv_cells_are_quoted_and_never_formulas() {
        let entry = Entry {
            id: 1,
            at: "2026-01-01T00:00:00.000Z".into(),
            person: Some("=1+1".into()),
            project: None,
            action: "run.start".into(),
            object: "a,\"b\"\nc".into(),
            address: Some("::1".into()),
        };
        let text = String::from_utf8(csv(&[entry]).unwrap()).unwrap();
        assert_eq!(
            text,
            "time,person,project,action,object,address,id\r\n\
             2026-01-01T00:00:00.000Z,'=1+1,,run.start,\"a,\"\"b\"\"\nc\",::1,1\r\n"
        );
    }
}
