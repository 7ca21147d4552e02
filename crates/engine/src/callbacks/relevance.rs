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
