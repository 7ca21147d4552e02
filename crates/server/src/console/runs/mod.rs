//! The runs of an experiment: a table that can be filtered and sorted by what
//! they were asked to do and by what came of them.

mod search;
mod table;

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    Failure, Page, Session,
    frame::{page as framed, pager, pages},
    metrics,
    state::State as RunState,
    words::{count, name, path, query},
};
use crate::{
    app::App,
    database::{RunFilter, RunRow, now_ms},
    error::ApiError,
};
use search::{Conditions, Order};

/// Runs of a page.
const PAGE: u64 = 50;

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    /// `live` for the table alone.
    part: String,
    /// A text in name or description.
    q: String,
    state: String,
    /// Conditions, such as `learning_rate<1e-4, recall_at_20>0.5`.
    filter: String,
    sort: String,
    /// The metric that is shown.
    metric: String,
    page: Option<u64>,
}

/// A list as it is looked at.
struct Listed {
    here: String,
    asked: ListQuery,
    order: Order,
    number: u64,
}

impl Listed {
    /// The address of this list with other fields.
    fn with(&self, changes: &[(&str, &str)]) -> String {
        let page = self.number.to_string();
        let of = |name: &'static str, value: &'_ str| {
            let changed = changes.iter().find(|(changed, _)| *changed == name);
            (name, changed.map_or(value, |(_, value)| *value).to_owned())
        };
        let asked = &self.asked;
        let fields = [
            of("part", ""),
            of("q", &asked.q),
            of("state", &asked.state),
            of("filter", &asked.filter),
            of("sort", &asked.sort),
            of("metric", &asked.metric),
            of("page", if self.number > 1 { page.as_str() } else { "" }),
        ];
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        format!("{}{}", self.here, query(&fields))
    }
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(experiment): Path<String>,
    Query(asked): Query<ListQuery>,
) -> Page<Response> {
    let found = app
        .database
        .experiment(session.user.namespace.clone(), experiment.clone())
        .await?;
    let found = found
        .ok_or_else(|| ApiError::not_found(format!("there is no experiment `{experiment}`")))?;
    let listed = Listed {
        here: path(&["experiments", &experiment]),
        order: Order::read(&asked.sort),
        number: asked.page.unwrap_or(1).max(1),
        asked,
    };
    let (conditions, wrong) = match Conditions::read(&listed.asked.filter) {
        Ok(conditions) => (conditions, None),
        Err(reason) => (Conditions::default(), Some(reason)),
    };
    let (runs, total) = read(&app, &session.user.person, found.id, &listed, conditions).await?;
    let last = pages(total, PAGE);
    if listed.number > last {
        let to = listed.with(&[("page", &*last.to_string())]);
        return Ok(Redirect::to(&to).into_response());
    }
    let shown = table::Shown::of(&runs, &listed.asked.metric, now_ms());
    let table = html! { div #runs { (table::markup(&shown, &listed, total)) } };
    if listed.asked.part == "live" {
        return Ok(table.into_response());
    }
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/" { "Experiments" } }
        h1 { (name(&experiment)) }
        @if !found.description.is_empty() { p { (name(&found.description)) } }
        (form(&listed, &shown, wrong.as_deref()))
        form method="get" action="/console/compare" {
            div data-live=(listed.with(&[("part", "live")])) data-every=(pause(total)) { (table) }
            input type="hidden" name="experiment" value=(experiment);
            @if runs.len() > 1 { p { button type="submit" { "Compare selected" } } }
        }
        (pager(total, listed.number, PAGE, |page| listed.with(&[("page", &*page.to_string())])))
    };
    Ok(framed(&session, "Experiments", &experiment, &content).into_response())
}

