//! Resume files: the trainer's state and the progress of callbacks and
//! evaluations, in one file, a zip with uncompressed entries.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{Error, Result, evaluation::Metrics, record::History};

/// The entry with the [`Progress`].
const PROGRESS: &str = "progress.json";
/// Version of the format. Other versions are refused.
const VERSION: u32 = 3;

/// The progress of a run, besides its files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) version: u32,
    /// Metrics before training.
    pub(crate) before: Metrics,
    /// State of each callback, in order.
    pub(crate) callbacks: Vec<Value>,
    /// Training time so far, in seconds.
    pub(crate) seconds: f64,
    /// Examples per batch, which may have been chosen by the machine's memory.
    pub(crate) batch_size: usize,
    /// All measured values.
    pub(crate) history: History,
    /// Whether a callback has stopped the run.
    pub(crate) stop: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            version: VERSION,
            ..Self::default()
        }
    }
}

/// Packs `progress` and the existing files among `names` in `folder` into the
/// file `path`.
pub(crate) fn pack(path: &Path, progress: &Progress, folder: &Path, names: &[&str]) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(path, e);
    let file = File::create(path).map_err(failed)?;
    let mut zip = ZipWriter::new(file);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(true);
    let start = |zip: &mut ZipWriter<File>, name: &str| {
        zip.start_file(name, options).map_err(|e| failed(e.into()))
    };
    start(&mut zip, PROGRESS)?;
    let text = serde_json::to_vec(progress).map_err(|e| failed(e.into()))?;
    zip.write_all(&text).map_err(failed)?;
    for name in names {
        let from = folder.join(name);
        if !from.is_file() {
            continue;
        }
        start(&mut zip, name)?;
        let mut file = File::open(&from).map_err(|e| Error::io(&from, e))?;
        std::io::copy(&mut file, &mut zip).map_err(failed)?;
    }
    zip.finish().map(drop).map_err(|e| failed(e.into()))
}

/// Unpacks a file of [`pack`]: the existing entries among `names` go into
/// `folder`.
pub(crate) fn unpack(path: &Path, folder: &Path, names: &[&str]) -> Result<Progress> {
    let bad = |reason: &dyn std::fmt::Display| {
        Error::checkpoint(format!("{} is not a checkpoint: {reason}", path.display()))
    };
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut zip = ZipArchive::new(file).map_err(|e| bad(&e))?;
    let mut text = String::new();
    zip.by_name(PROGRESS)
        .map_err(|e| bad(&e))?
        .read_to_string(&mut text)
        .map_err(|e| bad(&e))?;
    let progress: Progress = serde_json::from_str(&text).map_err(|e| bad(&e))?;
    if progress.version != VERSION {
        let reason = format!(
            "it has version {}, but only {VERSION} is supported",
            progress.version
        );
        return Err(bad(&reason));
    }
    for name in names {
        let Some(index) = zip.index_for_name(name) else {
            continue;
        };
        let mut entry = zip.by_index(index).map_err(|e| bad(&e))?;
        let to = folder.join(name);
        let mut file = File::create(&to).map_err(|e| Error::io(&to, e))?;
        std::io::copy(&mut entry, &mut file).map_err(|e| Error::io(&to, e))?;
    }
    Ok(progress)
}
