//! Options for reading CSV files.

use std::path::PathBuf;

use super::dialect::Dialect;
use crate::{columns::Columns, options::Options};

/// Options for reading a CSV file. The defaults are the Python client's.
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
    /// `None`: guessed.
    pub(super) encoding: Option<String>,
    pub(super) header: Option<Vec<String>>,
    pub(super) first_row: FirstRow,
}

/// What the first row of a CSV file holds.
///
/// ```no_run
/// use finetuner::{Csv, CsvOptions, FirstRow};
///
/// let csv = Csv::path("train.csv").options(CsvOptions::new().first_row(FirstRow::Names));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstRow {
    /// Data, as every other row.
    #[default]
    Data,
    /// The names of the columns.
    Names,
    /// Names if each is one that [`Columns`] recognises, or else data.
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
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Options for a file whose first row holds names.
    pub(crate) fn with_names(common: Options) -> Self {
        Self {
            common,
            first_row: FirstRow::Names,
            ..Self::default()
        }
    }

    /// Takes this many rows at most, from the start; all by default.
    pub fn size(mut self, rows: u64) -> Self {
        self.common.size = Some(rows);
        self
    }

    /// Takes each row with this probability, from 0 to 1; all by default.
    pub fn sampling_rate(mut self, rate: f64) -> Self {
        self.common.sampling_rate = Some(rate);
        self
    }

    /// Delimiter and quotes; [`Dialect::Auto`] by default.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// The file's encoding, such as `utf-16` or `latin-1`. A byte order mark at the
    /// file's start overrides it. By default a file is UTF-8. A file that is not, but
    /// reads well as UTF-16 or windows-1252, is read as such with a warning.
    pub fn encoding(mut self, encoding: impl Into<String>) -> Self {
        self.encoding = Some(encoding.into());
        self
    }

    /// Whether the second column is a label, rather than another item of the
    /// same meaning; not by default.
    pub fn is_labeled(mut self, labeled: bool) -> Self {
        self.common.is_labeled = labeled;
        self
    }

    /// Whether to read pictures that are files of this machine; yes by default.
    pub fn convert_to_blob(mut self, convert: bool) -> Self {
        self.common.convert_to_blob = convert;
        self
    }

    /// Whether point clouds are drawn from the meshes of a model such as
    /// `pointnet++`, where they are files of this machine; yes by default.
    /// OFF, OBJ and STL files can be read. The points of a mesh are the same
    /// each time it is read.
    pub fn create_point_clouds(mut self, create: bool) -> Self {
        self.common.create_point_clouds = create;
        self
    }

    /// Points of a cloud; 2048 by default.
    pub fn point_cloud_size(mut self, points: u32) -> Self {
        self.common.point_cloud_size = points;
        self
    }

    /// What the first row holds; data by default. With [`CsvOptions::header`] or
    /// [`CsvOptions::columns`], it holds names.
    pub fn first_row(mut self, first_row: FirstRow) -> Self {
        self.first_row = first_row;
        self
    }

    /// The names in the first row. A file with other names is an error. By default the
    /// first row is data. Names that [`Columns`] lists give their columns a role.
    pub fn header<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.header = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Names the columns to train on. The first row of the file holds their names.
    pub fn columns(mut self, columns: Columns) -> Self {
        self.common.columns = columns;
        self
    }

    /// Reads the file as one that somebody else has written: what its rows name must
    /// lie in this folder and look like a picture, and rows are limited to 8 MiB.
    pub fn confined(mut self, folder: impl Into<PathBuf>) -> Self {
        self.common.confine(folder.into());
        self
    }

    /// The folder that paths in the file begin at; the current one by default.
    pub fn base_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.common.base_folder = Some(folder.into());
        self
    }
}