/// The runs of a page, and how many there are on all.
async fn read(
    app: &App,
    person: &str,
    experiment: i64,
    listed: &Listed,
    conditions: Conditions,
) -> Result<(Vec<RunRow>, u64), Failure> {
    let asked = &listed.asked;
    let text = Some(asked.q.trim().to_owned()).filter(|text| !text.is_empty());
    let state = RunState::ALL
        .into_iter()
        .find(|one| one.word() == asked.state);
    let (status, cancelled) = match state {
        None => (None, None),
        Some(RunState::Waiting) => (Some("CREATED"), None),
        Some(RunState::Running) => (Some("STARTED"), None),
        Some(RunState::Finished | RunState::Worse) => (Some("FINISHED"), None),
        Some(RunState::Failed) => (Some("FAILED"), Some(false)),
        Some(RunState::Cancelled) => (Some("FAILED"), Some(true)),
    };
    let first = (listed.number - 1).saturating_mul(PAGE);
    let filter = RunFilter {
        status: status.map(str::to_owned),
        cancelled,
        text,
        newest_first: listed.order.newest_first().unwrap_or_default(),
        page: Some((first, PAGE)),
    };
    // The database alone can do this, however many runs there are.
    if conditions.is_empty() && listed.order.newest_first().is_some() {
        return Ok(app.database.runs(experiment, filter).await?);
    }
    // The configurations of all runs are in memory for a moment.
    let _turn = app.gates.previews.enter(person).await?;
    let outlines = app.database.outlines(experiment, filter).await?;
    let order = listed.order.clone();
    let ids = tokio::task::spawn_blocking(move || search::ids(&outlines, &conditions, &order));
    let ids = ids.await.map_err(|e| ApiError::internal(&e))?;
    let total = ids.len() as u64;
    let start = usize::try_from(first).unwrap_or(usize::MAX);
    let ids = ids.into_iter().skip(start).take(PAGE as usize).collect();
    Ok((app.database.runs_by_ids(ids).await?, total))
}

/// The form that filters the list.
fn form(listed: &Listed, shown: &table::Shown<'_>, wrong: Option<&str>) -> Markup {
    let asked = &listed.asked;
    html! {
        form .row method="get" action=(listed.here) role="search" {
            label { "Text " input #q name="q" type="search" value=(asked.q); }
            label { "State " select #state name="state" {
                option value="" { "any" }
                @for state in RunState::ALL {
                    option value=(state.word()) selected[asked.state == state.word()] { (state.label()) }
                }
            } }
            label { "Conditions " input #filter .wide name="filter" value=(asked.filter)
                placeholder="learning_rate<1e-4, recall_at_20>0.5" aria-describedby="fields"
                autocapitalize="none" spellcheck="false"; }
            @if shown.metrics.len() > 1 {
                label { "Metric " select #metric name="metric" {
                    @for metric in &shown.metrics {
                        option value=(metric) selected[Some(metric) == shown.metric.as_ref()] { (metric) }
                    }
                } }
            }
            @if !asked.sort.is_empty() { input type="hidden" name="sort" value=(asked.sort); }
            button type="submit" { "Filter" }
        }
        @if let Some(reason) = wrong { p .problem .message role="alert" { (reason) } }
        details .hint {
            summary { "What can stand in a condition" }
            p #fields {
                "A metric after the training (" code { "recall_at_20" } "), before it (" code { "recall_at_20.before" }
                ") or its change (" code { "recall_at_20.change" } "); a hyper-parameter (" code { "epochs" } ", "
                code { "batch_size" } ", " code { "loss" } "); " code { "model" } ", " code { "train_data" } ", "
                code { "duration" } " in seconds. Compare with " code { "= != < <= > >=" } ", and with " code { "~" }
                " for a part of a text. Commas separate conditions, all of which must hold."
            }
        }
    }
}

/// Which metrics the runs have, the one that tells most first.
fn metrics_of(runs: &[RunRow]) -> Vec<String> {
    let mut all = finetuner_protocol::MetricsInfo::default();
    for run in runs {
        let own = metrics::of(run);
        all.before.extend(own.before);
        all.after.extend(own.after);
    }
    let changes = metrics::changes(&all).into_iter();
    changes.map(|change| change.name).collect()
}

/// Seconds after which a page asks again. Sorting very many runs takes a while.
fn pause(total: u64) -> u64 {
    if total > 1000 { 30 } else { 5 }
}

/// How many runs a list has.
fn caption(total: u64) -> String {
    count(total, "run")
}
