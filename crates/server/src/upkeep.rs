//! Maintenance of a server's data: check, backup, restore, and removal of
//! unused contents.

use std::{collections::HashMap, path::Path, sync::Arc};

use futures_util::TryStreamExt;

use crate::{
    app::App,
    database::{self, Database},
    error::StartError,
    folder::{attach_database, bad_folder, lock, open_store},
    private::private_folder,
    store::Store,
};

/// Result of [`check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Number of contents that are referenced and undamaged.
    pub good: usize,
    /// Problems: one line for each damaged or missing content, with what needs it.
    pub faults: Vec<String>,
    /// Size of contents without a reference, in bytes. The server removes them when
    /// it starts.
    pub unused_bytes: u64,
}

/// Verifies all data of the server in `folder`: the database, and the SHA-256
/// of every referenced content. A server may be running.
///
/// # Errors
/// [`StartError`] if the data can't be read at all.
pub async fn check(folder: &Path, store: Option<&str>) -> Result<Report, StartError> {
    let database = attach_database(folder)?;
    let store = open_store(folder, store)?;
    let failed = |e: &dyn std::fmt::Display| bad_folder(folder, e);
    let mut report = Report::default();
    for fault in database.faults().await.map_err(|e| failed(&e))? {
        report.faults.push(format!("database: {fault}"));
    }
    let mut wanted: HashMap<String, Vec<String>> = HashMap::new();
    for (content, _, by) in database.contents().await.map_err(|e| failed(&e))? {
        wanted.entry(content).or_default().push(by);
    }
    let mut found = store.list();
    while let Some(object) = found.try_next().await.map_err(|e| failed(&e))? {
        if !wanted.contains_key(&object.content) {
            report.unused_bytes += object.size;
        }
    }
    for (content, by) in wanted {
        let fault = match store.hash(&content).await {
            Ok(hash) if hash == content => {
                report.good += 1;
                continue;
            }
            Ok(_) => "is damaged".to_owned(),
            Err(object_store::Error::NotFound { .. }) => "is missing".to_owned(),
            Err(error) => format!("can't be read: {error}"),
        };
        // A running server may have deleted it in the meantime.
        if !database
            .is_wanted(content.clone())
            .await
            .map_err(|e| failed(&e))?
        {
            continue;
        }
        report.faults.push(format!(
            "{content} {fault}; it is needed by {}",
            by.join(", ")
        ));
    }
    report.faults.sort();
    Ok(report)
}

/// Copies all data of the server in `folder` to the folder `target`.
///
/// The copy can be served or restored. A server may be running; the copy
/// reflects one moment. Contents in `target` are verified against their
/// SHA-256, and only those that differ are copied again. Returns the number of
/// contents.
///
/// # Errors
/// [`StartError`] if something can't be read or written, if a server or another
/// backup uses `target`, or if it contains something else. The copy is then
/// incomplete.
pub async fn backup(
    folder: &Path,
    store: Option<&str>,
    target: &Path,
) -> Result<usize, StartError> {
    let database = attach_database(folder)?;
    let store = open_store(folder, store)?;
    let bad = |reason: &dyn std::fmt::Display| bad_folder(target, reason);
    std::fs::create_dir_all(target).map_err(|e| bad(&e))?;
    let same = |path: &Path| path.canonicalize().ok();
    if same(folder) == same(target) {
        return Err(bad(&"it is the data folder itself; choose another folder"));
    }
    if !database::file(target).exists() && !holds_only(target, &OWN).map_err(|e| bad(&e))? {
        return Err(bad(
            &"it is not empty and contains no earlier backup; choose an empty folder",
        ));
    }
    copy(&database, &store, target, None).await
}

/// Copies the backup in the folder `source` to the new data folder `folder`,
/// and its contents to `store`.
///
/// Every content is verified against its SHA-256, including those that exist
/// already. Returns the number of contents.
///
/// # Errors
/// [`StartError`] if something can't be read or written, or if `folder` already
/// contains data. The folder can't be served then.
pub async fn restore(
    source: &Path,
    folder: &Path,
    store: Option<&str>,
) -> Result<usize, StartError> {
    let database = attach_database(source)?;
    let from = open_store(source, None)?;
    let bad = |reason: &dyn std::fmt::Display| bad_folder(folder, reason);
    std::fs::create_dir_all(folder).map_err(|e| bad(&e))?;
    if !holds_only(folder, &OWN).map_err(|e| bad(&e))? {
        return Err(bad(
            &"it is not empty; choose a new folder, or move its files away",
        ));
    }
    copy(&database, &from, folder, store).await
}

