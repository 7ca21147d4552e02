//! Maintenance of the database: keys and ids of the server, copies and checks.

use std::path::PathBuf;

use rusqlite::{OptionalExtension, params};

use super::{Database, open::write_copy};

impl Database {
    /// Returns the loopback port at which workers of this machine reached the last
    /// server.
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

    /// Stores the port for the next server.
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

    /// Removes the workers from a copy, since they belong to the original server.
    pub(crate) async fn forget_workers(&self) -> rusqlite::Result<()> {
        self.write(|db| {
            let transaction = db.transaction()?;
            transaction.execute(
                "UPDATE runs SET worker_token = NULL, start_token = NULL, job = NULL,
                     attempts = max(attempts - 1, 0)
                 WHERE job IS NOT NULL",
                [],
            )?;
            // The original server sends these messages.
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

    /// Returns the server's signing key. Generates it at the first call.
    pub(crate) async fn signing_key(&self) -> rusqlite::Result<[u8; 32]> {
        self.drawn("signing key", rand::random).await
    }

    /// Returns the id that distinguishes this server from others on the machine. A
    /// copy of the data gets a new id.
    pub(crate) async fn server_id(&self) -> rusqlite::Result<String> {
        let id: [u8; 8] = self.drawn("server id", rand::random).await?;
        Ok(hex::encode(id))
    }

    /// Returns a setting. Generates it at random at the first call.
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

    /// Writes a consistent copy of the database to a new file.
    pub(crate) async fn copy_to(&self, path: PathBuf) -> rusqlite::Result<()> {
        self.read(move |db| {
            // `VACUUM INTO` counts as a write, although it does not change this file.
            db.pragma_update(None, "query_only", false)?;
            let copied = write_copy(db, &path);
            db.pragma_update(None, "query_only", true)?;
            copied
        })
        .await
    }

    /// Returns the problems that SQLite finds in the file.
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

    /// Fails if the database does not answer.
    pub(crate) async fn is_ready(&self) -> rusqlite::Result<()> {
        self.write(|db| db.query_row("SELECT 1", [], |_| Ok(())))
            .await
    }
}
