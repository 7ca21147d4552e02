//! JSON Lines, Parquet files and folders of images.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    columns::Columns,
    csv::{Csv, CsvOptions},
    documents,
    error::{Error, Result},
    input::Input,
    json_lines,
    layout::Layout,
    options::Options,
    source::DocumentSource,
    table::Table,
};

/// Training data with named columns: JSON Lines, Parquet, or a folder of images.
///
/// The formats are those of the library `datasets`. Rows are read while they are
/// uploaded, a few at a time. [`Columns`] names the columns to train on. Without it,
/// columns are recognized by the names that data sets for sentence-transformers have,
/// and their roles are logged. A row that can't be used is an error with its number and
/// column.
///
/// Images that rows name by a local path are uploaded with the data. Before you push a
/// file that someone else wrote, check the paths in it. Only [`Dataset::image_folder`]
/// and [`Dataset::confined`] reject files outside their folder.
///
/// | columns | training data |
/// | --- | --- |
/// | `anchor`, `positive` | pairs |
/// | `anchor`, `positive`, `negative` (or `negative_1`, `negative_2`, ...) | anchors with negatives |
/// | `sentence1`, `sentence2`, `score` | scored pairs |
/// | `query`, `positive`, `negative`, `score` (a number, or a list) | margins |
/// | `text`, `label` | classes |
/// | `image`, `caption` | pairs for CLIP |
///
/// ```no_run
/// # async fn example(finetuner: finetuner::Finetuner) -> finetuner::Result<()> {
/// use finetuner::Dataset;
///
/// let run = finetuner
///     .fit("minilm-small", Dataset::json_lines("train.jsonl"))
///     .loss("MultipleNegativeRankingLoss")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Source,
    options: Options,
}

#[derive(Clone, Debug)]
enum Source {
    JsonLines(Input),
    #[cfg(feature = "parquet")]
    Parquet(PathBuf),
    ImageFolder(PathBuf),
}

impl Dataset {
    /// Reads a UTF-8 file with a JSON object in each line.
    pub fn json_lines(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::JsonLines(Input::Path(path.into())))
    }

    /// Reads JSON Lines from a reader, which is read into memory at once.
    ///
    /// # Errors
    /// Returns an error if reading fails.
    pub fn json_lines_reader(reader: impl Read) -> Result<Self> {
        let input = Input::read(reader, "the JSON Lines reader")?;
        Ok(Self::new(Source::JsonLines(input)))
    }

    /// Reads a Parquet file.
    ///
    /// Pages may be uncompressed or compressed with Snappy, zstd or gzip. Images may be
    /// bytes, or the struct of bytes and path that the library `datasets` writes. One
    /// decompressed page of each column is in memory at a time.
    #[cfg(feature = "parquet")]
    pub fn parquet(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::Parquet(path.into()))
    }

    /// Reads a folder of images with a `metadata.csv` or `metadata.jsonl`.
    ///
    /// The format is `imagefolder` of the library `datasets`: the column `file_name` has
    /// the paths of the images in the folder, and other columns have their captions
    /// (`text`) or labels (`label`). Paths and symbolic links to files outside the folder
    /// are errors.
    pub fn image_folder(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::ImageFolder(path.into()))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            options: Options::default(),
        }
    }

    /// Sets the columns to train on.
    #[must_use]
    pub fn columns(mut self, columns: Columns) -> Self {
        self.options.columns = columns;
        self
    }

    /// Sets the maximum number of rows, from the start; all rows by default.
    #[must_use]
    pub fn size(mut self, rows: u64) -> Self {
        self.options.size = Some(rows);
        self
    }

    /// Sets the probability that a row is used, from 0 to 1; all rows by default.
    #[must_use]
    pub fn sampling_rate(mut self, rate: f64) -> Self {
        self.options.sampling_rate = Some(rate);
        self
    }

    /// Sets the folder that paths of images are relative to.
    ///
    /// The default is the current folder, or for [`Dataset::image_folder`] the folder
    /// itself.
    #[must_use]
    pub fn base_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.base_folder = Some(folder.into());
        self
    }

    /// Sets limits for a file that another user wrote.
    ///
    /// Files that rows name must be in this folder and begin like images. A row is
    /// limited to 8 MiB, and the pages of a Parquet file that are in memory at once to
    /// 256 MiB.
    #[must_use]
    pub fn confined(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.confine(folder.into());
        self
    }

    /// Sets whether the content of local images is uploaded; `true` by default.
    ///
    /// If `false`, documents only have the paths of the images.
    #[must_use]
    pub fn convert_to_blob(mut self, convert: bool) -> Self {
        self.options.convert_to_blob = convert;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        // Random samples differ, so data with a sampling rate is never the same.
        let same = match (&self.source, &other.source) {
            (Source::JsonLines(a), Source::JsonLines(b)) => a.is_same(b),
            #[cfg(feature = "parquet")]
            (Source::Parquet(a), Source::Parquet(b)) => a == b,
            (Source::ImageFolder(a), Source::ImageFolder(b)) => a == b,
            _ => false,
        };
        same && self.options == other.options && self.options.sampling_rate.is_none()
    }

    /// Returns the documents for a layout. Blocks.
    ///
    /// Each iteration over the documents reads the file again.
    ///
    /// # Errors
    /// Returns an error if the file can't be read or its columns can't be used.
    pub fn documents(self, layout: Layout) -> Result<DocumentSource> {
        let table: Box<dyn Table> = match self.source {
            Source::JsonLines(input) => {
                Box::new(json_lines::open(input.repeatable()?, self.options)?)
            }
            #[cfg(feature = "parquet")]
            Source::Parquet(path) => Box::new(crate::parquet::open(path, self.options)?),
            Source::ImageFolder(folder) => image_folder(&folder, self.options)?,
        };
        documents::documents(table, &layout)
    }
}

/// Opens the metadata file of a folder of images.
fn image_folder(folder: &Path, mut options: Options) -> Result<Box<dyn Table>> {
    options.base_folder.get_or_insert_with(|| folder.to_owned());
    options.confined = true;
    let [csv, lines] = ["metadata.csv", "metadata.jsonl"].map(|name| folder.join(name));
    match (csv.is_file(), lines.is_file()) {
        (true, false) => {
            let options = CsvOptions::with_names(options);
            Csv::path(csv).options(options).table()
        }
        (false, true) => Ok(Box::new(json_lines::open(Input::Path(lines), options)?)),
        (true, true) => Err(Error::setup(format!(
            "`{}` has both a metadata.csv and a metadata.jsonl: remove one of them",
            folder.display()
        ))),
        (false, false) => Err(Error::setup(format!(
            "`{}` has no metadata.csv and no metadata.jsonl: add one with a column `file_name` \
             that has the paths of the images",
            folder.display()
        ))),
    }
}

#[cfg(test)]
mod tests;
