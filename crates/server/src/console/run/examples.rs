//! What example queries found, before and after the training side by side.

use std::collections::BTreeMap;

use finetuner_protocol::ExamplesInfo;
use maud::{Markup, html};
use serde_json::Value;

use super::shown::Shown;
use crate::{
    app::App,
    console::{
        config::makes_data,
        document::{document_address, picture_address, shown_document},
        failure::Page,
        session::Session,
        words::{count, name, number, path, visible},
    },
    database::{ArtifactRow, Found, RunRow},
    documents,
    error::ApiError,
    runs::examples_of,
};

/// Example queries that are shown.
pub(crate) const EXAMPLES: usize = 5;
/// Matches that are shown of each.
const MATCHES: usize = 8;
/// Documents that are shown of data that a run has made.
const DOCUMENTS: u64 = 5;

/// What one query found, in order.
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

    /// Whether it is known which documents belong to the query.
    pub(crate) fn is_judged(&self) -> bool {
        !self.hits.is_empty()
    }

    /// The place of the first hit, counted from 1.
    pub(crate) fn first_hit(&self) -> Option<usize> {
        self.hits.iter().position(|hit| *hit).map(|place| place + 1)
    }
}

/// The examples of a run, as far as they are shown.
pub(crate) struct Examples {
    queries: Vec<String>,
    texts: ExamplesInfo,
    before: Option<Found>,
    after: Option<Found>,
    /// The data that they were found in, if it is what it was.
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

    /// The data with this document, if the document is shown.
    pub(super) fn data_with(&self, document: u64) -> Option<&ArtifactRow> {
        let mut sides = self.queries.iter().flat_map(|query| self.sides(query));
        let is_shown = sides.any(|side| side.places.iter().take(MATCHES).any(|p| *p == document));
        self.data.as_ref().filter(|_| is_shown)
    }

    /// The examples with pictures of the data. On the page of a link, whose address
    /// is `shared`, pictures come from there and lead nowhere.
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

    /// The queries of the evaluation after the training.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &String> {
        self.texts.after.keys()
    }

    /// What a query found after the training.
    pub(crate) fn after(&self, query: &str) -> Side<'_> {
        let [_, after] = self.sides(query);
        after
    }

    /// What a query found.
    pub(crate) fn found(&self, side: &Side<'_>, shared: Option<&str>) -> Markup {
        html! { ol .found { @for (i, text) in side.texts.iter().take(MATCHES).enumerate() {
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
                                    src=(picture_address(&data.id, *place));
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

pub(super) async fn section(app: &App, session: &Session, shown: &Shown) -> Page {
    if makes_data(&shown.run) {
        return made_data(app, session, shown).await;
    }
    Ok(Examples::of(app, &shown.run).await?.section(None))
}

/// Whether the first document that belongs to the query moved.
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

/// The data that the examples were found in, if it is what it was.
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
    // What was pushed since may hold other pictures.
    let used: Value = serde_json::from_str(&run.data).unwrap_or_default();
    Ok(data.filter(|data| {
        let name = data.name.as_deref().unwrap_or_default();
        used[name] == data.content.as_str()
    }))
}

/// The first documents that a synthesis run has made.
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
