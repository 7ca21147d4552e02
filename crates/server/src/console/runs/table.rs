//! The table of runs: its columns and rows.

use maud::{Markup, html};

use super::{Listed, caption, metrics_of};
use crate::{
    console::{
        metrics,
        run::{config_of, model_of, run_path, setting},
        state::{State, badge, duration, progress},
        words::{name, seconds, time, visible},
    },
    database::RunRow,
};

/// What a table shows.
pub(super) struct Shown<'a> {
    runs: &'a [RunRow],
    /// The metrics that the runs have.
    pub(super) metrics: Vec<String>,
    /// The one that is shown.
    pub(super) metric: Option<String>,
    /// In milliseconds since 1970.
    now: i64,
}

impl<'a> Shown<'a> {
    /// `wanted` is the metric that was asked for.
    pub(super) fn of(runs: &'a [RunRow], wanted: &str, now: i64) -> Self {
        let metrics = metrics_of(runs);
        let asked = metrics.iter().find(|metric| *metric == wanted);
        let metric = asked.or(metrics.first()).cloned();
        Self {
            runs,
            metrics,
            metric,
            now,
        }
    }
}

pub(super) fn markup(shown: &Shown<'_>, listed: &Listed, total: u64) -> Markup {
    let metric = shown.metric.as_deref();
    let sortable = |label: &str, field: &str, number: bool| head(listed, label, field, number);
    html! {
        div .scroll tabindex="0" role="region" aria-label="Runs" { table .runs {
            caption { (caption(total)) }
            thead { tr {
                th scope="col" { span .hidden { "Select" } }
                (sortable("Name", "name", false))
                th scope="col" { "State" }
                (sortable("Model", "model", false))
                (sortable("Learning rate", "learning_rate", true))
                (sortable("Epochs", "epochs", true))
                @if let Some(metric) = metric {
                    (sortable(&format!("{metric} before"), &format!("{metric}.before"), true))
                    (sortable("after", metric, true))
                    (sortable("change", &format!("{metric}.change"), true))
                }
                (sortable("Duration", "duration", true))
                (sortable("Created", "created", false))
            } }
            tbody { @for run in shown.runs { (row(run, metric, shown.now)) } }
        } }
    }
}

/// The head of a column, which sorts by it: numbers and times the greatest
/// first, names from the first letter on, and the other way at the next click.
fn head(listed: &Listed, label: &str, field: &str, number: bool) -> Markup {
    let (sorted, descending) = listed.order.shown();
    let is_here = sorted == field;
    let first_down = number || field == "created";
    let down = if is_here { !descending } else { first_down };
    let sort = format!("{}{field}", if down { "-" } else { "" });
    let sorting = match (is_here, descending) {
        (false, _) => None,
        (true, true) => Some("descending"),
        (true, false) => Some("ascending"),
    };
    html! {
        th scope="col" .number[number] aria-sort=[sorting] {
            a href=(listed.with(&[("sort", &sort), ("page", "")])) { (visible(label)) }
        }
    }
}

fn row(run: &RunRow, metric: Option<&str>, now: i64) -> Markup {
    let id = run.label();
    let config = config_of(run);
    let all = metrics::changes(&metrics::of(run));
    let own = metric.and_then(|metric| all.iter().find(|change| change.name == metric));
    let state = State::of(run);
    html! { tr data-key=(run.id) {
        td { input type="checkbox" name="run" value=(id) aria-label={ "Select " (visible(&run.name)) }; }
        th scope="row" { a href=(run_path(run)) { (name(&run.name)) } }
        td { (badge(run)) @if matches!(state, State::Running | State::Waiting) { " " (progress(run)) } }
        td .text { (name(&model_of(run, &config))) }
        td .number { (setting(&config, "learning_rate")) }
        td .number { (setting(&config, "epochs")) }
        @if metric.is_some() {
            td .number { (metrics::value(own.and_then(|own| own.before))) }
            td .number { (metrics::value(own.and_then(|own| own.after))) }
            td .number { @if let Some(own) = own { (metrics::change(own)) } }
        }
        td .number { (duration(run, now).map_or(String::new(), seconds)) }
        td { (time(&run.created_at)) }
    } }
}
