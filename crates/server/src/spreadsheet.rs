//! CSV files for spreadsheets.

use std::io;

/// Formats rows as CSV.
///
/// # Errors
/// If a row has another number of cells than the first one.
pub(crate) fn to_csv<R>(rows: impl IntoIterator<Item = R>) -> io::Result<Vec<u8>>
where
    R: IntoIterator,
    R::Item: AsRef<[u8]>,
{
    let mut file = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    for row in rows {
        file.write_record(row)?;
    }
    file.into_inner().map_err(|e| e.into_error())
}

/// Escapes a text so that spreadsheets don't interpret it as a formula.
pub(crate) fn plain(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}
