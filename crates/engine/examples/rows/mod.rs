//! Reads the CSV files of `datasets/`.

use std::path::Path;

/// Result of an example; any error ends it.
pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Reads a CSV file with two columns and no header.
pub(crate) fn read_rows(path: &Path) -> Fallible<Vec<(String, String)>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_path(path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let rows = reader.deserialize().collect::<Result<Vec<_>, _>>();
    rows.map_err(|e| format!("{}: {e}", path.display()).into())
}
