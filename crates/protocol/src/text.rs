//! Shortened texts for errors, and checks for blank and missing texts.

/// Maximum number of characters of a text in an error.
const SHOWN: usize = 80;

/// Returns the start of a text, for use in errors.
///
/// Control characters are escaped. A text that is too long is cut, and its length is
/// added.
///
/// ```
/// use finetuner_protocol::text::start_of;
///
/// assert_eq!(start_of("a red dress"), "a red dress");
/// assert!(start_of(&"x".repeat(1000)).ends_with("… (1000 characters)"));
/// ```
#[must_use]
pub fn start_of(text: &str) -> String {
    let mut start = String::new();
    let mut rest = text.chars();
    for c in rest.by_ref().take(SHOWN) {
        match c.is_control() || (is_invisible(c) && !c.is_whitespace()) {
            true => start.extend(c.escape_default()),
            false => start.push(c),
        }
    }
    match rest.count() {
        0 => start,
        more => format!("{start}… ({} characters)", SHOWN + more),
    }
}

/// Returns the longest prefix of a text that fits into `bytes`, in whole characters.
///
/// ```
/// use finetuner_protocol::text::cut;
///
/// assert_eq!(cut("größe", 4), "grö");
/// assert_eq!(cut("größe", 3), "gr");
/// ```
#[must_use]
pub fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i));
    &text[..end.unwrap_or(0)]
}

/// Returns whether a text has no visible characters.
///
/// It is empty, or consists of white space, control characters and characters
/// without width.
///
/// ```
/// use finetuner_protocol::text::is_blank;
///
/// assert!(is_blank("") && is_blank(" \u{a0}\n") && is_blank("\u{200b}\u{feff}\0"));
/// assert!(!is_blank("a") && !is_blank("❤\u{fe0f}"));
/// ```
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_invisible)
}

/// Returns whether a text is a missing value as pandas writes it.
///
/// ```
/// use finetuner_protocol::text::is_missing;
///
/// assert!(is_missing("nan") && is_missing(" NaN") && is_missing("<NA>"));
/// assert!(!is_missing("banana") && !is_missing("NA"));
/// ```
#[must_use]
pub fn is_missing(text: &str) -> bool {
    let text = text.trim();
    text.eq_ignore_ascii_case("nan") || matches!(text, "<NA>" | "NaT")
}

/// Returns whether a text may be a missing value.
///
/// Spreadsheets, databases and programs use these words for missing values, but they
/// may also be real values.
///
/// ```
/// use finetuner_protocol::text::may_be_missing;
///
/// assert!(may_be_missing("None") && may_be_missing("NULL") && may_be_missing("#N/A"));
/// assert!(!may_be_missing("dress"));
/// ```
#[must_use]
pub fn may_be_missing(text: &str) -> bool {
    const WORDS: [&str; 8] = ["none", "null", "na", "n/a", "#n/a", "nil", "undefined", "-"];
    let text = text.trim();
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether a character is invisible: white space, control and format characters,
/// fillers, variation selectors and tags (Unicode's `Default_Ignorable_Code_Point`).
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}
