//! What an operator does with a server's data: look whether it is whole, keep
//! a copy, take away what nothing needs.

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

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Contents that are referred to and are whole.
    pub good: usize,
    /// What is wrong: each a line that says what is damaged or missing, and
    /// what needs it.
    pub faults: Vec<String>,
    /// Bytes of contents that nothing refers to. The server removes them when
    /// it starts.
    pub unused_bytes: u64,
}

/// Verifies all data of the server in `folder`: the database's own check, and
/// the SHA-256 of every content that anything refers to. A server may run
/// beside it.
///
/// # Errors
/// [`StartError`] where the data can't be read at all.
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
        // Deleted since, by a server that runs.
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

/// Copies all data of the server in `folder` into the folder `target`, which
/// can then be served itself, or restored from. A server may run beside it: the
/// copy is of one moment. Contents that are in `target` already are read and
/// compared with their SHA-256; only those that differ are copied again. Returns
/// how many contents there are.
///
/// # Errors
/// [`StartError`] if something can't be read or written, if a server or another
/// copy uses `target`, or if it holds something else. The copy is not whole
/// then.
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
        return Err(bad(&"it is the data itself; choose another folder"));
    }
    if !database::file(target).exists() && !holds_only(target, &OWN).map_err(|e| bad(&e))? {
        return Err(bad(
            &"it is not empty and holds no earlier copy; choose an empty folder",
        ));
    }
    copy(&database, &store, target, None).await
}

/// Copies a backup that lies in the folder `source` into the new data folder
/// `folder`, and its contents to where `store` says. Every content is compared
/// with its SHA-256, those that are there already too. Returns how many contents
/// there are.
///
/// # Errors
/// [`StartError`] if something can't be read or written, or if `folder` holds
/// data already. It can't be served then.
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
            &"it is not empty; choose a new folder, or move away what is there",
        ));
    }
    copy(&database, &from, folder, store).await
}

/// What a copy that was broken off may have left, and what a new disk has.
const OWN: [&str; 4] = ["server.lock", "store", UNFINISHED, "lost+found"];
/// The name of the database until all contents are there.
const UNFINISHED: &str = "finetuner.sqlite.new";

/// Whether a folder has nothing but these, and what SQLite keeps beside them.
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

/// Copies a database and its contents into a folder, or to another store.
async fn copy(
    database: &Database,
    store: &Store,
    target: &Path,
    target_store: Option<&str>,
) -> Result<usize, StartError> {
    let failed = |e: &dyn std::fmt::Display| bad_folder(target, e);
    private_folder(target).map_err(|e| failed(&e))?;
    // Neither a server nor another copy may write there.
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
                return Err(failed(&format!("{content} is missing: see `check`")));
            }
            vanished = true;
        }
        if vanished {
            // It was deleted while the copy was made: the copy needs it.
            continue;
        }
        // Last, so that what can be served is whole.
        database::replace(&database::file(target), &unfinished).map_err(|e| failed(&e))?;
        drop(lock);
        return Ok(contents.len());
    }
    Err(failed(
        &"data was deleted each time while it was copied; try again when less happens",
    ))
}

/// How often a copy is begun again because something in it was deleted.
const COPIES: usize = 10;

/// The contents that a copy of a database needs. The workers of the original
/// are taken out of the copy.
async fn contents_of_copy(file: &Path) -> Result<Vec<String>, String> {
    let copy = Database::attach(file)?;
    copy.forget_workers().await.map_err(|e| e.to_string())?;
    let contents = copy.contents().await.map_err(|e| e.to_string())?;
    let mut contents: Vec<String> = contents.into_iter().map(|(content, ..)| content).collect();
    contents.sort();
    contents.dedup();
    Ok(contents)
}

/// Removes contents that nothing refers to, which a server that was killed has
/// left.
pub(crate) async fn sweep(app: Arc<App>) {
    let swept = sweep_store(&app, &app.store).await;
    match swept {
        Ok(0) => {}
        Ok(count) => tracing::info!("{count} contents were looked at that nothing refers to"),
        Err(error) => tracing::warn!("the store could not be swept: {error}"),
    }
}

async fn sweep_store(app: &App, store: &Store) -> Result<usize, String> {
    let mut orphans = Vec::new();
    let mut found = store.list();
    while let Some(object) = found.try_next().await.map_err(|e| e.to_string())? {
        // Asked again before it is removed.
        let wanted = app.database.seems_wanted(object.content.clone()).await;
        if !wanted.map_err(|e| e.to_string())? {
            orphans.push(object.content);
        }
    }
    let count = orphans.len();
    app.remove_orphans(orphans).await;
    Ok(count)
}
