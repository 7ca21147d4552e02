//! Files of rows whose columns have names.

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
    json_lines::JsonLines,
    options::Options,
    roles::Layout,
    source::DocumentSource,
    table::Table,
};

/// A file of rows whose columns have names: JSON Lines, Parquet, or a folder of
/// pictures. The names are those of the library `datasets`.
///
/// Rows are read as they are sent, a few at a time. [`Columns`] names the columns to
/// train on. Without it, columns are recognised by the names that data sets for
/// sentence-transformers have, and the log says which were taken. A row that can't
/// be used is an error with its number and column.
///
/// Pictures that rows name are uploaded with the data. Before pushing a file that
/// somebody else has written, look at the paths in it. Only
/// [`Dataset::image_folder`] refuses files outside of its folder.
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
    /// A file with a JSON object in each line, in UTF-8.
    pub fn json_lines(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::JsonLines(Input::Path(path.into())))
    }

    /// JSON Lines from a reader, which is read to its end into memory.
    ///
    /// # Errors
    /// Returns an error if reading fails.
    pub fn json_lines_reader(reader: impl Read) -> Result<Self> {
        let input = Input::read(reader, "the JSON Lines reader")?;
        Ok(Self::new(Source::JsonLines(input)))
    }

    /// A Parquet file. Pages may be uncompressed or compressed with Snappy, zstd
    /// or gzip. Pictures may be bytes, or the struct of bytes and path that the
    /// library `datasets` writes. One page of each column is in memory at a time,
    /// decompressed.
    #[cfg(feature = "parquet")]
    pub fn parquet(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::Parquet(path.into()))
    }

    /// A folder of pictures with a `metadata.csv` or `metadata.jsonl` in it, as
    /// `imagefolder` of the library `datasets`: the column `file_name` names
    /// pictures of the folder, others their captions (`text`) or labels (`label`).
    /// Pictures outside of the folder are refused, and so are links that lead out of
    /// it.
    pub fn image_folder(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::ImageFolder(path.into()))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            options: Options::default(),
        }
    }

    /// Names the columns to train on.
    #[must_use]
    pub fn columns(mut self, columns: Columns) -> Self {
        self.options.columns = columns;
        self
    }

    /// Takes this many rows at most, from the start; all by default.
    #[must_use]
    pub fn size(mut self, rows: u64) -> Self {
        self.options.size = Some(rows);
        self
    }

    /// Takes each row with this probability, from 0 to 1; all by default.
    #[must_use]
    pub fn sampling_rate(mut self, rate: f64) -> Self {
        self.options.sampling_rate = Some(rate);
        self
    }

    /// The folder that paths of pictures begin at; the current one by default, and
    /// the folder itself for [`Dataset::image_folder`].
    #[must_use]
    pub fn base_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.base_folder = Some(folder.into());
        self
    }

    /// Reads the file as one that somebody else has written: what its rows name must
    /// lie in this folder and look like a picture, rows are limited to 8 MiB, and
    /// the pages of a Parquet file to what 256 MiB of memory hold.
    #[must_use]
    pub fn confined(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.confine(folder.into());
        self
    }

    /// Whether to read pictures that are files of this machine; yes by default.
    #[must_use]
    pub fn convert_to_blob(mut self, convert: bool) -> Self {
        self.options.convert_to_blob = convert;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same = match (&self.source, &other.source) {
            (Source::JsonLines(a), Source::JsonLines(b)) => a.is_same(b),
            #[cfg(feature = "parquet")]
            (Source::Parquet(a), Source::Parquet(b)) => a == b,
            (Source::ImageFolder(a), Source::ImageFolder(b)) => a == b,
            _ => false,
        };
        same && self.options == other.options && self.options.sampling_rate.is_none()
    }

    /// Returns the documents for a layout. Each iteration reads the file again.
    /// Blocks.
    ///
    /// # Errors
    /// Returns an error if the file can't be read or its columns can't be used.
    pub fn documents(self, layout: Layout) -> Result<DocumentSource> {
        let table: Box<dyn Table> = match self.source {
            Source::JsonLines(input) => {
                Box::new(JsonLines::new(input.repeatable()?, self.options)?)
            }
            #[cfg(feature = "parquet")]
            Source::Parquet(path) => Box::new(crate::parquet::Parquet::new(path, self.options)?),
            Source::ImageFolder(folder) => image_folder(&folder, self.options)?,
        };
        documents::documents(table, &layout)
    }
}

/// The table beside the pictures of a folder.
fn image_folder(folder: &Path, mut options: Options) -> Result<Box<dyn Table>> {
    options.base_folder.get_or_insert_with(|| folder.to_owned());
    options.confined = true;
    let [csv, lines] = ["metadata.csv", "metadata.jsonl"].map(|name| folder.join(name));
    match (csv.is_file(), lines.is_file()) {
        (true, false) => {
            let options = CsvOptions::with_names(options);
            Csv::path(csv).options(options).table()
        }
        (false, true) => Ok(Box::new(JsonLines::new(Input::Path(lines), options)?)),
        (true, true) => Err(Error::setup(format!(
            "`{}` has a metadata.csv and a metadata.jsonl: leave one of them there",
            folder.display()
        ))),
        (false, false) => Err(Error::setup(format!(
            "`{}` has no metadata.csv and no metadata.jsonl, whose column `file_name` names the \
             pictures",
            folder.display()
        ))),
    }
}

#[cfg(test)]
mod tests;
