//! The data folder of a server: its lock, its database and its store.

use std::{fs::File, path::Path};

use crate::{
    database::{self, Database},
    error::StartError,
    private::private_folder,
    store::Store,
};

/// Locks the folder against other servers for as long as the file is open.
pub(crate) fn lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join("server.lock");
    let file = File::create(&path).map_err(|e| bad_folder(folder, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(bad_folder(
            folder,
            "another server uses it; stop that server, or choose another folder with `--data`",
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(bad_folder(folder, error)),
    }
}

/// Opens the database of a folder while a server may be running. Does not
/// change its schema.
pub(crate) fn attach_database(folder: &Path) -> Result<Database, StartError> {
    let file = database::file(folder);
    if !file.is_file() {
        return Err(bad_folder(
            folder,
            "it does not contain the data of a server",
        ));
    }
    Database::attach(&file).map_err(|e| bad_folder(folder, e))
}

/// Opens or creates the database of a locked folder.
pub(crate) fn open_database(folder: &Path) -> Result<Database, StartError> {
    std::fs::create_dir_all(folder).map_err(|e| bad_folder(folder, e))?;
    private_folder(folder).map_err(|e| bad_folder(folder, e))?;
    Database::open(&database::file(folder)).map_err(|e| bad_folder(folder, e))
}

/// Opens the store at an address, or in the folder if there is none.
pub(crate) fn open_store(folder: &Path, address: Option<&str>) -> Result<Store, StartError> {
    if let Some(address) = address {
        let bad = |reason: &dyn std::fmt::Display| StartError::Setting {
            setting: "store",
            reason: reason.to_string(),
        };
        let address = url::Url::parse(address).map_err(|e| bad(&e))?;
        if address.scheme() != "s3" {
            return Err(bad(&"give an address such as s3://bucket/folder"));
        }
        return Store::at(&address).map_err(|e| bad(&e));
    }
    let objects = folder.join("store");
    std::fs::create_dir_all(&objects).map_err(|e| bad_folder(folder, e))?;
    Store::in_folder(&objects).map_err(|e| bad_folder(folder, e))
}

/// Opens the database and the store of a locked folder.
pub(crate) fn open(folder: &Path, store: Option<&str>) -> Result<(Database, Store), StartError> {
    Ok((open_database(folder)?, open_store(folder, store)?))
}

/// Returns the error of an unusable data folder.
pub(crate) fn bad_folder(folder: &Path, reason: impl std::fmt::Display) -> StartError {
    StartError::Folder {
        folder: folder.display().to_string(),
        reason: reason.to_string(),
    }
}
