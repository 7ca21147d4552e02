//! Options that CSV files and [`Dataset`](crate::Dataset) share.

use std::path::{Component, Path, PathBuf};

use crate::{
    columns::Columns,
    error::{Error, Result},
    uri::local_path,
};

/// Maximum bytes of a row.
const MAX_ROW: usize = 64 << 20;
/// Maximum bytes of a row from another user. A parsed row may take a hundred times as
/// much memory.
const MAX_UNTRUSTED_ROW: usize = 8 << 20;

/// Options for reading rows and converting them to documents.
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
    /// Whether files that rows name must be in the base folder.
    pub(crate) confined: bool,
    /// Whether another user wrote the data. Rows and pages of Parquet files then have
    /// lower limits, and files that rows name must begin like images.
    pub(crate) is_untrusted: bool,
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
            is_untrusted: false,
        }
    }
}

impl Options {
    /// Checks the values that have a limited range.
    pub(crate) fn check(&self) -> Result<()> {
        match self.sampling_rate {
            Some(rate) if !(0.0..=1.0).contains(&rate) => {
                Err(Error::invalid("sampling_rate", rate, "0 to 1 are allowed"))
            }
            _ => Ok(()),
        }
    }

    /// Sets the limits for data from another user, whose files are in `folder`.
    pub(crate) fn confine(&mut self, folder: PathBuf) {
        self.base_folder = Some(folder);
        self.confined = true;
        self.is_untrusted = true;
    }

    /// Returns the maximum size of a row: bytes of a JSON line, characters of a CSV row.
    pub(crate) fn max_row(&self) -> usize {
        match self.is_untrusted {
            true => MAX_UNTRUSTED_ROW,
            false => MAX_ROW,
        }
    }

    /// Resolves a path in a cell against the base folder.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match &self.base_folder {
            Some(folder) => folder.join(path),
            None => path.to_owned(),
        }
    }

    /// Returns whether a path in a cell is forbidden because it is outside the base
    /// folder.
    ///
    /// Absolute paths, `..` and symbolic links out of the folder count as outside.
    pub(crate) fn is_outside(&self, path: &Path) -> bool {
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
            // A missing file is reported with an error of its own.
            _ => false,
        }
    }

    /// Returns whether a cell is or resembles the URL or path of a file.
    pub(crate) fn is_reference(&self, cell: &str) -> bool {
        match local_path(cell) {
            // The result must not reveal whether a file outside the folder exists.
            Some(path) if self.is_outside(&path) => false,
            None => !cell.is_empty() && !cell.contains(char::is_whitespace),
            Some(path) => {
                let path = self.path(&path);
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                path.exists() || (cell.contains(['/', '\\']) && folder.is_some_and(Path::is_dir))
            }
        }
    }
}
