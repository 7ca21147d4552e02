//! Options for the location of a server's data.

use std::path::{Path, PathBuf};

use crate::{database::Database, folder::attach_database, settings_file::SettingsFile};

#[derive(Debug, clap::Args)]
pub(super) struct Data {
    /// Folder of the server's data; `finetuner-data` by default.
    #[arg(long, env = "FINETUNER_DATA")]
    pub(super) data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct StoreAddress {
    /// Store of artifacts, such as s3://bucket/folder; the data folder by default.
    #[arg(long, env = "FINETUNER_STORE")]
    pub(super) store: Option<String>,
}

impl Data {
    pub(super) fn folder<'a>(&'a self, file: &'a SettingsFile) -> &'a Path {
        self.data.as_deref().unwrap_or(&file.server.data)
    }

    /// Opens the database of an existing server. A mistyped folder is an error and
    /// does not create a database.
    pub(super) fn open(&self, file: &SettingsFile) -> Result<Database, String> {
        attach_database(self.folder(file)).map_err(|e| e.to_string())
    }
}

impl StoreAddress {
    pub(super) fn address<'a>(&'a self, file: &'a SettingsFile) -> Option<&'a str> {
        self.store.as_deref().or(file.server.store.as_deref())
    }
}
