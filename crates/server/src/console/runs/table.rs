//! The table of runs: its head, its rows, and the bar for those that are selected.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    columns::{AFTER, BEFORE, CHANGE, label},
    listed::Listed,
    search::{Field, Searched},
};
use crate::{
    console::{
        annotations,
        config::{config_of, model_of, setting},
        links::run_path,
        metrics,
        state::{State, badge, duration, progress},
        words::{count, name, number, path, seconds, time, visible},
    },
    database::{Outline, RunRow},
};

/// Characters of a description or a note that a list shows.
const TEXT: usize = 100;

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

    /// Hyper-parameters and metrics of the runs, which can be columns.
    pub(super) fn fields(&self) -> Vec<String> {
        let mut fields: Vec<String> = Vec::new();
        for run in self.runs {
            let config = config_of(run);
            let own = config["hyper_parameters"].as_object();
            for (field, value) in own.into_iter().flatten() {
                let is_plain = !matches!(value, Value::Object(_) | Value::Array(_));
                if is_plain && !fields.contains(field) {
                    fields.push(field.clone());
                }
            }
        }
        fields.sort();
        for metric in &self.metrics {
            fields.push(metric.clone());
            fields.push(format!("{metric}.change"));
        }
        fields
    }

    /// What a column is sorted by, and its head. `None` if there is nothing to
    /// show.
    fn head(&self, field: &str) -> Option<(String, String)> {
        let metric = self.metric.as_ref();
        Some(match field {
            BEFORE => (format!("{}.before", metric?), format!("{} before", metric?)),
            AFTER => (metric?.clone(), "after".to_owned()),
            CHANGE => (format!("{}.change", metric?), "change".to_owned()),
            other => (other.to_owned(), label(other).to_owned()),
        })
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

/// Fields whose values are numbers.
fn is_number(field: &str, sorted: &str, shown: &Shown<'_>) -> bool {
    let metric = sorted
        .trim_end_matches(".before")
        .trim_end_matches(".change");
    let numbers = ["learning_rate", "epochs", "batch_size", "duration"];
    numbers.contains(&field) || shown.metrics.iter().any(|own| own == metric)
}

/// The part of the page that is live.
pub(super) fn markup(shown: &Shown<'_>, listed: &Listed, total: u64, writes: bool) -> Markup {
    let heads = listed.columns.shown(listed.is_of_one());
    let heads: Vec<(&str, String, String)> = heads
        .filter_map(|field| {
            shown
                .head(field)
                .map(|(sorted, label)| (field, sorted, label))
        })
        .collect();
    html! {
        (bar(writes))
        div .scroll tabindex="0" role="region" aria-label="Runs" { table .runs {
            caption { (count(total, "run")) }
            thead { tr {
                th scope="col" {
                    span .hidden { "Select" }
                    // The script shows it.
                    input type="checkbox" data-all hidden aria-label="Select all of this page";
                }
                (head(listed, "Name", "name", false))
                @for (field, sorted, label) in &heads {
                    (head(listed, label, sorted, is_number(field, sorted, shown)))
                }
            } }
            tbody { @for run in shown.runs { (row(run, shown, &heads)) } }
        } }
    }
}

/// What can be done with the runs that are selected.
fn bar(writes: bool) -> Markup {
    html! {
        div .bar role="group" aria-label="Selected runs" {
            button type="submit" formmethod="get" formaction="/console/compare" { "Compare selected" }
            button .quiet type="submit" formmethod="get" formaction="/console/runs/csv" { "Download CSV" }
            @if writes {
                button .quiet type="submit" name="do" value="tag" { "Tag" }
                button .quiet .danger type="submit" name="do" value="cancel" { "Cancel" }
                button .quiet .danger type="submit" name="do" value="delete" { "Delete" }
            }
            span .hint data-count {}
        }
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

fn row(run: &RunRow, shown: &Shown<'_>, heads: &[(&str, String, String)]) -> Markup {
    let id = run.label();
    let config = config_of(run);
    let outline = Outline::from(run);
    let searched = Searched::of(&outline);
    let all = metrics::changes(&metrics::of(run));
    let metric = shown.metric.as_deref();
    let own = metric.and_then(|metric| all.iter().find(|change| change.name == metric));
    let cell = |field: &str| match field {
        "experiment" => html! { td .text {
            a href=(path(&["experiments", &run.experiment])) { (name(&run.experiment)) }
        } },
        "state" => html! { td {
            (badge(run))
            @if matches!(State::of(run), State::Running | State::Waiting) { " " (progress(run)) }
        } },
        "tags" => html! { td { (annotations::tags("/console/runs", &run.annotations.tags)) } },
        "note" => html! { td .text { (name(&cut(&run.annotations.note))) } },
        "description" => html! { td .text { (name(&cut(&run.description))) } },
        "device" => html! { td { (name(&run.device)) } },
        "model" => html! { td .text { (name(&model_of(run, &config))) } },
        BEFORE => html! { td .number { (metrics::value(own.and_then(|own| own.before))) } },
        AFTER => html! { td .number { (metrics::value(own.and_then(|own| own.after))) } },
        CHANGE => html! { td .number { @if let Some(own) = own { (metrics::change(own)) } } },
        "duration" => html! { td .number {
            (duration(run, shown.now).map_or(String::new(), seconds))
        } },
        "created" => html! { td { (time(&run.created_at)) } },
        field if field.ends_with(".change") => {
            let metric = field.trim_end_matches(".change");
            let own = all.iter().find(|change| change.name == metric);
            html! { td .number { @if let Some(own) = own { (metrics::change(own)) } } }
        }
        // As it was sent: 1e-4 stays that.
        field if !config["hyper_parameters"][field].is_null() => {
            html! { td .number[config["hyper_parameters"][field].is_number()] {
                (name(&setting(&config, field)))
            } }
        }
        field => match searched.field(field) {
            Field::Number(value) => html! { td .number { (number(value)) } },
            Field::Text(text) => html! { td .text { (name(&cut(&text))) } },
            Field::Tags(_) | Field::Missing => html! { td {} },
        },
    };
    html! { tr data-key=(run.id) {
        td { input type="checkbox" name="run" value=(id) aria-label={ "Select " (visible(&run.name)) }; }
        th scope="row" { a href=(run_path(run)) { (name(&run.name)) } }
        @for (field, ..) in heads { (cell(field)) }
    } }
}

/// The start of a text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
