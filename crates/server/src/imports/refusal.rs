//! Reasons why a file is not stored, with messages for the upload page.

use std::path::Path;

use finetuner_data::{Error as DataError, Problems};
use finetuner_protocol::Document;

use crate::error::ApiError;

/// Reason why a file is not stored.
pub(crate) enum Refusal {
    /// The server failed to store it, or the user may not store it.
    Failed(ApiError),
    /// The value of a form field is invalid, or the whole file (field `file`).
    Field(&'static str, String),
    /// Rows are invalid. The first valid documents show how rows are interpreted.
    Rows(Problems, Vec<Document>),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl Refusal {
    /// Converts an error about data in `folder`. The message does not contain the
    /// path of the folder.
    pub(super) fn data(error: DataError, folder: &Path) -> Self {
        let prefix = format!("{}/", folder.display());
        let public = |text: &str| words(&text.replace(&prefix, ""));
        match error {
            DataError::Data(mut problems) => {
                for problem in &mut problems.problems {
                    problem.reason = public(&problem.reason);
                }
                Self::Rows(problems, Vec::new())
            }
            DataError::File { path, error } => {
                tracing::warn!("Can't read an uploaded file: {path}: {error}");
                Self::Field("file", "it can't be read: send it again".to_owned())
            }
            other => {
                let reason = public(&other.to_string());
                let is_encoding = reason.starts_with("`encoding`");
                Self::Field(if is_encoding { "encoding" } else { "file" }, reason)
            }
        }
    }
}

/// Replaces names of client options in a message by labels of the form.
pub(super) fn words(text: &str) -> String {
    const NAMES: [(&str, &str); 9] = [
        (
            "say with `Columns` which of them to train on, such as \
             `Columns::new().anchor(...).positive(...)`",
            "say under \"Columns\" which of them to train on",
        ),
        (
            ", such as `CsvOptions::dialect(Dialect::Excel)`",
            ", under \"Columns are separated by\"",
        ),
        ("with `Columns`", "under \"Columns\""),
        ("`columns`", "\"Columns\""),
        ("`CsvOptions::dialect`", "\"Columns are separated by\""),
        (
            "`CsvOptions::encoding(\"utf-16le\")`",
            "\"Encoding\" `utf-16le`",
        ),
        (
            "`CsvOptions::encoding(\"utf-16be\")`",
            "\"Encoding\" `utf-16be`",
        ),
        ("`CsvOptions::encoding`", "\"Encoding\""),
        (
            "give documents, or push the file before with the `model` of the list that it is like",
            "choose another kind of rows",
        ),
    ];
    NAMES.iter().fold(text.to_owned(), |text, (option, field)| {
        text.replace(option, field)
    })
}
