//! What keeps a server's data in order: the key that it signs with, what is
//! referred to, copies.

use std::path::PathBuf;

use rusqlite::{OptionalExtension, params};

use super::{Database, artifacts::has_content, open::write_copy};
use crate::secret::hex;

impl Database {
    /// The port at which workers of this machine found the last server.
    pub(crate) async fn worker_port(&self) -> rusqlite::Result<Option<u16>> {
        self.read(|db| {
            db.query_row(
                "SELECT value FROM settings WHERE name = 'worker port'",
                [],
                |row| row.get(0).map(u16::from_be_bytes),
            )
            .optional()
        })
        .await
    }

    /// Remembers the port for the next server.
    pub(crate) async fn set_worker_port(&self, port: u16) -> rusqlite::Result<()> {
        self.write(move |db| {
            db.execute(
                "INSERT INTO settings (name, value) VALUES ('worker port', ?1)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                [port.to_be_bytes()],
            )
            .map(drop)
        })
        .await
    }

    /// Takes the workers out of a copy: those of the original are not its own.
    pub(crate) async fn forget_workers(&self) -> rusqlite::Result<()> {
        self.write(|db| {
            let transaction = db.transaction()?;
            transaction.execute(
                "UPDATE runs SET worker_token = NULL, start_token = NULL, job = NULL,
                     attempts = max(attempts - 1, 0)
                 WHERE job IS NOT NULL",
                [],
            )?;
            // The original sends them.
            transaction.execute(
                "UPDATE messages SET due_at = NULL, outcome = 'not sent: this is a copy'
                 WHERE due_at IS NOT NULL",
                [],
            )?;
            transaction.execute(
                "DELETE FROM settings WHERE name IN ('worker port', 'server id')",
                [],
            )?;
            transaction.commit()
        })
        .await
    }

    /// The key that this server signs with; made when it is first asked for.
    pub(crate) async fn signing_key(&self) -> rusqlite::Result<[u8; 32]> {
        self.drawn("signing key", rand::random).await
    }

    /// What tells this server from others on the machine. A copy of the data gets
    /// an id of its own.
    pub(crate) async fn server_id(&self) -> rusqlite::Result<String> {
        let id: [u8; 8] = self.drawn("server id", rand::random).await?;
        Ok(hex(&id))
    }

    /// A setting that was drawn by chance when it was first asked for.
    async fn drawn<const N: usize>(
        &self,
        name: &'static str,
        draw: fn() -> [u8; N],
    ) -> rusqlite::Result<[u8; N]> {
        self.write(move |db| {
            let transaction = db.transaction()?;
            let known = transaction
                .query_row(
                    "SELECT value FROM settings WHERE name = ?1",
                    [name],
                    |row| row.get::<_, [u8; N]>(0),
                )
                .optional()?;
            if let Some(known) = known {
                return Ok(known);
            }
            let drawn = draw();
            transaction.execute(
                "INSERT INTO settings (name, value) VALUES (?1, ?2)",
                params![name, drawn],
            )?;
            transaction.commit()?;
            Ok(drawn)
        })
        .await
    }

    /// All contents that something refers to, with their sizes where they are
    /// known, and what refers to them.
    pub(crate) async fn contents(&self) -> rusqlite::Result<Vec<(String, Option<u64>, String)>> {
        self.read(|db| {
            db.prepare(
                "SELECT content, size, 'artifact ' || id || coalesce(' (' || name || ')', '')
                     FROM artifacts
                 UNION ALL
                 SELECT content, size, 'checkpoint ' || number || ' of run ' || runs.name
                     FROM checkpoints JOIN runs ON runs.id = run_id
                 UNION ALL
                 SELECT first_checkpoint, NULL, 'the beginning of run ' || name
                     FROM runs WHERE first_checkpoint IS NOT NULL
                 UNION ALL
                 SELECT used.value, NULL, 'data of run ' || name
                     FROM runs, json_each(data) AS used
                     WHERE status IN ('CREATED', 'STARTED')",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect()
        })
        .await
    }

    /// Whether anything refers to a content, as whoever writes sees it.
    pub(crate) async fn is_wanted(&self, content: String) -> rusqlite::Result<bool> {
        self.write(move |db| has_content(db, &content)).await
    }

    /// Whether anything refers to a content, as of a moment ago. No writer is
    /// waited for.
    pub(crate) async fn seems_wanted(&self, content: String) -> rusqlite::Result<bool> {
        self.read(move |db| has_content(db, &content)).await
    }

    /// Writes a copy of the database, as it is at one moment, into a new file.
    pub(crate) async fn copy_to(&self, path: PathBuf) -> rusqlite::Result<()> {
        self.read(move |db| {
            // A copy is no change of what is read.
            db.pragma_update(None, "query_only", false)?;
            let copied = write_copy(db, &path);
            db.pragma_update(None, "query_only", true)?;
            copied
        })
        .await
    }

    /// What SQLite finds wrong with the file; nothing where it is whole.
    pub(crate) async fn faults(&self) -> rusqlite::Result<Vec<String>> {
        self.read(|db| {
            let found: Vec<String> = db
                .prepare("PRAGMA integrity_check")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            Ok(found.into_iter().filter(|line| line != "ok").collect())
        })
        .await
    }

    /// Whether the database answers.
    pub(crate) async fn is_ready(&self) -> rusqlite::Result<()> {
        self.write(|db| db.query_row("SELECT 1", [], |_| Ok(())))
            .await
    }
}
