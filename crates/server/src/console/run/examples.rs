//! Search results of a run's example queries, before and after the training.

use std::collections::BTreeMap;

use finetuner_protocol::ExamplesInfo;
use maud::{Markup, html};
use serde_json::Value;

use super::shown::Shown;
use crate::{
    app::App,
    console::{
        config::makes_data,
        document::{document_address, image_address, shown_document},
        failure::Page,
        session::Session,
        words::{count, name, number, path, visible},
    },
    database::{ArtifactRow, Found, RunRow},
    documents,
    error::ApiError,
    runs::examples_of,
};

/// Maximum number of example queries.
pub(crate) const EXAMPLES: usize = 5;
/// Maximum number of results per query.
const MAX_MATCHES: usize = 8;
/// Number of documents shown of the data that a synthesis run created.
const DOCUMENTS: u64 = 5;

/// Results of one query in order: texts, document indices, relevance and
/// distances.
pub(crate) struct Side<'a> {
    texts: &'a [Value],
    places: &'a [u64],
    hits: &'a [bool],
    distances: &'a [f32],
}

impl<'a> Side<'a> {
    fn of(found: Option<&'a Found>, texts: &'a BTreeMap<String, Vec<Value>>, query: &str) -> Self {
        Self {
            texts: texts.get(query).map_or(&[][..], Vec::as_slice),
            places: found
                .and_then(|found| found.places.get(query))
                .map_or(&[][..], Vec::as_slice),
            hits: found
                .and_then(|found| found.hits.get(query))
                .map_or(&[][..], Vec::as_slice),
            distances: found
                .and_then(|found| found.distances.get(query))
                .map_or(&[][..], Vec::as_slice),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns whether the relevant documents of the query are known.
    pub(crate) fn is_judged(&self) -> bool {
        !self.hits.is_empty()
    }

    /// Returns the rank of the first relevant document, from 1.
    pub(crate) fn first_hit(&self) -> Option<usize> {
        self.hits.iter().position(|hit| *hit).map(|place| place + 1)
    }
}

/// The example queries of a run and their results, limited for display.
pub(crate) struct Examples {
    queries: Vec<String>,
    texts: ExamplesInfo,
    before: Option<Found>,
    after: Option<Found>,
    /// The searched dataset; `None` if it was replaced or deleted since.
    data: Option<ArtifactRow>,
}

impl Examples {
    pub(crate) async fn of(app: &App, run: &RunRow) -> Result<Self, ApiError> {
        let texts: ExamplesInfo = examples_of(app, run.id).await?;
        let names = match texts.after.is_empty() {
            true => &texts.before,
            false => &texts.after,
        };
        let queries = names.keys().take(EXAMPLES).cloned().collect();
        let [before, after] = app.database.found_documents(run.id).await?;
        let data = searched(app, run, after.as_ref().or(before.as_ref())).await?;
        Ok(Self {
            queries,
            texts,
            before,
            after,
            data,
        })
    }

    fn sides(&self, query: &str) -> [Side<'_>; 2] {
        [
            Side::of(self.before.as_ref(), &self.texts.before, query),
            Side::of(self.after.as_ref(), &self.texts.after, query),
        ]
    }

    /// Returns the searched dataset if this document is among the shown results.
    /// Images of other documents must not be sent.
    pub(super) fn data_with(&self, document: u64) -> Option<&ArtifactRow> {
        let mut sides = self.queries.iter().flat_map(|query| self.sides(query));
        let is_shown =
            sides.any(|side| side.places.iter().take(MAX_MATCHES).any(|p| *p == document));
        self.data.as_ref().filter(|_| is_shown)
    }

    /// Renders the examples. `shared` is the URL of a shared page: its images
    /// are loaded from below that URL and are not links.
    pub(super) fn section(&self, shared: Option<&str>) -> Markup {
        if self.queries.is_empty() {
            return html! {};
        }
        html! { section .examples aria-labelledby="examples" {
            h2 #examples { "Examples" }
            @if self.after.as_ref().is_some_and(|found| !found.hits.is_empty()) {
                p .hint { span .hit-mark { "✓" } " marks documents that belong to the query. The number is the "
                    "distance to the query." }
            }
            @for query in &self.queries {
                @let sides = self.sides(query);
                section .example aria-label={ "Query: " (visible(query)) } {
                    h3 { (name(query)) (verdict(&sides)) }
                    div .sides {
                        div { h4 { "Before" } (self.found(&sides[0], shared)) }
                        div { h4 { "After" } (self.found(&sides[1], shared)) }
                    }
                }
            }
        } }
    }

    /// Returns the queries of the evaluation after the training.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &String> {
        self.texts.after.keys()
    }

    /// Returns the results of a query after the training.
    pub(crate) fn after(&self, query: &str) -> Side<'_> {
        let [_, after] = self.sides(query);
        after
    }

