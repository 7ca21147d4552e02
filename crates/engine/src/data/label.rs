//! Compares labels by their meaning.

use finetuner_protocol::text::is_blank;
use tokenizers::NormalizedString;

/// Returns the normal form of a label.
///
/// It is trimmed, without invisible characters, and with numbers and accents in one
/// notation.
pub(crate) fn label_meaning(label: &str) -> String {
    let seen = |c: &char| c.is_whitespace() || !is_blank(c.encode_utf8(&mut [0; 4]));
    let label: String = label.chars().filter(seen).collect();
    let label = label.trim();
    match label.parse::<f64>() {
        Ok(number) if number.is_finite() => number.to_string(),
        _ => NormalizedString::from(label).nfc().get().to_owned(),
    }
}
