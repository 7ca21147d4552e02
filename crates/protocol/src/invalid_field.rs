//! Errors of settings outside their limits, and the check of names.

use crate::text::start_of;

/// A setting outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {value}: {limit}")]
#[non_exhaustive]
pub struct InvalidField {
    /// Argument of `fit`, as Python names it, or path of an option.
    pub field: String,
    /// Value, cut if it is long.
    pub value: String,
    /// Allowed values.
    pub limit: String,
}

impl InvalidField {
    /// Creates the error of an argument, with its value and the allowed values.
    ///
    /// ```
    /// let error = finetuner_protocol::InvalidField::new("epochs", 50, "1 to 49 are allowed");
    /// assert_eq!(error.to_string(), "`epochs` is 50: 1 to 49 are allowed");
    /// ```
    #[must_use]
    pub fn new(field: &str, value: impl ToString, limit: &str) -> Self {
        Self {
            field: field.to_owned(),
            value: start_of(&value.to_string()),
            limit: limit.to_owned(),
        }
    }
}

/// Checks the name of a run, an experiment or a data set.
///
/// ```
/// use finetuner_protocol::check_name;
///
/// assert!(check_name("run_name", "clip-fashion-1").is_ok());
/// assert!(check_name("run_name", "a/b").is_err());
/// ```
///
/// # Errors
/// If the name is empty or blank, longer than 255 bytes, `.` or `..`, or contains a
/// slash, a backslash or a control character.
pub fn check_name(field: &str, name: &str) -> Result<(), InvalidField> {
    let quoted = format!("`{name}`");
    if name.trim().is_empty() {
        return Err(InvalidField::new(field, "empty", "give it a name"));
    }
    if name.len() > 255 {
        let length = format!("{} bytes long", name.len());
        return Err(InvalidField::new(
            field,
            length,
            "at most 255 bytes are allowed",
        ));
    }
    if name == "." || name == ".." {
        return Err(InvalidField::new(
            field,
            quoted,
            "this is not allowed as a name",
        ));
    }
    if name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        return Err(InvalidField::new(
            field,
            format!("{name:?}"),
            "slashes, backslashes and control characters are not allowed in a name",
        ));
    }
    Ok(())
}