    /// Renders the results of a query.
    pub(crate) fn found(&self, side: &Side<'_>, shared: Option<&str>) -> Markup {
        html! { ol .found { @for (i, text) in side.texts.iter().take(MAX_MATCHES).enumerate() {
            @let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
            @let hit = side.hits.get(i).copied().unwrap_or_default();
            li .hit[hit] {
                @if let (Some(data), Some(place)) = (&self.data, side.places.get(i)) {
                    @match shared {
                        Some(page) => {
                            img loading="lazy" alt=(visible(&text))
                                src={ (page) "/picture?document=" (place) };
                        }
                        None => {
                            a href=(document_address(&data.id, *place)) {
                                img loading="lazy" alt=(visible(&text))
                                    src=(image_address(&data.id, *place));
                            }
                        }
                    }
                }
                span .caption {
                    @if hit { span .hit-mark { "✓" } span .hidden { " hit " } " " }
                    (name(&text))
                    @if let Some(distance) = side.distances.get(i) {
                        " " span .score { (number(f64::from(*distance))) }
                    }
                }
            }
        } } }
    }
}

/// Renders the examples of a run, or the created documents of a synthesis run.
pub(super) async fn section(app: &App, session: &Session, shown: &Shown) -> Page {
    if makes_data(&shown.run) {
        return made_data(app, session, shown).await;
    }
    Ok(Examples::of(app, &shown.run).await?.section(None))
}

/// Renders how the rank of the first relevant document changed.
fn verdict([before, after]: &[Side<'_>; 2]) -> Markup {
    let place = |side: &Side<'_>| match side.first_hit() {
        Some(place) => format!("place {place}"),
        None => "none".to_owned(),
    };
    if !before.is_judged() || !after.is_judged() {
        return html! {};
    }
    let rank = |side: &Side<'_>| side.first_hit().unwrap_or(usize::MAX);
    let class = match rank(after).cmp(&rank(before)) {
        std::cmp::Ordering::Less => "better",
        std::cmp::Ordering::Equal => "same",
        std::cmp::Ordering::Greater => "worse",
    };
    html! { " " span class={ "change " (class) } { "first hit: " (place(before)) " → " (place(after)) } }
}

/// Returns the searched dataset; `None` if it was replaced or deleted since.
async fn searched(
    app: &App,
    run: &RunRow,
    found: Option<&Found>,
) -> Result<Option<ArtifactRow>, ApiError> {
    let Some(found) = found else { return Ok(None) };
    let data = app
        .database
        .artifact_by_name(run.project_id.clone(), found.data.clone())
        .await?;
    // A dataset pushed later under the same name may contain other images.
    let used: Value = serde_json::from_str(&run.data).unwrap_or_default();
    Ok(data.filter(|data| {
        let name = data.name.as_deref().unwrap_or_default();
        used[name] == data.content.as_str()
    }))
}

/// Renders the first documents that a synthesis run created.
async fn made_data(app: &App, session: &Session, shown: &Shown) -> Page {
    let Some(artifact) = &shown.artifact else {
        return Ok(html! {});
    };
    let read = documents::read(app, &session.user.person, &artifact.content, 0, DOCUMENTS).await;
    let Ok((documents, total)) = read else {
        return Ok(html! {});
    };
    let here = path(&["data", &artifact.id]);
    Ok(html! { section .examples aria-labelledby="examples" {
        h2 #examples { "Examples" }
        p .hint { "The first of " (count(total, "document")) ". "
            a href=(here) { "Look at all of them" } }
        ol .documents { @for (i, document) in documents.iter().enumerate() {
            li { (shown_document(document, &here, i as u64, &mut Vec::new())) }
        } }
    } })
}
