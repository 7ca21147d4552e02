//! The queue: which runs train, which wait, and in which order they come. Runs
//! outside of the project are counted and not named.

use std::{collections::HashMap, sync::Arc};

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    failure::Page,
    frame::page as framed,
    links::run_path,
    session::Session,
    state::{badge, progress},
    words::{count, name, seconds, time},
};
use crate::{
    app::App,
    database::{QueuedRow, RunRow, now_ms},
};

/// Runs of each table that are shown by name.
const SHOWN: usize = 200;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct QueueQuery {
    /// `live` for the tables alone.
    part: String,
}

/// A line of a table: a run, or how many there are that the user can't see.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Run {
        id: i64,
        place: usize,
    },
    Others {
        first: usize,
        own: usize,
        all: usize,
    },
}

/// Puts neighbours that the user can't see into one line.
fn lines(queued: &[QueuedRow]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (place, run) in (1..).zip(queued) {
        if run.is_visible {
            lines.push(Line::Run { id: run.id, place });
            continue;
        }
        match lines.last_mut() {
            Some(Line::Others { own, all, .. }) => {
                *own += usize::from(run.is_own);
                *all += 1;
            }
            _ => lines.push(Line::Others {
                first: place,
                own: usize::from(run.is_own),
                all: 1,
            }),
        }
    }
    lines
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<QueueQuery>,
) -> Page {
    let running = app.database.with_job(&session.user).await?;
    let waiting = app.database.waiting(&session.user).await?;
    let visible = running.iter().chain(&waiting).filter(|run| run.is_visible);
    let ids = visible.map(|run| run.id).take(2 * SHOWN).collect();
    let runs = app.database.runs_by_ids(ids).await?;
    let runs: HashMap<i64, RunRow> = runs.into_iter().map(|run| (run.id, run)).collect();
    let tables = html! {
        div #queue {
            (table("Running", &running, &runs, false))
            (table("Waiting", &waiting, &runs, true))
        }
    };
    if asked.part == "live" {
        return Ok(tables);
    }
    let content = html! {
        h1 { "Queue" }
        p .hint { "People take turns, and the oldest run of each comes first. Runs of other projects are counted." }
        div data-live="/console/queue?part=live" data-every="5" { (tables) }
    };
    Ok(framed(&session, "Queue", "Queue", &content))
}

fn table(
    title: &str,
    queued: &[QueuedRow],
    runs: &HashMap<i64, RunRow>,
    is_waiting: bool,
) -> Markup {
    let now = now_ms();
    html! {
        h2 { (title) }
        @if queued.is_empty() {
            p { "No runs." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label={ (title) " runs" } { table .cards {
                caption { (count(queued.len() as u64, "run")) }
                thead { tr {
                    @if is_waiting { th scope="col" .number { "Place" } }
                    th scope="col" { "Run" } th scope="col" { "Experiment" } th scope="col" { "State" }
                    @if !is_waiting { th scope="col" { "Remaining" } }
                    th scope="col" { "Submitted" }
                } }
                tbody { @for line in lines(queued) {
                    @match line {
                        Line::Run { id, place } => {
                            // One that has just ended is left out.
                            @if let Some(run) = runs.get(&id) { (row(run, is_waiting.then_some(place), now)) }
                        }
                        Line::Others { first, own, all } => { (others(is_waiting.then_some(first), own, all)) }
                    }
                } }
            } }
        }
    }
}

fn row(run: &RunRow, place: Option<usize>, now: i64) -> Markup {
    let left = run.progress.left(now).map(|left| {
        let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        seconds(millis)
    });
    html! {
        tr data-key=(run.id) {
            @if let Some(place) = place { td .number data-label="Place" { (place) } }
            th scope="row" { a href=(run_path(run)) { (name(&run.name)) } }
            td data-label="Experiment" { (name(&run.experiment)) }
            td data-label="State" { (badge(run)) @if place.is_none() { " " (progress(run)) } }
            @if place.is_none() { td data-label="Remaining" { (left.unwrap_or_else(|| "not known yet".to_owned())) } }
            td data-label="Submitted" { (time(&run.created_at)) }
        }
    }
}

fn others(place: Option<usize>, own: usize, all: usize) -> Markup {
    let (own, theirs) = (own as u64, (all - own) as u64);
    html! {
        tr {
            @if let Some(place) = place {
                td .number data-label="Place" { (place) @if all > 1 { "–" (place + all - 1) } }
            }
            td colspan="4" .hint {
                @if own > 0 { (count(own, "run")) " of yours in other projects" }
                @if own > 0 && theirs > 0 { ", " }
                @if theirs > 0 { (count(theirs, "run")) " of others" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_runs_are_counted_at_their_place() {
        let run = |id, is_visible, is_own| QueuedRow {
            id,
            is_visible,
            is_own,
        };
        let queued = [
            run(7, false, false),
            run(8, false, true),
            run(3, true, true),
            run(9, false, false),
        ];
        let expected = [
            Line::Others {
                first: 1,
                own: 1,
                all: 2,
            },
            Line::Run { id: 3, place: 3 },
            Line::Others {
                first: 4,
                own: 0,
                all: 1,
            },
        ];
        assert_eq!(lines(&queued), expected);
    }
}
