//! Checks that queries have relevant documents to find.

use std::collections::HashMap;

use finetuner_protocol::{callback::EvaluationCallback, text::start_of};

use crate::{
    Error, Result,
    data::{DataName, SearchSet, label_meaning},
};

/// Returns the query data and the index data of an evaluation.
pub(super) fn evaluation_data_names(
    options: &EvaluationCallback,
) -> (DataName<'_>, Option<DataName<'_>>) {
    let named = |field, name| DataName { field, name };
    let index = options.index_data.as_deref();
    (
        named("query_data", &options.query_data),
        index.map(|name| named("index_data", name)),
    )
}

/// Returns a warning if some queries have no relevant document.
///
/// Relevant documents are those with the query's label, except the query itself.
///
/// # Errors
/// [`Error::Config`] if no query has one.
pub(crate) fn check_relevance(
    options: &EvaluationCallback,
    set: &SearchSet,
) -> Result<Option<String>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for document in &set.index {
        *counts.entry(&document.label).or_default() += 1;
    }
    let lost: Vec<_> = set
        .queries
        .iter()
        .zip(set.own_documents())
        .filter(|(query, own)| {
            let itself = own.is_some_and(|own| set.index[own].label == query.label);
            let found = counts.get(query.label.as_str()).copied().unwrap_or(0);
            found <= usize::from(options.exclude_self && itself)
        })
        .map(|(query, _)| query)
        .collect();
    let Some(first) = lost.first() else {
        return Ok(None);
    };
    let same = counts.keys().find(|label| {
        **label != first.label && label_meaning(label) == label_meaning(&first.label)
    });
    let hint = match same {
        Some(label) => format!(
            "; labels are compared as text, and `{}` differs from `{}`",
            start_of(&first.label),
            start_of(label)
        ),
        None => String::new(),
    };
    let (queries, index) = evaluation_data_names(options);
    let searched = index.unwrap_or(queries);
    let reason = format!(
        "{} of {} queries of {queries} have no relevant document: no other document of {searched} has their \
         label, such as `{}`{hint}",
        lost.len(),
        set.queries.len(),
        start_of(&first.label)
    );
    if lost.len() < set.queries.len() {
        return Ok(Some(format!("{reason}. They lower the metrics")));
    }
    Err(Error::config(
        "callbacks.EvaluationCallback.query_data",
        format!("{reason}. Use the same labels in both, or other `index_data`"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, Searched};

    #[test]
    fn of_documents_with_one_id_a_query_leaves_out_its_own() {
        let documents = |labels: &[&str]| -> SearchSet {
            let documents = labels.iter().enumerate().map(|(place, label)| Searched {
                id: "same".to_owned(),
                item: Item::Text((*label).into()),
                label: (*label).to_owned(),
                uri: String::new(),
                place,
            });
            let index: Vec<Searched> = documents.collect();
            SearchSet {
                queries: index.clone(),
                index,
            }
        };
        let options = EvaluationCallback::default();
        let set = documents(&["a", "b", "b"]);
        assert_eq!(set.own_documents(), [Some(0), Some(1), Some(2)]);
        let warning = check_relevance(&options, &set).unwrap().unwrap();
        assert!(warning.starts_with("1 of 3 queries"), "{warning}");
        let error = check_relevance(&options, &documents(&["a", "b"])).unwrap_err();
        assert!(error.to_string().contains("2 of 2 queries"), "{error}");
    }
}
