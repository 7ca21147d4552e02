//! The columns of a list of runs: known columns, the selection, and the cookie
//! that stores it.

use axum::http::HeaderMap;

use crate::console::cookies::cookie;

/// Name of the cookie with the selected columns.
pub(super) const COOKIE: &str = "finetuner_columns";
/// Lifetime of the cookie in seconds.
pub(super) const AGE: u32 = 365 * 86400;
/// Maximum number of columns of a list, and of bytes of the cookie's value. Browsers
/// drop cookies that exceed 4 KiB including name and attributes.
const MAX_COLUMNS: usize = 40;
const MAX_COOKIE_BYTES: usize = 3500;

/// Placeholders for the metric selected in the list: its value before and after
/// the training, and the change.
pub(super) const BEFORE: &str = "@before";
pub(super) const AFTER: &str = "@after";
pub(super) const CHANGE: &str = "@change";

/// Columns of every list: field, label, whether it is shown by default.
pub(super) const KNOWN: [(&str, &str, bool); 18] = [
    ("experiment", "Experiment", true),
    ("state", "State", true),
    ("tags", "Tags", true),
    ("model", "Model", true),
    ("train_data", "Training data", false),
    ("loss", "Loss", false),
    ("optimizer", "Optimizer", false),
    ("learning_rate", "Learning rate", true),
    ("epochs", "Epochs", true),
    ("batch_size", "Batch size", false),
    (BEFORE, "Metric before", true),
    (AFTER, "Metric after", true),
    (CHANGE, "Change of the metric", true),
    ("duration", "Duration", true),
    ("created", "Created", true),
    ("device", "Device", false),
    ("description", "Description", false),
    ("note", "Note", false),
];

/// The selected columns in order. The name is always the first column and not
/// included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns(pub(super) Vec<String>);

impl Default for Columns {
    fn default() -> Self {
        let shown = KNOWN.iter().filter(|(.., shown)| *shown);
        Self(shown.map(|(field, ..)| (*field).to_owned()).collect())
    }
}

impl Columns {
    /// Reads the selection from the cookie.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let Some(value) = cookie(headers, COOKIE) else {
            return Self::default();
        };
        let fields = url::form_urlencoded::parse(value.as_bytes());
        let chosen = fields.filter(|(name, _)| name == "c");
        Self::of(chosen.map(|(_, field)| field.into_owned())).unwrap_or_default()
    }

    /// Parses the submitted selection: a field `c` for each column, and `more`
    /// with further columns separated by commas.
    ///
    /// # Errors
    /// The selection is too large for a cookie.
    pub(super) fn chosen(fields: &[(String, String)]) -> Result<Self, String> {
        let of = |wanted: &'static str| fields.iter().filter(move |(name, _)| name == wanted);
        let more = of("more").flat_map(|(_, text)| text.split(',').map(str::trim));
        let all = of("c").map(|(_, field)| field.as_str()).chain(more);
        Self::of(all.map(str::to_owned))
    }

    fn of(fields: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut all: Vec<String> = Vec::new();
        for field in fields.filter(|field| !field.is_empty()) {
            if !all.contains(&field) {
                all.push(field);
            }
        }
        let all = Self(all);
        let (count, bytes) = (all.0.len(), all.value().len());
        if count > MAX_COLUMNS || bytes > MAX_COOKIE_BYTES {
            return Err(format!(
                "`columns`: the names of {count} columns take {bytes} bytes in a cookie (letters \
                 other than a to z take up to 12 each): at most {MAX_COLUMNS} columns and {MAX_COOKIE_BYTES} \
                 bytes are allowed: choose fewer"
            ));
        }
        Ok(all)
    }

    /// Returns the cookie's value.
    pub(super) fn value(&self) -> String {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        for field in &self.0 {
            text.append_pair("c", field);
        }
        text.finish()
    }

    /// Returns the columns to show. With `of_one`, all runs have the same
    /// experiment, and its column is omitted.
    pub(super) fn shown(&self, of_one: bool) -> impl Iterator<Item = &str> {
        let all = self.0.iter().map(String::as_str);
        all.filter(move |field| !(of_one && *field == "experiment"))
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.0.iter().any(|own| own == field)
    }
}

/// Returns the header of a column.
pub(super) fn label(field: &str) -> &str {
    let known = KNOWN.iter().find(|(name, ..)| *name == field);
    known.map_or(field, |(_, label, _)| label)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn chosen_columns_survive_the_cookie() {
        let fields = [
            ("c", "state"),
            ("more", "a.change, größe;,state"),
            ("q", "x"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let chosen = Columns::chosen(&fields).unwrap();
        assert_eq!(chosen.0, ["state", "a.change", "größe;"]);
        let mut headers = HeaderMap::new();
        assert_eq!(Columns::read(&headers), Columns::default());
        let value = format!("a=b; {COOKIE}={}", chosen.value());
        assert!(!chosen.value().contains([';', ' ', ',']));
        headers.insert(header::COOKIE, HeaderValue::from_str(&value).unwrap());
        assert_eq!(Columns::read(&headers), chosen);
        let chosen = |name: String| Columns::chosen(&[("more".to_owned(), name)]);
        assert!(chosen("x".repeat(3498)).is_ok());
        let error = chosen("x".repeat(3499)).unwrap_err();
        assert!(error.contains("take 3501 bytes"), "{error}");
        // Each takes 6 bytes in the cookie.
        let error = chosen("ß".repeat(900)).unwrap_err();
        assert!(error.contains("take 5402 bytes"), "{error}");
    }
}
