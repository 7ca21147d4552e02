//! Checks of values that users type or send, with the same errors in API and
//! console.

use crate::{
    database::Role,
    error::{ApiError, Result},
};

/// Maximum size of a description, in bytes.
pub(crate) const MAX_DESCRIPTION: usize = 16 << 10;

/// Refuses a text of more than `most` bytes.
pub(crate) fn check_length(field: &str, text: Option<&str>, most: usize) -> Result<()> {
    match text.map_or(0, str::len) {
        length if length > most => Err(ApiError::unprocessable(format!(
            "`{field}` has {length} bytes: at most {most} are allowed"
        ))),
        _ => Ok(()),
    }
}

/// Maximum length of a project's name, in bytes.
const MAX_PROJECT_NAME: usize = 64;

/// Checks the name of a new project. The characters are those that are safe in
/// headers and URLs.
pub(crate) fn check_project_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good = (1..=MAX_PROJECT_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('.');
    match good {
        true => Ok(()),
        false => Err(ApiError::unprocessable(format!(
            "`name` is `{name}`: give 1 to {MAX_PROJECT_NAME} ASCII letters, digits, `-`, `_` and `.`, \
             without a `.` at the start"
        ))),
    }
}

/// Parses the name of a role.
pub(crate) fn role(text: &str) -> Result<Role> {
    Role::parse(text).ok_or_else(|| {
        ApiError::unprocessable(format!(
            "`role` is `{text}`: give `viewer`, `member` or `owner`"
        ))
    })
}

/// Maximum value of `max_open_runs`.
const MOST_OPEN_RUNS: u64 = 1_000_000;

/// Checks a limit of open runs.
pub(crate) fn check_open_runs(most: u64) -> Result<()> {
    match (1..=MOST_OPEN_RUNS).contains(&most) {
        true => Ok(()),
        false => Err(ApiError::unprocessable(format!(
            "`max_open_runs` is {most}: 1 to {MOST_OPEN_RUNS} are allowed, and none for the \
             server's limit; to keep the user out, disable the user"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_names_are_valid_in_headers_and_urls() {
        for good in ["team", "A-1_b.c", &"x".repeat(64)] {
            check_project_name(good).unwrap();
        }
        for bad in ["", ".x", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            let error = check_project_name(bad).unwrap_err();
            assert!(error.message().contains("1 to 64"), "{bad:?}");
        }
    }
}
