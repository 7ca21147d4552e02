//! Reads models from artifacts of earlier runs.

use std::{
    borrow::Cow,
    io::{Read, Seek},
    path::Path,
};

use super::{
    extras::{EXTRAS_FILE, HEAD_FILE},
    files::SIDE_FILES,
};
use crate::{
    Error, Result,
    models::{ModelConfig, ModelKind},
    modules, python_json,
};

/// Largest size of a model file in bytes.
const LARGEST_FILE: u64 = 64 << 30;

/// Largest size of a `config.json` in bytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// Returns the kind of data that the model in an artifact embeds, according to
/// its `config.json`.
///
/// # Errors
/// [`Error::Checkpoint`] if the file is not a zip, or contains no known model.
pub fn kind_of_artifact(zip: impl Read + Seek) -> Result<ModelKind> {
    let bad = |reason: &dyn std::fmt::Display| Error::checkpoint(format!("{reason}"));
    let mut archive = zip::ZipArchive::new(zip).map_err(|e| bad(&e))?;
    // All files are in a folder with the run's name.
    let is_config = |name: &Cow<'_, str>| {
        let inner = name.split_once('/');
        inner.is_some_and(|(_, name)| name == "config.json")
    };
    let name = archive
        .file_names()
        .flatten()
        .find(is_config)
        .map(Cow::into_owned);
    let name = name.ok_or_else(|| bad(&"it has no config.json"))?;
    let file = archive.by_name(&name).map_err(|e| bad(&e))?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_CONFIG).read_to_end(&mut bytes);
    read.map_err(|e| bad(&e))?;
    let config = python_json::parse(&bytes, "config.json")?;
    ModelConfig::kind_of(&config)
}

/// Unpacks the model of an artifact into `folder`. Skips all files that don't
/// belong to a model.
///
/// # Errors
/// [`Error::Checkpoint`] if the file is not a zip, or contains no model.
pub fn open_artifact(zip: &Path, folder: &Path) -> Result<()> {
    let bad = |reason: &dyn std::fmt::Display| {
        Error::checkpoint(format!("{} is not an artifact: {reason}", zip.display()))
    };
    let file = std::fs::File::open(zip).map_err(|e| Error::io(zip, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(&e))?;
    let own = [
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        EXTRAS_FILE,
        HEAD_FILE,
    ];
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| bad(&e))?;
        // All files are in a folder with the run's name.
        let name = entry.name().map_err(|e| bad(&e))?.into_owned();
        let name = name.split_once('/').map(|(_, name)| name);
        let Some(name) = name else { continue };
        let mut wanted = own.iter().chain(&SIDE_FILES);
        if !wanted.any(|wanted| name == *wanted) && !modules::is_file(name) {
            continue;
        }
        if entry.size() > LARGEST_FILE {
            return Err(bad(&format!(
                "`{name}` has {} bytes, the limit is {LARGEST_FILE}",
                entry.size()
            )));
        }
        let to = folder.join(name);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        let mut out = std::fs::File::create(&to).map_err(|e| Error::io(&to, e))?;
        // An entry may be larger than its header claims.
        let size = entry.size();
        let mut entry = entry.take(size + 1);
        let copied = std::io::copy(&mut entry, &mut out).map_err(|e| Error::io(&to, e))?;
        if copied > size {
            return Err(bad(&format!("`{name}` is larger than its header claims")));
        }
    }
    if folder.join("config.json").is_file() {
        Ok(())
    } else {
        Err(bad(&"it has no config.json"))
    }
}