/// Names that an unfinished copy may have left, and that a new disk has.
const OWN: [&str; 4] = ["server.lock", "store", UNFINISHED, "lost+found"];
/// Name of the database until all contents are copied.
const UNFINISHED: &str = "finetuner.sqlite.new";

/// Whether a folder contains only these names and SQLite's files for them.
fn holds_only(folder: &Path, names: &[&str]) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let base = ["-wal", "-shm", "-journal"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending))
            .unwrap_or(&name);
        if !names.contains(&base) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a database and its contents to a folder, or to another store.
async fn copy(
    database: &Database,
    store: &Store,
    target: &Path,
    target_store: Option<&str>,
) -> Result<usize, StartError> {
    let failed = |e: &dyn std::fmt::Display| bad_folder(target, e);
    private_folder(target).map_err(|e| failed(&e))?;
    // No server and no other copy may write to the folder.
    let lock = lock(target)?;
    let to = open_store(target, target_store)?;
    let unfinished = target.join(UNFINISHED);
    for _ in 0..COPIES {
        let copied = database.copy_to(unfinished.clone()).await;
        copied.map_err(|e| failed(&e))?;
        let contents = contents_of_copy(&unfinished).await;
        let contents = contents.map_err(|e| failed(&e))?;
        let mut vanished = false;
        for content in &contents {
            let there = store.copy(content, &to).await;
            let there = there.map_err(|e| failed(&format!("{content}: {}", e.message())))?;
            if there {
                continue;
            }
            let wanted = database.is_wanted(content.clone()).await;
            if wanted.map_err(|e| failed(&e))? {
                return Err(failed(&format!(
                    "{content} is missing; `finetuner-server check` lists missing contents"
                )));
            }
            vanished = true;
        }
        if vanished {
            // Deleted after the database was copied, and the copy needs it.
            continue;
        }
        // The database is put in place last, so that a folder that can be served is
        // complete.
        database::replace(&database::file(target), &unfinished).map_err(|e| failed(&e))?;
        drop(lock);
        return Ok(contents.len());
    }
    Err(failed(
        &"data was deleted during each of the attempts to copy it; try again when the \
          server is less busy",
    ))
}

/// Number of attempts if data is deleted while it is copied.
const COPIES: usize = 10;

/// Removes the original server's workers from a copy of a database. Returns the
/// contents that the copy needs.
async fn contents_of_copy(file: &Path) -> Result<Vec<String>, String> {
    let copy = Database::attach(file)?;
    copy.forget_workers().await.map_err(|e| e.to_string())?;
    let contents = copy.contents().await.map_err(|e| e.to_string())?;
    let mut contents: Vec<String> = contents.into_iter().map(|(content, ..)| content).collect();
    contents.sort();
    contents.dedup();
    Ok(contents)
}

/// Removes contents without a reference, which a killed server has left.
pub(crate) async fn sweep(app: Arc<App>) {
    let swept = sweep_store(&app, &app.store).await;
    match swept {
        Ok(0) => {}
        Ok(count) => tracing::info!(
            "Removed {count} contents without a reference, except those in use again"
        ),
        Err(error) => tracing::warn!("The store can't be checked for unused contents: {error}"),
    }
}

async fn sweep_store(app: &App, store: &Store) -> Result<usize, String> {
    let mut orphans = Vec::new();
    let mut found = store.list();
    while let Some(object) = found.try_next().await.map_err(|e| e.to_string())? {
        // Checked again before the removal.
        let wanted = app.database.seems_wanted(object.content.clone()).await;
        if !wanted.map_err(|e| e.to_string())? {
            orphans.push(object.content);
        }
    }
    let count = orphans.len();
    app.remove_orphans(orphans).await;
    Ok(count)
}
