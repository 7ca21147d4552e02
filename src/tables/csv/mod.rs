//! CSV files: encodings, dialects, records.

mod chars;
mod dialect;
mod encoding;
#[cfg(test)]
mod python;
mod read;
mod records;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::{Columns, Layout, Table, documents, input::Input, options::Options};
use crate::{DocumentSource, Result};

pub use dialect::Dialect;
use read::Reading;

/// Name of input without a file, in errors.
const UNNAMED: &str = "the CSV text";

/// A CSV file, or text in its form.
///
/// A row that can't be used is an error with its line, and so is a quote that is
/// not closed in its row. Doubtful contents are warnings through `tracing`: a first
/// row that looks like a header, columns that could be separated otherwise, labels
/// with spaces around them.
///
/// The pictures and meshes that it names are uploaded when it is pushed. Before
/// pushing a file that somebody else has written, look at the paths in it.
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::{Csv, CsvOptions, Loss};
///
/// let train_data = Csv::path("train.csv").options(CsvOptions::new().base_folder("pictures"));
/// let run = finetuner.fit("clip-base-en", train_data).loss(Loss::Clip).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Csv {
    input: Input,
    options: CsvOptions,
}

impl Csv {
    /// A file.
    ///
    /// ```no_run
    /// let csv = finetuner::Csv::path("train.csv");
    /// ```
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self {
            input: Input::Path(path.into()),
            options: CsvOptions::default(),
        }
    }

    /// Text from a reader, which is read to its end into memory.
    ///
    /// ```no_run
    /// let csv = finetuner::Csv::reader(std::io::stdin());
    /// ```
    ///
    /// # Errors
    /// Returns an error if reading fails.
    pub fn reader(reader: impl Read) -> Result<Self> {
        Ok(Self {
            input: Input::read(reader, "the CSV reader")?,
            options: CsvOptions::default(),
        })
    }

    /// A text.
    ///
    /// ```no_run
    /// let csv = finetuner::Csv::text("a red dress,dress.png\na blue shoe,shoe.png\n");
    /// ```
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self {
            input: Input::Bytes(text.as_ref().as_bytes().into()),
            options: CsvOptions::default(),
        }
    }

    /// Sets the options of the file.
    ///
    /// ```no_run
    /// use finetuner::{Csv, CsvOptions};
    ///
    /// let csv = Csv::path("train.csv").options(CsvOptions::new().is_labeled(true));
    /// ```
    #[must_use]
    pub fn options(mut self, options: CsvOptions) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn has_default_options(&self) -> bool {
        self.options == CsvOptions::default()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // Random rows differ each time.
        let is_drawn = self.options.common.sampling_rate.is_some();
        self.input.is_same(&other.input) && self.options == other.options && !is_drawn
    }

    /// Returns the documents of the file for a layout. Each iteration reads the file
    /// again. Blocks.
    pub(crate) fn documents(self, layout: Layout) -> Result<DocumentSource> {
        documents::documents(self.table()?, &layout)
    }

    pub(super) fn table(mut self) -> Result<Box<dyn Table>> {
        self.input = self.input.repeatable()?;
        Ok(Box::new(Reading::new(self)?))
    }
}

impl From<PathBuf> for crate::DataSource {
    fn from(path: PathBuf) -> Self {
        Self::Csv(Csv::path(path))
    }
}

impl From<&Path> for crate::DataSource {
    fn from(path: &Path) -> Self {
        Self::Csv(Csv::path(path))
    }
}

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
    pub(super) common: Options,
    dialect: Dialect,
    /// `None`: guessed.
    encoding: Option<String>,
    header: Option<Vec<String>>,
    /// The first row holds names, whatever they are.
    has_names: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            common: Options::default(),
            dialect: Dialect::Auto,
            encoding: None,
            header: None,
            has_names: false,
        }
    }
}

impl CsvOptions {
    /// The defaults.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Options for a file whose first row holds names.
    pub(super) fn with_names(common: Options) -> Self {
        Self {
            common,
            has_names: true,
            ..Self::default()
        }
    }

    /// Takes this many rows at most, from the start; all by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().size(1000);
    /// ```
    pub fn size(mut self, rows: usize) -> Self {
        self.common.size = Some(rows);
        self
    }

    /// Takes each row with this probability, from 0 to 1; all by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().sampling_rate(0.1);
    /// ```
    pub fn sampling_rate(mut self, rate: f64) -> Self {
        self.common.sampling_rate = Some(rate);
        self
    }

    /// Delimiter and quotes; [`Dialect::Auto`] by default.
    ///
    /// ```no_run
    /// use finetuner::{CsvOptions, Dialect};
    ///
    /// let options = CsvOptions::new().dialect(Dialect::Excel);
    /// ```
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// The file's encoding, such as `utf-16` or `latin-1`. A byte order mark at the
    /// file's start overrides it. By default a file is UTF-8. A file that is not, but
    /// reads well as UTF-16 or windows-1252, is read as such with a warning.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().encoding("utf-16");
    /// ```
    pub fn encoding(mut self, encoding: impl Into<String>) -> Self {
        self.encoding = Some(encoding.into());
        self
    }

    /// Whether the second column is a label, rather than another item of the
    /// same meaning; not by default.
    ///
    /// ```no_run
    /// // A text and a label in each row.
    /// let options = finetuner::CsvOptions::new().is_labeled(true);
    /// ```
    pub fn is_labeled(mut self, labeled: bool) -> Self {
        self.common.is_labeled = labeled;
        self
    }

    /// Whether to read pictures that are files of this machine; yes by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().convert_to_blob(false);
    /// ```
    pub fn convert_to_blob(mut self, convert: bool) -> Self {
        self.common.convert_to_blob = convert;
        self
    }

    /// Whether point clouds are drawn from the meshes of a model such as
    /// `pointnet++`, where they are files of this machine; yes by default.
    /// OFF, OBJ and STL files can be read. The points of a mesh are the same
    /// each time it is read.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().create_point_clouds(false);
    /// ```
    pub fn create_point_clouds(mut self, create: bool) -> Self {
        self.common.create_point_clouds = create;
        self
    }

    /// Points of a cloud; 2048 by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().point_cloud_size(1024);
    /// ```
    pub fn point_cloud_size(mut self, points: u32) -> Self {
        self.common.point_cloud_size = points;
        self
    }

    /// The names in the first row. A file with other names is an error. By default the
    /// first row is data. Names that [`Columns`] lists give their columns a role.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().header(["picture", "title"]);
    /// ```
    pub fn header<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.header = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Names the columns to train on. The first row of the file holds their names.
    ///
    /// ```no_run
    /// use finetuner::{Columns, CsvOptions};
    ///
    /// let columns = Columns::new().anchor("question").positive("answer").negative("wrong");
    /// let options = CsvOptions::new().columns(columns);
    /// ```
    pub fn columns(mut self, columns: Columns) -> Self {
        self.common.columns = columns;
        self
    }

    /// The folder that paths in the file begin at; the current one by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().base_folder("/data/fashion");
    /// ```
    pub fn base_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.common.base_folder = Some(folder.into());
        self
    }
}
