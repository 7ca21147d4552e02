//! Several runs side by side.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use finetuner_protocol::{MetricsInfo, greater_is_better};
use maud::html;
use serde_json::Value;

use super::{
    Page, Session,
    chart::{COLOURS, number},
    page as shown,
    runs::{POINTS, config_of, figure, loss_curves, metrics_of, run_path},
    status,
};
use crate::{api::find_run, app::App, error::ApiError};

/// Runs that are compared at once.
const MAX_COMPARED: usize = 6;

/// The losses of some runs in one picture, their metrics and what differs in
/// their configurations.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    RawQuery(asked): RawQuery,
) -> Page {
    let asked = asked.unwrap_or_default();
    let chosen = url::form_urlencoded::parse(asked.as_bytes());
    let chosen = chosen.filter(|(field, _)| field == "run");
    let mut runs = Vec::new();
    for (_, id) in chosen.take(MAX_COMPARED) {
        let (experiment, name) = id
            .split_once('/')
            .ok_or_else(|| ApiError::bad_request("`run` must be an experiment/run"))?;
        let place = (experiment.to_owned(), name.to_owned());
        runs.push(find_run(&app, session.user.id.clone(), place).await?);
    }
    if runs.len() < 2 {
        let problem = format!("choose 2 to {MAX_COMPARED} runs to compare");
        return Err(ApiError::bad_request(problem).into());
    }
    let mut curves = Vec::new();
    for run in &runs {
        let steps = app.database.sampled_steps(run.id, POINTS).await?;
        let mut of_run = loss_curves(&steps, &[]);
        for curve in &mut of_run {
            curve.name.clone_from(&run.name);
        }
        curves.extend(of_run);
    }
    let metrics: Vec<MetricsInfo> = runs.iter().map(metrics_of).collect();
    let mut names: Vec<&String> = metrics.iter().flat_map(|m| m.after.keys()).collect();
    names.sort();
    names.dedup();
    let configs: Vec<Vec<(String, String)>> =
        runs.iter().map(|run| flat(&config_of(run))).collect();
    let mut fields: Vec<&String> = configs.iter().flatten().map(|(field, _)| field).collect();
    fields.sort();
    fields.dedup();
    let value_of = |config: &[(String, String)], field: &str| {
        let found = config.iter().find(|(name, _)| name == field);
        found.map_or(String::new(), |(_, value)| value.clone())
    };
    let differ = |field: &&&String| {
        let mut values = configs.iter().map(|config| value_of(config, field));
        let first = values.next();
        values.any(|value| Some(value) != first) && **field != "run_name"
    };
    let content = html! {
        p .crumbs { a href="/console/" { "Experiments" } }
        h1 { "Runs side by side" }
        (figure("Loss", "step", &curves))
        div .scroll { table .compare {
            thead { tr {
                th scope="col" { "" }
                @for (i, run) in runs.iter().enumerate() {
                    th scope="col" { span class={ "key c" (i % COLOURS) } { a href=(run_path(run)) { (run.name) } } }
                }
            } }
            tbody {
                tr { th scope="row" { "Status" } @for run in &runs { td { (status(&run.status)) } } }
                @for name in names { tr {
                    th scope="row" { (name) " after" }
                    @for own in &metrics {
                        td .number { @if let Some(value) = own.after.get(name) {
                            @if is_best(&metrics, name, *value) { strong { (number(*value)) } }
                            @else { (number(*value)) }
                        } }
                    }
                } }
                @for field in fields.iter().filter(differ) { tr {
                    th scope="row" { (field) }
                    @for config in &configs { td { (value_of(config, field)) } }
                } }
            }
        } }
    };
    Ok(shown(&session, "Experiments", "Compare", &content))
}

/// Whether a value is the best that any of these runs has come to, and another
/// has come to less.
fn is_best(runs: &[MetricsInfo], metric: &str, value: f64) -> bool {
    let Some(greater) = greater_is_better(metric) else {
        return false;
    };
    let mut others = runs.iter().filter_map(|run| run.after.get(metric));
    let worse = |other: f64| {
        if greater {
            other < value
        } else {
            other > value
        }
    };
    others.clone().any(|other| worse(*other))
        && others.all(|other| worse(*other) || *other == value)
}

/// The fields of a configuration with their whole names.
fn flat(value: &Value) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &Value, into: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let name = match prefix {
                        "" => name.clone(),
                        prefix => format!("{prefix}.{name}"),
                    };
                    walk(&name, value, into);
                }
            }
            Value::String(text) => into.push((prefix.to_owned(), text.clone())),
            other => into.push((prefix.to_owned(), other.to_string())),
        }
    }
    let mut all = Vec::new();
    walk("", value, &mut all);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn configurations_are_made_flat() {
        let config = json!({"model": {"name": "m", "options": null}, "epochs": 3, "list": [1]});
        let fields = flat(&config);
        let expected = [
            ("model.name", "m"),
            ("model.options", "null"),
            ("epochs", "3"),
            ("list", "[1]"),
        ];
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn the_best_value_of_a_metric_is_known_by_its_direction() {
        let run = |values: &[(&str, f64)]| {
            let after = values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect();
            MetricsInfo::new(BTreeMap::new(), after)
        };
        let runs = [
            run(&[
                ("recall@10", 0.5),
                ("val_loss", 0.2),
                ("cosine_ap_threshold", 0.1),
            ]),
            run(&[
                ("recall@10", 0.7),
                ("val_loss", 0.3),
                ("cosine_ap_threshold", 0.2),
            ]),
            run(&[("recall@10", 0.7)]),
        ];
        assert!(is_best(&runs, "recall@10", 0.7) && !is_best(&runs, "recall@10", 0.5));
        assert!(is_best(&runs, "val_loss", 0.2) && !is_best(&runs, "val_loss", 0.3));
        assert!(!is_best(&runs, "cosine_ap_threshold", 0.2));
        // Of equal ones none is the best.
        assert!(!is_best(&runs[1..], "recall@10", 0.7));
    }
}
