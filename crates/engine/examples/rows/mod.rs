//! Reading the lists of `datasets/`.

use std::path::Path;

/// An example gives up with whatever went wrong.
pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Rows of two fields, of a CSV file without a header.
pub(crate) fn read_rows(path: &Path) -> Fallible<Vec<(String, String)>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_path(path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let rows = reader.deserialize().collect::<Result<Vec<_>, _>>();
    rows.map_err(|e| format!("{}: {e}", path.display()).into())
}
