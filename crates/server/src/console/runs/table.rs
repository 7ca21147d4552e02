//! The table of runs: header, rows, and the bar with actions on selected runs.

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
        words::{count, cut, name, number, path, seconds, time, visible},
    },
    database::{Outline, RunRow},
};

/// Maximum number of characters shown of a description or a note.
const MAX_CHARS: usize = 100;

/// The data of a table.
pub(super) struct Shown<'a> {
    runs: &'a [RunRow],
    /// Metrics of the listed runs, most informative first.
    pub(super) metrics: Vec<String>,
    /// The metric to show.
    pub(super) metric: Option<String>,
    /// Current time, in milliseconds since 1970.
    now: i64,
}

impl<'a> Shown<'a> {
    /// `wanted` is the requested metric; without it, the most informative one is
    /// shown.
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

    /// Returns the hyper-parameters and metrics of the runs, which can be
    /// columns.
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

    /// Returns the sort field and the header of a column; `None` for the columns
    /// of the metric if the runs have no metric.
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

/// Returns the metrics of the runs, most informative first.
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

/// Returns whether a field's values are numbers.
fn is_number(field: &str, sorted: &str, shown: &Shown<'_>) -> bool {
    let metric = sorted
        .trim_end_matches(".before")
        .trim_end_matches(".change");
    let numbers = ["learning_rate", "epochs", "batch_size", "duration"];
    numbers.contains(&field) || shown.metrics.iter().any(|own| own == metric)
}

/// Renders the part of the page that is refreshed.
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
                    // `live.js` makes it visible.
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

/// Renders the bar with actions on the selected runs.
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

/// Renders the header of a column, a link that sorts by it: numbers and times in
/// descending order, texts in ascending order. A second click reverses the order.
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
        "note" => html! { td .text { (name(&cut(&run.annotations.note, MAX_CHARS))) } },
        "description" => html! { td .text { (name(&cut(&run.description, MAX_CHARS))) } },
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
        // Shown as in the configuration: 1e-4 stays 1e-4.
        field if !config["hyper_parameters"][field].is_null() => {
            html! { td .number[config["hyper_parameters"][field].is_number()] {
                (name(&setting(&config, field)))
            } }
        }
        field => match searched.field(field) {
            Field::Number(value) => html! { td .number { (number(value)) } },
            Field::Text(text) => html! { td .text { (name(&cut(&text, MAX_CHARS))) } },
            Field::Tags(_) | Field::Missing => html! { td {} },
        },
    };
    html! { tr data-key=(run.id) {
        td { input type="checkbox" name="run" value=(id) aria-label={ "Select " (visible(&run.name)) }; }
        th scope="row" { a href=(run_path(run)) { (name(&run.name)) } }
        @for (field, ..) in heads { (cell(field)) }
    } }
}
