//! Options that all files of rows share.

use std::path::{Component, Path, PathBuf};

use super::Columns;
use crate::{Error, Result, data::local_path};

/// How rows become documents.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) columns: Columns,
    pub(super) size: Option<usize>,
    pub(super) sampling_rate: Option<f64>,
    pub(super) is_labeled: bool,
    pub(super) convert_to_blob: bool,
    pub(super) create_point_clouds: bool,
    pub(super) point_cloud_size: u32,
    pub(super) base_folder: Option<PathBuf>,
    /// Whether files must be in the base folder.
    pub(super) confined: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            columns: Columns::default(),
            size: None,
            sampling_rate: None,
            is_labeled: false,
            convert_to_blob: true,
            create_point_clouds: true,
            point_cloud_size: 2048,
            base_folder: None,
            confined: false,
        }
    }
}

impl Options {
    /// Refuses numbers that can't be.
    pub(super) fn check(&self) -> Result<()> {
        match self.sampling_rate {
            Some(rate) if !(0.0..=1.0).contains(&rate) => Err(Error::invalid(
                "sampling_rate",
                rate,
                "from 0 to 1 is allowed",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn path(&self, path: &Path) -> PathBuf {
        match &self.base_folder {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }
    }

    /// Whether a path leads out of the folder that it must be in.
    pub(super) fn leads_out(&self, path: &Path) -> bool {
        let is_inside =
            |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        self.confined && !path.components().all(is_inside)
    }

    /// Whether a cell is an address, a file, or could be one.
    pub(super) fn names_something(&self, cell: &str) -> bool {
        match local_path(cell) {
            None => !cell.is_empty() && !cell.contains(char::is_whitespace),
            Some(path) => {
                let path = self.path(&path);
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                path.exists() || (cell.contains(['/', '\\']) && folder.is_some_and(Path::is_dir))
            }
        }
    }
}
