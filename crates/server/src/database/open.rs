//! Opens the database file and migrates its schema. Only a server that has locked
//! its folder migrates, and it keeps a copy of the original file.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::private::private_file;

use super::{
    connections::{BUSY, Connections, Database, READERS},
    migrations::MIGRATIONS,
};

/// Returns the path of the database in a server's folder.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("finetuner.sqlite")
}

impl Database {
    /// Opens or creates the file and migrates its schema. The folder must be
    /// locked.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let mut writer = Connection::open(path).map_err(|e| e.to_string())?;
        prepare(&writer).map_err(|e| e.to_string())?;
        migrate(&mut writer, Some(path))?;
        Self::with(writer, path)
    }

    /// Opens an existing file while a server may be running. Does not change the
    /// schema. A file on read-only media can be read.
    pub(crate) fn attach(path: &Path) -> Result<Self, String> {
        let Some(file) = read_only_address(path)? else {
            return Self::attach_at(path);
        };
        Self::attach_at(&file)
            .map_err(|error| format!("{error} ({} is on read-only media)", path.display()))
    }

    fn attach_at(path: &Path) -> Result<Self, String> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let writer = Connection::open_with_flags(path, flags).map_err(|e| e.to_string())?;
        if !is_read_only(&writer).map_err(|e| e.to_string())? {
            prepare(&writer).map_err(|e| e.to_string())?;
        }
        let version = version(&writer).map_err(|e| e.to_string())?;
        match version {
            version if version == MIGRATIONS.len() => Self::with(writer, path),
            version if version > MIGRATIONS.len() => Err(newer(version)),
            version => Err(format!(
                "its database has version {version}, and this program needs version {}: use the \
                 program of the running server, or first start a server of this version, which \
                 migrates the data",
                MIGRATIONS.len()
            )),
        }
    }

    fn with(writer: Connection, path: &Path) -> Result<Self, String> {
        let reader = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        };
        let readers = (0..READERS).map(|_| reader()).collect::<Result<_, _>>();
        let readers = readers.map_err(|e| e.to_string())?;
        Connections::new(writer, readers).map(Self::from)
    }
}

/// Returns the URI with which SQLite reads a file on read-only media, or `None`
/// if the file's folder is writable.
///
/// A database in WAL mode needs two files next to it even for reading, unless
/// SQLite is told that the file is immutable.
fn read_only_address(path: &Path) -> Result<Option<PathBuf>, String> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match tempfile::tempfile_in(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {}
        _ => return Ok(None),
    }
    let changes = beside(path, "-wal");
    if std::fs::metadata(&changes).is_ok_and(|changes| changes.len() > 0) {
        return Err(format!(
            "{} has changes that are not in the database yet, and this media is read-only: copy \
             the folder to a writable disk and use the copy",
            changes.display()
        ));
    }
    let path = path.canonicalize().map_err(|e| e.to_string())?;
    let mut address = url::Url::from_file_path(&path)
        .map_err(|()| format!("{} is not a file path", path.display()))?;
    address.set_query(Some("immutable=1"));
    Ok(Some(address.as_str().into()))
}

fn is_read_only(connection: &Connection) -> rusqlite::Result<bool> {
    connection.is_readonly(rusqlite::MAIN_DB)
}

/// Configures the writing connection.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A committed transaction is on the disk, even after a power failure.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn newer(version: usize) -> String {
    format!(
        "its database has version {version}, and this program supports versions up to {}: use a \
         newer program",
        MIGRATIONS.len()
    )
}

/// Migrates the schema. Copies the file first, unless it is new.
pub(super) fn migrate(connection: &mut Connection, path: Option<&Path>) -> Result<(), String> {
    let before = version(connection).map_err(|e| e.to_string())?;
    if before > MIGRATIONS.len() {
        return Err(newer(before));
    }
    if before == MIGRATIONS.len() {
        return Ok(());
    }
    if let Some(path) = path.filter(|_| before > 0) {
        let copy = copy_of(path, before);
        keep_copy(connection, &copy).map_err(|e| {
            format!(
                "its database has version {before} and can't be copied to {} before it is \
                 migrated: {e}",
                copy.display()
            )
        })?;
        tracing::info!(
            "A copy of the database in version {before} was kept as {}",
            copy.display()
        );
    }
    // A migration replaces a table by dropping it. With foreign keys on, that
    // would delete rows of other tables. The setting has no effect within a
    // transaction.
    let enforce = |connection: &Connection, on: bool| {
        let set = connection.pragma_update(None, "foreign_keys", on);
        set.map_err(|e| e.to_string())
    };
    enforce(connection, false)?;
    let applied = apply(connection, before);
    enforce(connection, true)?;
    applied
}

/// Applies all migrations that a database of this version lacks, in one
/// transaction.
fn apply(connection: &mut Connection, before: usize) -> Result<(), String> {
    let mut run = || -> rusqlite::Result<Option<String>> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for migration in MIGRATIONS.iter().skip(before) {
            transaction.execute_batch(migration)?;
        }
        let broken: Option<String> = transaction
            .query_row("PRAGMA foreign_key_check", [], |row| row.get(0))
            .optional()?;
        if broken.is_some() {
            return Ok(broken);
        }
        transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
        transaction.commit()?;
        Ok(None)
    };
    match run().map_err(|e| e.to_string())? {
        None => Ok(()),
        Some(table) => Err(format!(
            "rows of its table `{table}` refer to missing rows: restore a backup"
        )),
    }
}

/// Returns the path for the copy of an earlier version.
fn copy_of(path: &Path, version: usize) -> PathBuf {
    path.with_extension(format!("version-{version}.sqlite"))
}

