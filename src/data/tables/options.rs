//! Options that all files of rows share.

use std::path::{Component, Path, PathBuf};

use super::columns::Columns;
use crate::{
    data::check::local_path,
    error::{Error, Result},
};

/// Options for reading rows and making documents of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) columns: Columns,
    pub(super) size: Option<u64>,
    pub(super) sampling_rate: Option<f64>,
    pub(super) is_labeled: bool,
    pub(super) convert_to_blob: bool,
    pub(super) create_point_clouds: bool,
    pub(super) point_cloud_size: u32,
    pub(super) base_folder: Option<PathBuf>,
    /// Whether files must lie in the base folder.
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
    /// Refuses numbers out of range.
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

    /// Returns whether a path of a cell leads out of the folder that it must lie in,
    /// by its own parts or by a link.
    pub(super) fn leads_out(&self, path: &Path) -> bool {
        if !self.confined {
            return false;
        }
        let is_inside =
            |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(is_inside) {
            return true;
        }
        let folder = match &self.base_folder {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        match (folder.canonicalize(), self.path(path).canonicalize()) {
            (Ok(folder), Ok(file)) => !file.starts_with(folder),
            // A file that does not exist gets an error of its own.
            _ => false,
        }
    }

    /// Returns whether a cell is an address or a path, or looks like one.
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
