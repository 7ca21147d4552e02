//! Formatting of names, numbers, times and URLs.

use std::borrow::Cow;

use maud::{Markup, html};

/// Renders a user's text so that it can't change the writing direction of the
/// text around it.
pub(super) fn name(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
}

/// Replaces invisible characters that change the writing direction. For titles
/// and attributes, where [`name`] can't be used.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    let turns = |c: char| {
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}')
    };
    match text.contains(turns) {
        true => text.replace(turns, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// Returns the start of a text, with an ellipsis if it has more characters.
pub(super) fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Formats a count with its noun: `1 run`, `2 runs`.
pub(super) fn count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// Renders a time of the database, such as `2026-01-31T12:34:56.789Z`. `live.js`
/// converts it to the browser's time zone.
pub(super) fn time(text: &str) -> Markup {
    let shown = text.get(..16).unwrap_or(text).replace('T', " ");
    html! { time datetime=(text) { (shown) " UTC" } }
}

/// Formats a duration.
pub(super) fn seconds(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// Formats a size.
pub(super) fn bytes(count: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} bytes"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

/// Formats a number with few digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

/// Returns the path of a console page, with percent-encoded segments.
pub(super) fn path(parts: &[&str]) -> String {
    let mut url = match url::Url::parse("http://x/console/") {
        Ok(url) => url,
        Err(_) => return "/console/".to_owned(),
    };
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(parts);
    }
    url.path().to_owned()
}

/// Returns a submitted URL if it is a page of the console, else `None`.
pub(super) fn own_address(text: &str) -> Option<&str> {
    Some(text).filter(|text| text.starts_with("/console/"))
}

/// Returns a query string of the fields that are not empty.
pub(super) fn query(fields: &[(&str, &str)]) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        text.append_pair(name, value);
    }
    match text.finish() {
        empty if empty.is_empty() => empty,
        text => format!("?{text}"),
    }
}

/// Formats JSON with indentation.
pub(super) fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_change_the_text_direction() {
        assert_eq!(visible("abc"), "abc");
        assert_eq!(visible("a\u{202e}b\u{2066}c"), "a\u{fffd}b\u{fffd}c");
        // Right-to-left scripts stay unchanged.
        assert_eq!(visible("ריצה"), "ריצה");
        assert_eq!(name("<\u{202e}").0, "<bdi>&lt;\u{fffd}</bdi>");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö…");
        assert_eq!(cut("äöü", 3), "äöü");
    }

    #[test]
    fn counts_have_singular_and_plural() {
        assert_eq!(count(0, "run"), "0 runs");
        assert_eq!(count(1, "run"), "1 run");
        assert_eq!(count(2, "run"), "2 runs");
    }

    #[test]
    fn times_have_a_zone() {
        let shown = time("2026-01-31T12:34:56.789Z").0;
        assert!(shown.contains(">2026-01-31 12:34 UTC<"), "{shown}");
    }

    #[test]
    fn durations_and_sizes_have_a_fitting_unit() {
        assert_eq!(seconds(5_000), "5 s");
        assert_eq!(seconds(65_000), "1 min 5 s");
        assert_eq!(seconds(3_700_000), "1 h 1 min");
        assert_eq!(bytes(10), "10 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 40), "5120.0 GiB");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.5, "1.5"),
            (0.12345, "0.1235"),
            (1e-5, "1.0e-5"),
            (2e7, "2.0e7"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn redirects_to_other_sites_are_refused() {
        assert_eq!(own_address("/console/runs?q=x"), Some("/console/runs?q=x"));
        for other in ["", "https://x.example/console/", "//x.example", "/v2/"] {
            assert_eq!(own_address(other), None);
        }
    }

    #[test]
    fn names_are_percent_encoded_in_urls() {
        let address = path(&["experiments", "a/b ?\"<x>", "runs", "r"]);
        assert_eq!(address, "/console/experiments/a%2Fb%20%3F%22%3Cx%3E/runs/r");
        assert_eq!(query(&[("q", "a&b"), ("x", "")]), "?q=a%26b");
        assert_eq!(query(&[("x", "")]), "");
    }
}
