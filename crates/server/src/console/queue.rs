//! The queue page: running and waiting runs in scheduling order. Runs outside the
//! project are counted, not named.

use std::{collections::HashMap, sync::Arc};

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    failure::Page,
    frame::{page as framed, pager, pages},
    links::run_path,
    session::Session,
    state::{badge, progress},
    words::{count, name, query, seconds, time},
};
use crate::{
    app::App,
    database::{QueuedRow, RunRow, now_ms},
};

/// Lines of a page of each table.
const PAGE: u64 = 100;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct QueueQuery {
    /// `live` for the tables without the rest of the page.
    part: String,
    /// Page of the runs that train.
    running: Option<u64>,
    /// Page of the runs that wait.
    page: Option<u64>,
}

/// A table row: a run, or the number of consecutive runs that the user can't see.
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

/// Merges consecutive runs that the user can't see into one row.
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

/// One of the two tables.
struct Table {
    is_waiting: bool,
    /// All runs of it.
    runs: u64,
    /// Lines of all pages.
    lines: u64,
    number: u64,
    /// Lines of this page.
    shown: Vec<Line>,
}

impl Table {
    /// Creates the requested page, or the last one if there are fewer.
    fn new(is_waiting: bool, queued: &[QueuedRow], wanted: Option<u64>) -> Self {
        let lines = lines(queued);
        let count = lines.len() as u64;
        let number = wanted.unwrap_or(1).clamp(1, pages(count, PAGE));
        let first = (number - 1) * PAGE;
        let shown = lines
            .into_iter()
            .skip(usize::try_from(first).unwrap_or(usize::MAX));
        Self {
            is_waiting,
            runs: queued.len() as u64,
            lines: count,
            number,
            shown: shown.take(PAGE as usize).collect(),
        }
    }

    /// Returns the ids of the runs that are shown by name.
    fn ids(&self) -> impl Iterator<Item = i64> {
        self.shown.iter().filter_map(|line| match line {
            Line::Run { id, .. } => Some(*id),
            Line::Others { .. } => None,
        })
    }
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<QueueQuery>,
) -> Page {
    let running = app.database.with_job(&session.user).await?;
    let waiting = app.database.waiting(&session.user).await?;
    let running = Table::new(false, &running, asked.running);
    let waiting = Table::new(true, &waiting, asked.page);
    let ids = running.ids().chain(waiting.ids()).collect();
    let runs = app.database.runs_by_ids(ids).await?;
    let runs: HashMap<i64, RunRow> = runs.into_iter().map(|run| (run.id, run)).collect();
    let here = |part: &str, running: u64, waiting: u64| {
        let text = |page: u64| {
            Some(page.to_string())
                .filter(|_| page > 1)
                .unwrap_or_default()
        };
        let (running, waiting) = (text(running), text(waiting));
        let fields = [("part", part), ("running", &running), ("page", &waiting)];
        format!("/console/queue{}", query(&fields))
    };
    let tables = html! {
        div #queue {
            (table(&running, &runs))
            (pager(running.lines, running.number, PAGE, |page| here("", page, waiting.number)))
            (table(&waiting, &runs))
            (pager(waiting.lines, waiting.number, PAGE, |page| here("", running.number, page)))
        }
    };
    if asked.part == "live" {
        return Ok(tables);
    }
    let content = html! {
        h1 { "Queue" }
        p .hint { "People take turns, and the oldest run of each comes first. Runs of other projects are counted." }
        div data-live=(here("live", running.number, waiting.number)) data-every="5" { (tables) }
    };
    Ok(framed(&session, "Queue", "Queue", &content))
}

fn table(table: &Table, runs: &HashMap<i64, RunRow>) -> Markup {
    let is_waiting = table.is_waiting;
    let title = if is_waiting { "Waiting" } else { "Running" };
    let now = now_ms();
    html! {
        h2 { (title) }
        @if table.runs == 0 {
            p { "No runs." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label={ (title) " runs" } { table .cards {
                caption { (count(table.runs, "run")) }
                thead { tr {
                    @if is_waiting { th scope="col" .number { "Place" } }
                    th scope="col" { "Run" } th scope="col" { "Experiment" } th scope="col" { "State" }
                    @if !is_waiting { th scope="col" { "Remaining" } }
                    th scope="col" { "Submitted" }
                } }
                tbody { @for line in &table.shown {
                    @match *line {
                        Line::Run { id, place } => {
                            // A run may have ended since the queue was read; it is left out.
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

    #[test]
    fn long_tables_have_pages() {
        let visible = |id| QueuedRow {
            id,
            is_visible: true,
            is_own: true,
        };
        let queued: Vec<QueuedRow> = (1..=250).map(visible).collect();
        for (wanted, number, shown) in [
            (None, 1, 1..=100),
            (Some(3), 3, 201..=250),
            (Some(9), 3, 201..=250),
        ] {
            let table = Table::new(true, &queued, wanted);
            assert_eq!((table.runs, table.lines, table.number), (250, 250, number));
            assert!(table.ids().eq(shown));
        }
        assert_eq!(Table::new(true, &[], Some(2)).number, 1);
    }
}
