//! Labels that were meant to be the same.

use std::collections::BTreeMap;

use finetuner_protocol::text::start_of;

use crate::data::label_meaning;

/// Warns of labels that differ in nothing but spaces around them, characters
/// that can't be seen, or the form of a number or an accent. They are different
/// classes.
pub(super) fn alike<'a>(labels: impl Iterator<Item = &'a str>) -> Option<String> {
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
        "{count} {}, which count as different classes. Write each in one form",
        shown.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_were_meant_to_be_the_same_are_told() {
        let warning = alike(["1", "2", "1.0", " 2", "3", "1"].into_iter()).unwrap();
        assert!(
            warning.contains("2 labels have several forms, such as `1` and `1.0`"),
            "{warning}"
        );
        // An accent in two forms, and a character of no width.
        for other in ["cafe\u{301}", "caf\u{e9}\u{200b}"] {
            assert!(alike(["caf\u{e9}", other].into_iter()).is_some());
        }
        assert_eq!(alike(["a", "b", "A"].into_iter()), None);
    }
}
