//! JSON as Python writes it, with the numbers `Infinity`, `-Infinity` and
//! `NaN`.
//!
//! A [`Value`] can't hold such numbers, so each becomes a string with a mark
//! before it, and is written back as a number.

use serde_json::Value;

use crate::{Error, Result};

const TOKENS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Precedes the name of a number that is not finite.
const MARK: &str = "\u{0}float:";

/// Parses JSON, including Python's extensions.
///
/// # Errors
/// [`Error::Checkpoint`] names the file `name`, line and column.
pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Value> {
    serde_json::from_slice(bytes)
        .or_else(|error| match with_markers(bytes) {
            Some(strict) => serde_json::from_slice(&strict),
            None => Err(error),
        })
        .map_err(|e| Error::checkpoint(format!("{name}: {e}")))
}

/// Writes a value that [`parse`] returned.
///
/// # Errors
/// [`Error::Checkpoint`] if the value can't be written.
pub(crate) fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::checkpoint(format!("JSON can't be written: {e}")))?;
    for token in TOKENS {
        // The mark's first character is escaped in JSON.
        text = text.replace(&format!("\"\\u0000float:{token}\""), token);
    }
    text.push('\n');
    Ok(text.into_bytes())
}

/// Returns a value's number, which may be infinite or NaN.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value.as_str().and_then(|text| text.strip_prefix(MARK)) {
        Some(token) => token.parse().ok(),
        None => value.as_f64(),
    }
}

/// Returns the JSON with such numbers as strings; `None` if there are none.
fn with_markers(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let (mut in_string, mut found, mut at) = (false, false, 0);
    while let Some(byte) = bytes.get(at) {
        let token = match in_string {
            true => None,
            false => TOKENS
                .iter()
                .find(|token| bytes[at..].starts_with(token.as_bytes())),
        };
        if let Some(token) = token {
            out.extend_from_slice(
                format!("\"{}{token}\"", MARK.replace('\0', "\\u0000")).as_bytes(),
            );
            at += token.len();
            found = true;
            continue;
        }
        if in_string && *byte == b'\\' {
            // An escaped quote does not end the string.
            out.extend_from_slice(&bytes[at..(at + 2).min(bytes.len())]);
            at += 2;
            continue;
        }
        in_string ^= *byte == b'"';
        out.push(*byte);
        at += 1;
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_numbers_are_read_and_written_unchanged() {
        let text = br#"{"a": [NaN, -Infinity, 1], "b": Infinity, "c": "Infinity \" NaN", "d": 2}"#;
        let value = parse(text, "config.json").unwrap();
        assert_eq!(value["d"], 2);
        assert_eq!(value["c"], "Infinity \" NaN");
        assert_eq!(number(&value["b"]), Some(f64::INFINITY));
        assert_eq!(number(&value["a"][1]), Some(f64::NEG_INFINITY));
        assert_eq!(
            (number(&value["d"]), number(&value["c"])),
            (Some(2.0), None)
        );
        let written = String::from_utf8(to_bytes(&value).unwrap()).unwrap();
        assert!(written.contains("\"b\": Infinity,"), "{written}");
        assert!(written.contains("NaN,\n    -Infinity,\n"), "{written}");
        assert!(written.contains(r#""c": "Infinity \" NaN""#), "{written}");
        assert_eq!(parse(written.as_bytes(), "config.json").unwrap(), value);
    }

    #[test]
    fn other_errors_have_line_and_column() {
        for bad in [
            "{\"a\": infinity}",
            "{\"a\": Infinit}",
            "{\"a\": \"\\",
            "",
            "{\"a\": NaN,}",
        ] {
            let error = parse(bad.as_bytes(), "config.json")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("config.json") && error.contains("line 1"),
                "{bad}: {error}"
            );
        }
    }
}
