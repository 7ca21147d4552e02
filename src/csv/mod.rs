//! CSV files as training data, in the layouts of the Python client.
//!
//! | columns | is |
//! | --- | --- |
//! | item, label (with `is_labeled`) | items of one label are a positive pair |
//! | query, document | both have the same meaning |
//! | text, image (either order) | a pair for CLIP |
//! | item, item, score | how similar the two are, from 0 to 1 |
//! | any (for `synthesize`) | every cell is a text |
//!
//! There is no header row unless one is asked for.
//!
//! A file is read from its start each time that its documents are needed, once
//! to check them and once for each attempt to send them, with a few rows in
//! memory: [`records`] reads rows, [`columns`] decides what they hold, [`layout`]
//! makes documents of them. Pairs keep 24 bytes for each different item.

mod chars;
mod columns;
mod dialect;
mod layout;
mod mesh;
#[cfg(test)]
mod python;
mod read;
mod records;

use std::{
    io::{Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{DocumentSource, Error, Result};

pub(crate) use columns::Layout;
pub use dialect::Dialect;
#[cfg(feature = "local")]
pub(crate) use mesh::points_of;

/// A CSV file, or text in its form.
///
/// A row that can't be used is an error with its line, and so is a quote that is
/// not closed in its row. What may be meant is a warning through `tracing`: a
/// first row that looks like a header, columns that could be separated
/// otherwise, labels with spaces around them.
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

#[derive(Clone, Debug)]
enum Input {
    Path(PathBuf),
    Bytes(Arc<[u8]>),
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

    /// What a reader gives, to its end.
    ///
    /// ```no_run
    /// let csv = finetuner::Csv::reader(std::io::stdin());
    /// ```
    ///
    /// # Errors
    /// Where reading fails.
    pub fn reader(mut reader: impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        read.map_err(|e| Error::file(Path::new("the CSV reader"), e))?;
        Ok(Self {
            input: Input::Bytes(bytes.into()),
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

    /// How it is read.
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
        let same = match (&self.input, &other.input) {
            (Input::Path(a), Input::Path(b)) => a == b,
            (Input::Bytes(a), Input::Bytes(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        // Rows that are drawn are drawn anew.
        same && self.options == other.options && self.options.sampling_rate.is_none()
    }

    /// The file's name, or what stands for it in errors.
    fn name(&self) -> String {
        match &self.input {
            Input::Path(path) => path.display().to_string(),
            Input::Bytes(_) => "the CSV text".to_owned(),
        }
    }

    /// Opens it at its start.
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match &self.input {
            Input::Path(path) => {
                Box::new(std::fs::File::open(path).map_err(|e| Error::file(path, e))?)
            }
            Input::Bytes(bytes) => Box::new(Cursor::new(Arc::clone(bytes))),
        })
    }

    /// The documents of the file for a model of this kind. It is read each time
    /// that they are asked for. Blocks.
    pub(crate) fn documents(mut self, layout: Layout) -> Result<DocumentSource> {
        // What can be read only once, such as a pipe.
        if let Input::Path(path) = &self.input {
            let about = std::fs::metadata(path).map_err(|e| Error::file(path, e))?;
            if !about.is_file() {
                let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
                self.input = Input::Bytes(bytes.into());
            }
        }
        layout::documents(self, &layout)
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

/// How a CSV file is read. The defaults are the Python client's.
///
/// ```no_run
/// use finetuner::{Csv, CsvOptions};
///
/// let csv = Csv::path("train.csv").options(CsvOptions::new().encoding("latin-1").size(1000));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct CsvOptions {
    pub(crate) size: Option<usize>,
    pub(crate) sampling_rate: Option<f64>,
    pub(crate) dialect: Dialect,
    pub(crate) encoding: String,
    pub(crate) is_labeled: bool,
    pub(crate) convert_to_blob: bool,
    pub(crate) create_point_clouds: bool,
    pub(crate) point_cloud_size: u32,
    pub(crate) header: Option<Vec<String>>,
    pub(crate) base_folder: Option<PathBuf>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            size: None,
            sampling_rate: None,
            dialect: Dialect::Auto,
            encoding: "utf-8".to_owned(),
            is_labeled: false,
            convert_to_blob: true,
            create_point_clouds: true,
            point_cloud_size: 2048,
            header: None,
            base_folder: None,
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

    /// Takes this many rows at most, from the start; all by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().size(1000);
    /// ```
    pub fn size(mut self, rows: usize) -> Self {
        self.size = Some(rows);
        self
    }

    /// Takes each row with this probability, from 0 to 1; all by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().sampling_rate(0.1);
    /// ```
    pub fn sampling_rate(mut self, rate: f64) -> Self {
        self.sampling_rate = Some(rate);
        self
    }

    /// How columns are told apart; [`Dialect::Auto`] by default.
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

    /// The file's encoding, such as `utf-16` or `latin-1`; `utf-8` by default.
    /// A byte order mark at the file's start says more than this.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().encoding("utf-16");
    /// ```
    pub fn encoding(mut self, encoding: impl Into<String>) -> Self {
        self.encoding = encoding.into();
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
        self.is_labeled = labeled;
        self
    }

    /// Whether pictures that are files of this machine are read; yes by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().convert_to_blob(false);
    /// ```
    pub fn convert_to_blob(mut self, convert: bool) -> Self {
        self.convert_to_blob = convert;
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
        self.create_point_clouds = create;
        self
    }

    /// Points of a cloud; 2048 by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().point_cloud_size(1024);
    /// ```
    pub fn point_cloud_size(mut self, points: u32) -> Self {
        self.point_cloud_size = points;
        self
    }

    /// The first row holds names, and these are they. Other names in it are an
    /// error. By default the first row is data.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().header(["picture", "title"]);
    /// ```
    pub fn header<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.header = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// The folder that paths in the file begin at; the current one by default.
    ///
    /// ```no_run
    /// let options = finetuner::CsvOptions::new().base_folder("/data/fashion");
    /// ```
    pub fn base_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.base_folder = Some(folder.into());
        self
    }
}
