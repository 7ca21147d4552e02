//! Options that all files of rows share.

use std::path::{Component, Path, PathBuf};

use crate::{
    check::local_path,
    columns::Columns,
    error::{Error, Result},
};

/// The most bytes of a row.
const MAX_ROW: usize = 64 << 20;
/// The most bytes of a row that somebody else has written. Parsed, it may take a
/// hundred times as much memory.
const MAX_FOREIGN_ROW: usize = 8 << 20;

/// Options for reading rows and making documents of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) columns: Columns,
    pub(crate) size: Option<u64>,
    pub(crate) sampling_rate: Option<f64>,
    pub(crate) is_labeled: bool,
    pub(crate) convert_to_blob: bool,
    pub(crate) create_point_clouds: bool,
    pub(crate) point_cloud_size: u32,
    pub(crate) base_folder: Option<PathBuf>,
    /// Whether files must lie in the base folder.
    pub(crate) confined: bool,
    /// Whether somebody else has written the data: what is in memory at once is
    /// limited, and files must look like pictures.
    pub(crate) is_foreign: bool,
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
            is_foreign: false,
        }
    }
}

impl Options {
    /// Refuses numbers out of range.
    pub(crate) fn check(&self) -> Result<()> {
        match self.sampling_rate {
            Some(rate) if !(0.0..=1.0).contains(&rate) => Err(Error::invalid(
                "sampling_rate",
                rate,
                "from 0 to 1 is allowed",
            )),
            _ => Ok(()),
        }
    }

    /// Reads data that somebody else has written. Its files lie in `folder`.
    pub(crate) fn confine(&mut self, folder: PathBuf) {
        self.base_folder = Some(folder);
        self.confined = true;
        self.is_foreign = true;
    }

    /// Returns the most bytes of a row, or of a line.
    pub(crate) fn max_row(&self) -> usize {
        match self.is_foreign {
            true => MAX_FOREIGN_ROW,
            false => MAX_ROW,
        }
    }

    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match &self.base_folder {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }
    }

    /// Returns whether a path of a cell leads out of the folder that it must lie in,
    /// by its own parts or by a link.
    pub(crate) fn leads_out(&self, path: &Path) -> bool {
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
    pub(crate) fn names_something(&self, cell: &str) -> bool {
        match local_path(cell) {
            // Nobody learns which files are elsewhere.
            Some(path) if self.leads_out(&path) => false,
            None => !cell.is_empty() && !cell.contains(char::is_whitespace),
            Some(path) => {
                let path = self.path(&path);
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                path.exists() || (cell.contains(['/', '\\']) && folder.is_some_and(Path::is_dir))
            }
        }
    }
}
