//! Finds labels that differ by accident.

use std::collections::BTreeMap;

use finetuner_protocol::text::start_of;

use crate::data::label_meaning;

/// Returns a warning if labels differ only in notation.
///
/// That is: in surrounding spaces, invisible characters, or the notation of a number or
/// an accent. Such labels count as different classes.
pub(super) fn warn_of_variants<'a>(labels: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut forms: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for label in labels {
        if seen.insert(label) {
            forms.entry(label_meaning(label)).or_default().push(label);
        }
    }
    let several = || forms.values().filter(|forms| forms.len() > 1);
    let first = several().next()?;
    let shown: Vec<String> = first
        .iter()
        .map(|form| format!("`{}`", start_of(form)))
        .collect();
    let count = match several().count() {
        1 => "1 label has several forms:".to_owned(),
        n => format!("{n} labels have several forms, such as"),
    };
    Some(format!(
        "{count} {}, which count as different classes. Write each label in one form",
        shown.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_differ_by_accident_are_reported() {
        let warning = warn_of_variants(["1", "2", "1.0", " 2", "3", "1"].into_iter()).unwrap();
        assert!(
            warning.contains("2 labels have several forms, such as `1` and `1.0`"),
            "{warning}"
        );
        // The other Unicode form of an accent, and a zero-width character.
        for other in ["cafe\u{301}", "caf\u{e9}\u{200b}"] {
            assert!(warn_of_variants(["caf\u{e9}", other].into_iter()).is_some());
        }
        assert_eq!(warn_of_variants(["a", "b", "A"].into_iter()), None);
    }
}
