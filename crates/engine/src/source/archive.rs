//! The model in the artifact of an earlier run.

use std::path::Path;

use super::files::{EXTRAS_FILE, HEAD_FILE, SIDE_FILES};
use crate::{Error, Result, modules};

/// No file of a model may be larger than this.
const LARGEST_FILE: u64 = 64 << 30;

/// Unpacks the model in the artifact of a run into `folder`. Only files that a
/// model is made of are taken, by their names.
///
/// # Errors
/// [`Error::Checkpoint`] where the zip is none, or holds no model.
pub fn open_artifact(zip: &Path, folder: &Path) -> Result<()> {
    let bad = |reason: &dyn std::fmt::Display| {
        Error::checkpoint(format!("{} is no artifact: {reason}", zip.display()))
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
        let mut entry = archive.by_index(i).map_err(|e| bad(&e))?;
        // Every file lies in a folder with the run's name.
        let name = entry.name().map_err(|e| bad(&e))?.into_owned();
        let name = name.split_once('/').map(|(_, name)| name);
        let Some(name) = name else { continue };
        let mut wanted = own.iter().chain(&SIDE_FILES);
        if !wanted.any(|wanted| name == *wanted) && !modules::is_file(name) {
            continue;
        }
        if entry.size() > LARGEST_FILE {
            return Err(bad(&format!("`{name}` has {} bytes", entry.size())));
        }
        let to = folder.join(name);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        let mut out = std::fs::File::create(&to).map_err(|e| Error::io(&to, e))?;
        std::io::copy(&mut entry, &mut out).map_err(|e| Error::io(&to, e))?;
    }
    if folder.join("config.json").is_file() {
        Ok(())
    } else {
        Err(bad(&"it has no config.json"))
    }
}
