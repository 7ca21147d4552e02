//! Labels that were meant to be the same, and evaluations in which nothing can
//! be found.

use std::collections::{BTreeMap, HashMap};

use finetuner_protocol::{callback::EvaluationCallback, text::start_of};

use crate::{Error, Result, data::SearchSet};

/// The normal form of a label: no spaces around it, numbers in one form.
fn meaning(label: &str) -> String {
    let label = label.trim();
    match label.parse::<f64>() {
        Ok(number) if number.is_finite() => number.to_string(),
        _ => label.to_owned(),
    }
}

/// Warns of labels that differ in nothing but spaces around them or the form of
/// a number. They are different classes.
pub(super) fn alike<'a>(labels: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut forms: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for label in labels {
        if seen.insert(label) {
            forms.entry(meaning(label)).or_default().push(label);
        }
    }
    let several = || forms.values().filter(|forms| forms.len() > 1);
    let first = several().next()?;
    let shown: Vec<String> = first
        .iter()
        .map(|form| format!("`{}`", start_of(form)))
        .collect();
    Some(format!(
        "{} labels have several forms, such as {}, which count as different classes: write each \
         in one form",
        several().count(),
        shown.join(" and ")
    ))
}

/// Looks for queries that can find nothing, since no other document of the
/// index has their label. Returns a warning where there are some.
///
/// # Errors
/// [`Error::Config`] where it is all of them.
pub(crate) fn check_relevance(
    options: &EvaluationCallback,
    set: &SearchSet,
) -> Result<Option<String>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut ids: HashMap<&str, &str> = HashMap::new();
    for document in &set.index {
        *counts.entry(&document.label).or_default() += 1;
        ids.insert(&document.id, &document.label);
    }
    let lost: Vec<_> = set
        .queries
        .iter()
        .filter(|query| {
            let itself =
                options.exclude_self && ids.get(query.id.as_str()) == Some(&query.label.as_str());
            let found = counts.get(query.label.as_str()).copied().unwrap_or(0);
            found <= usize::from(itself)
        })
        .collect();
    let Some(first) = lost.first() else {
        return Ok(None);
    };
    let same = counts
        .keys()
        .find(|label| **label != first.label && meaning(label) == meaning(&first.label));
    let hint = match same {
        Some(label) => format!(
            "; labels are compared as texts, and `{}` is not `{}`",
            start_of(&first.label),
            start_of(label)
        ),
        None => String::new(),
    };
    let searched = options.index_data.as_ref().unwrap_or(&options.query_data);
    let reason = format!(
        "{} of {} queries of `{}` can find nothing: no other document of `{searched}` has their \
         label, such as `{}`{hint}",
        lost.len(),
        set.queries.len(),
        options.query_data,
        start_of(&first.label)
    );
    if lost.len() < set.queries.len() {
        return Ok(Some(format!("{reason}. They lower the metrics")));
    }
    Err(Error::config(
        "callbacks.EvaluationCallback.query_data",
        format!("{reason}. Give both the same labels, or name other `index_data`"),
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
        assert_eq!(alike(["a", "b", "A"].into_iter()), None);
    }
}