fn keep_copy(connection: &Connection, copy: &Path) -> Result<(), String> {
    let unfinished = copy.with_extension("new");
    write_copy(connection, &unfinished).map_err(|e| e.to_string())?;
    std::fs::rename(&unfinished, copy).map_err(|e| e.to_string())
}

/// Writes a consistent copy of the database to a new file that only its owner
/// can read.
pub(super) fn write_copy(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    // Otherwise, SQLite would apply leftover files of an earlier copy to this
    // one.
    remove_all(path);
    connection.execute("VACUUM INTO ?1", [path.to_string_lossy()])?;
    let written = private_file(path).and_then(|()| std::fs::File::open(path)?.sync_all());
    written.map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
}

/// Moves an unused database to a path and replaces the database there, if there
/// is one.
pub(crate) fn replace(path: &Path, new: &Path) -> Result<(), String> {
    settle(new).map_err(|e| e.to_string())?;
    // A crashed server may have left changes in files next to the old database.
    // SQLite must not apply them to the new one.
    if path.exists()
        && let Err(error) = settle(path)
    {
        tracing::warn!(
            "{} is replaced although it is damaged: {error}",
            path.display()
        );
    }
    remove_beside(path);
    let replaced = std::fs::rename(new, path).and_then(|()| match path.parent() {
        Some(folder) if cfg!(unix) => std::fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    });
    replaced.map_err(|e| e.to_string())
}

/// Writes all pending changes to the file itself.
fn settle(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "DELETE")
}

/// Removes a database and SQLite's files next to it.
fn remove_all(path: &Path) {
    let _ = std::fs::remove_file(path);
    remove_beside(path);
}

fn remove_beside(path: &Path) {
    for ending in ["-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(beside(path, ending));
    }
}

/// Returns the path of one of SQLite's files next to a database.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(ending);
    file.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Databases of all released versions, as SQL.
    const RELEASED: [(usize, &str); 5] = [
        (1, include_str!("fixtures/schema-1.sql")),
        (2, include_str!("fixtures/schema-2.sql")),
        (3, include_str!("fixtures/schema-3.sql")),
        (4, include_str!("fixtures/schema-4.sql")),
        (5, include_str!("fixtures/schema-5.sql")),
    ];

    fn make(path: &Path, sql: &str) {
        Connection::open(path).unwrap().execute_batch(sql).unwrap();
    }

    fn user_version(path: &Path) -> usize {
        version(&Connection::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_database_opens_twice_and_a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        drop(Database::open(&path).unwrap());
        drop(Database::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        for open in [Database::open, Database::attach] {
            let error = open(&path).err().unwrap();
            assert!(error.contains("version 99"), "{error}");
        }
        assert_eq!(user_version(&path), 99);
    }

    #[tokio::test]
    async fn databases_of_all_releases_are_backed_up_and_migrated() {
        for (released, sql) in RELEASED {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("finetuner.sqlite");
            make(&path, sql);
            let db = Database::open(&path).unwrap();
            assert_eq!(db.faults().await.unwrap(), [""; 0]);
            let broken: Vec<String> = db
                .read(|db| {
                    let mut check = db.prepare("PRAGMA foreign_key_check")?;
                    let rows = check.query_map([], |row| row.get(0))?;
                    rows.collect()
                })
                .await
                .unwrap();
            assert!(broken.is_empty(), "{released}: {broken:?}");
            // The current code can read the old data.
            let (runs, total) = db
                .runs(1, crate::database::RunFilter::default())
                .await
                .unwrap();
            assert_eq!((runs.len(), total), (3, 3), "{released}");
            let open = if released < 3 { "FAILED" } else { "STARTED" };
            let statuses: Vec<&str> = runs.iter().map(|run| run.status.as_str()).collect();
            assert_eq!(statuses, ["FINISHED", "FAILED", open], "{released}");
            assert!(db.launched().await.unwrap().is_empty(), "{released}");
            let events = db.events(1, Some(&["step"]), 0, 10).await.unwrap();
            assert_eq!(events.len(), 1, "{released}");
            let found = db.artifact_by_name("u1".into(), "train".into()).await;
            assert_eq!(found.unwrap().unwrap().content, "c1");
            let wanted = crate::database::Wanted::Personal;
            let user = db
                .identify(vec![1, 2], wanted, None)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (user.person.as_str(), user.namespace.as_str()),
                ("u1", "u1")
            );
            assert_eq!(runs[0].created_by.as_deref(), Some("u1"), "{released}");
            let last = db.last_checkpoint(3).await.unwrap();
            assert_eq!(last.is_some(), released >= 3);
            drop(db);
            assert_eq!(user_version(&path), MIGRATIONS.len());

            let copy = copy_of(&path, released);
            assert_eq!(copy.exists(), released < MIGRATIONS.len());
            if copy.exists() {
                assert_eq!(user_version(&copy), released);
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt;
                    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
                    assert_eq!(mode & 0o777, 0o600);
                }
            }
        }
    }

    #[test]
    fn a_database_is_not_migrated_without_a_backup() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("finetuner.sqlite");
        make(&path, RELEASED[0].1);
        // A folder that can't be replaced is in place of the copy.
        std::fs::create_dir_all(copy_of(&path, 1).join("taken")).unwrap();
        let error = Database::open(&path).err().unwrap();
        assert!(error.contains("can't be copied to"), "{error}");
        assert_eq!(user_version(&path), 1);
    }

    #[test]
    fn a_program_beside_a_server_does_not_migrate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("finetuner.sqlite");
        assert!(Database::attach(&path).is_err());
        assert!(!path.exists(), "nothing is created");
        make(&path, RELEASED[1].1);
        let error = Database::attach(&path).err().unwrap();
        assert!(
            error.contains("has version 2, and this program needs"),
            "{error}"
        );
        assert_eq!(user_version(&path), 2);
    }
}
