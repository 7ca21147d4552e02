//! Options for reading CSV files.

use std::path::PathBuf;

use super::dialect::Dialect;
use crate::{columns::Columns, options::Options};

/// Options for reading CSV data. The defaults are those of the Python client.
///
/// ```no_run
/// use finetuner::{Csv, CsvOptions};
///
/// let csv = Csv::path("train.csv").options(CsvOptions::new().encoding("latin-1").size(1000));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct CsvOptions {
    pub(crate) common: Options,
    pub(super) dialect: Dialect,
    /// `None` to detect it.
    pub(super) encoding: Option<String>,
    pub(super) header: Option<Vec<String>>,
    pub(super) first_row: FirstRow,
}

/// Content of the first row of a CSV file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstRow {
    /// Data, like every other row.
    #[default]
    Data,
    /// The names of the columns.
    Names,
    /// Names if all cells are common names of columns, and data otherwise.
    Guess,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            common: Options::default(),
            dialect: Dialect::Auto,
            encoding: None,
            header: None,
            first_row: FirstRow::Data,
        }
    }
}

impl CsvOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates options for a file whose first row has the names of the columns.
    pub(crate) fn with_names(common: Options) -> Self {
        Self {
            common,
            first_row: FirstRow::Names,
            ..Self::default()
        }
    }

    /// Sets the maximum number of rows, from the start; all rows by default.
    pub fn size(mut self, rows: u64) -> Self {
        self.common.size = Some(rows);
        self
    }

    /// Sets the probability that a row is used, from 0 to 1; all rows by default.
    pub fn sampling_rate(mut self, rate: f64) -> Self {
        self.common.sampling_rate = Some(rate);
        self
    }

    /// Sets the delimiter and quotes; [`Dialect::Auto`] by default.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Sets the encoding of the file, such as `utf-16` or `latin-1`.
    ///
    /// A byte order mark at the start of the file overrides it. By default the encoding
    /// is UTF-8, or with a warning UTF-16 or windows-1252 if the file clearly has it.
    pub fn encoding(mut self, encoding: impl Into<String>) -> Self {
        self.encoding = Some(encoding.into());
        self
    }

    /// Sets whether the second column is a label; `false` by default.
    ///
    /// Otherwise the second column is a positive of the first.
    pub fn is_labeled(mut self, labeled: bool) -> Self {
        self.common.is_labeled = labeled;
        self
    }

    /// Sets whether the content of local images is uploaded; `true` by default.
    ///
    /// If `false`, documents only have the paths of the images.
    pub fn convert_to_blob(mut self, convert: bool) -> Self {
        self.common.convert_to_blob = convert;
        self
    }

    /// Sets whether point clouds are sampled from local meshes; `true` by default.
    ///
    /// This applies to models of meshes, such as `pointnet++`. Meshes are OFF, OBJ or STL
    /// files. The same file always gives the same points.
    pub fn create_point_clouds(mut self, create: bool) -> Self {
        self.common.create_point_clouds = create;
        self
    }

    /// Sets the number of points of a point cloud; 2048 by default.
    pub fn point_cloud_size(mut self, points: u32) -> Self {
        self.common.point_cloud_size = points;
        self
    }

    /// Sets the content of the first row; [`FirstRow::Data`] by default.
    ///
    /// With [`CsvOptions::header`] or [`CsvOptions::columns`], the first row always has
    /// names.
    pub fn first_row(mut self, first_row: FirstRow) -> Self {
        self.first_row = first_row;
        self
    }

    /// Sets the names that the first row must have.
    ///
    /// A file with other names is an error. Columns with a name in the documentation of
    /// [`Columns`] get its role.
    pub fn header<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.header = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the columns to train on. The first row of the file has the names.
    pub fn columns(mut self, columns: Columns) -> Self {
        self.common.columns = columns;
        self
    }

    /// Sets limits for a file that another user wrote.
    ///
    /// Files that rows name must be in this folder and begin like images. A row is
    /// limited to 8 Mi characters.
    pub fn confined(mut self, folder: impl Into<PathBuf>) -> Self {
        self.common.confine(folder.into());
        self
    }

    /// Sets the folder that paths are relative to; the current folder by default.
    pub fn base_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.common.base_folder = Some(folder.into());
        self
    }
}
