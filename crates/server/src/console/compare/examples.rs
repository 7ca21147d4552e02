//! Search results of several runs for the same example queries, side by side.

use maud::{Markup, html};

use crate::{
    app::App,
    console::{
        chart::style_of,
        links::run_path,
        run::{EXAMPLES, Examples},
        words::{name, visible},
    },
    database::RunRow,
    error::ApiError,
};

/// Maximum number of runs whose examples are shown.
const MAX_RUNS: usize = 12;

/// A run's examples and its index in the comparison, which determines its colour.
struct Own<'a> {
    place: usize,
    run: &'a RunRow,
    examples: Examples,
}

pub(super) async fn section(app: &App, runs: &[RunRow]) -> Result<Markup, ApiError> {
    let mut all = Vec::new();
    let mut left_out = 0;
    for (place, run) in runs.iter().enumerate() {
        let examples = Examples::of(app, run).await?;
        if examples.asked().next().is_none() {
            continue;
        }
        if all.len() == MAX_RUNS {
            left_out += 1;
            continue;
        }
        all.push(Own {
            place,
            run,
            examples,
        });
    }
    let (queries, more) = queries(&all);
    if queries.is_empty() {
        return Ok(html! {});
    }
    Ok(html! { section .examples aria-labelledby="examples" {
        h2 #examples { "Examples" }
        p .hint {
            "Search results after the training. " span .hit-mark { "✓" }
            " marks documents that belong to the query. The number is the distance to the query."
            @if left_out > 0 { " The first " (MAX_RUNS) " runs with examples are shown." }
            @if more > 0 { " " (more) " more queries are not shown." }
        }
        @for query in &queries {
            section .example aria-label={ "Query: " (visible(query)) } {
                h3 { (name(query)) }
                div .beside { @for own in &all { (side(own, query)) } }
            }
        }
    } })
}

/// Returns the queries, most common first, and the number of omitted ones.
fn queries(all: &[Own<'_>]) -> (Vec<String>, usize) {
    let mut queries: Vec<(usize, &String)> = Vec::new();
    for query in all.iter().flat_map(|own| own.examples.asked()) {
        match queries.iter_mut().find(|(_, known)| *known == query) {
            Some((count, _)) => *count += 1,
            None => queries.push((1, query)),
        }
    }
    queries.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let left_out = queries.len().saturating_sub(EXAMPLES);
    let first = queries.into_iter().take(EXAMPLES);
    (first.map(|(_, query)| query.clone()).collect(), left_out)
}

fn side(own: &Own<'_>, query: &str) -> Markup {
    let side = own.examples.after(query);
    html! {
        div {
            h4 {
                span class={ "key " (style_of(own.place)) } {}
                a href=(run_path(own.run)) { (name(&own.run.name)) }
                @if side.is_judged() {
                    " · " @match side.first_hit() {
                        Some(place) => { "first hit: place " (place) }
                        None => { "no hit" }
                    }
                }
            }
            @if side.is_empty() { p .hint { "This query is not among the run's examples." } }
            @else { (own.examples.found(&side, None)) }
        }
    }
}
