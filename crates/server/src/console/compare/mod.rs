//! Several runs side by side: their results, what they were asked to do
//! differently, and their curves.

mod differences;

use std::sync::Arc;

use axum::{
    extract::{Query, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use finetuner_protocol::{MetricsInfo, greater_is_better};
use maud::{Markup, html};

use super::{
    Page, Session,
    chart::{Curve, View, ViewQuery, figure, style_of},
    frame::page as framed,
    metrics,
    run::{Curves, curves_of, run_path},
    state::{badge, duration},
    words::{count, name, number, path, seconds, visible},
};
use crate::{
    api::find_run,
    app::App,
    database::{RunRow, now_ms},
    error::ApiError,
};

/// Runs that are compared at once.
const MOST: usize = 200;
/// Points of all curves of one figure, and of one run.
const POINTS: u64 = 6000;
const POINTS_OF_RUN: u64 = 400;
const FEWEST_POINTS: u64 = 40;

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    RawQuery(asked): RawQuery,
    Query(view): Query<ViewQuery>,
) -> Page<Response> {
    let asked = asked.unwrap_or_default();
    let fields = url::form_urlencoded::parse(asked.as_bytes());
    let fields: Vec<(String, String)> = fields.into_owned().collect();
    let mut chosen: Vec<&str> = Vec::new();
    for (_, id) in fields.iter().filter(|(field, _)| field == "run") {
        if chosen.len() <= MOST && !chosen.contains(&id.as_str()) {
            chosen.push(id);
        }
    }
    if !(2..=MOST).contains(&chosen.len()) {
        let from = fields.iter().find(|(field, _)| field == "experiment");
        let page = too_few(&session, chosen.len(), from.map(|(_, name)| name.as_str()));
        return Ok((StatusCode::BAD_REQUEST, page).into_response());
    }
    let mut runs = Vec::new();
    for id in &chosen {
        let (experiment, name) = id
            .split_once('/')
            .ok_or_else(|| ApiError::bad_request("`run` must be an experiment/run"))?;
        let place = (experiment.to_owned(), name.to_owned());
        runs.push(find_run(&app, session.user.namespace.clone(), place).await?);
    }
    let view = View::from(&view);
    let curves = curves(&app, &runs).await?;
    let kept: Vec<(&str, &str)> = chosen.iter().map(|id| ("run", *id)).collect();
    let content = html! {
        nav .crumbs aria-label="Path" {
            a href="/console/" { "Experiments" }
            @if runs.iter().all(|run| run.experiment == runs[0].experiment) {
                " / " a href=(path(&["experiments", &runs[0].experiment])) { (name(&runs[0].experiment)) }
            }
        }
        h1 { "Compare " (count(runs.len() as u64, "run")) }
        section aria-labelledby="results" { h2 #results { "Results" } (results(&runs)) }
        section aria-labelledby="differences" {
            h2 #differences { "Differences" }
            (differences(&runs))
        }
        @if !curves.is_empty() {
            section aria-labelledby="curves" {
                div .head { h2 #curves { "Curves" } (view.form("/console/compare", &kept)) }
                div .figures { @for (title, curves) in &curves { (figure(title, curves, &view)) } }
            }
        }
    };
    Ok(framed(&session, "Experiments", "Compare runs", &content).into_response())
}

/// What is said where there is nothing to compare.
fn too_few(session: &Session, chosen: usize, from: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Compare runs" }
        p .problem role="alert" {
            @if chosen > MOST { "You have selected more than " (MOST) " runs. At most " (MOST) " can be compared." }
            @else { "You have selected " (count(chosen as u64, "run")) ". Select at least 2 in a list of runs." }
        }
        p { @match from {
            Some(experiment) => {
                a href=(path(&["experiments", experiment])) { "Back to the runs of " (name(experiment)) }
            }
            None => { a href="/console/" { "Back to the experiments" } }
        } }
    };
    framed(session, "Experiments", "Compare runs", &content)
}

/// The curves of all runs, by what they show.
async fn curves(app: &App, runs: &[RunRow]) -> Result<Vec<(String, Vec<Curve>)>, ApiError> {
    let points = (POINTS / runs.len() as u64).clamp(FEWEST_POINTS, POINTS_OF_RUN);
    let mut all = Vec::new();
    for run in runs {
        all.push(curves_of(app, run, points).await?);
    }
    // Curves keep the colour of their run, also where one has none.
    let of = |title: String, take: &dyn Fn(&Curves) -> Option<Curve>| {
        let curves = runs.iter().zip(&all).map(|(run, own)| Curve {
            name: run.name.clone(),
            points: take(own).unwrap_or_default().points,
        });
        let curves: Vec<Curve> = curves.collect();
        let is_empty = curves.iter().all(|curve| curve.points.is_empty());
        (!is_empty).then_some((title, curves))
    };
    let metric = all.iter().find_map(|own| own.metrics.first());
    let metric = metric.map(|curve| curve.name.clone());
    let of_metric = metric.and_then(|metric| {
        of(metric.clone(), &|own| {
            own.metrics
                .iter()
                .find(|curve| curve.name == metric)
                .cloned()
        })
    });
    let figures = [
        of("Loss".to_owned(), &|own| Some(own.loss.clone())),
        of("Validation loss".to_owned(), &|own| {
            Some(own.val_loss.clone())
        }),
        of_metric,
        of("Learning rate".to_owned(), &|own| {
            Some(own.learning_rate.clone())
        }),
    ];
    Ok(figures.into_iter().flatten().collect())
}

/// A run's name beside the colour of its curves.
fn title(place: usize, run: &RunRow) -> Markup {
    html! {
        th scope="row" {
            span class={ "key " (style_of(place)) } {} a href=(run_path(run)) { (name(&run.name)) }
        }
    }
}

/// What came of the runs. The best value of a metric is marked.
fn results(runs: &[RunRow]) -> Markup {
    let metrics: Vec<MetricsInfo> = runs.iter().map(metrics::of).collect();
    let mut all = MetricsInfo::default();
    for own in &metrics {
        all.before.extend(own.before.clone());
        all.after.extend(own.after.clone());
    }
    let names: Vec<String> = metrics::changes(&all)
        .into_iter()
        .map(|one| one.name)
        .collect();
    let now = now_ms();
    html! {
        div .scroll tabindex="0" role="region" aria-label="Table of results" { table .cards {
            thead { tr {
                th scope="col" { "Run" } th scope="col" { "State" }
                @for name in &names { th scope="col" .number { (visible(name)) } }
                th scope="col" .number { "Duration" }
            } }
            tbody { @for (i, (run, own)) in runs.iter().zip(&metrics).enumerate() { tr {
                (title(i, run))
                td data-label="State" { (badge(run)) }
                @for metric in &names { (result(&metrics, own, metric)) }
                td .number data-label="Duration" { (duration(run, now).map_or(String::new(), seconds)) }
            } } }
        } }
        p .hint { "Values after the training, with their change. "
            span .best { "Marked" } " values are the best of these runs." }
    }
}

/// The value of one metric of one run.
fn result(all: &[MetricsInfo], own: &MetricsInfo, metric: &str) -> Markup {
    let after = own.after.get(metric).copied();
    let change = metrics::Change {
        name: metric.to_owned(),
        before: own.before.get(metric).copied(),
        after,
    };
    html! { td .number data-label=(visible(metric)) { @if let Some(value) = after {
        @if is_best(all, metric, value) {
            strong .best { (number(value)) span .hidden { " (best)" } }
        } @else { (number(value)) }
        " " (metrics::change(&change))
    } } }
}

/// What the runs were asked to do differently.
fn differences(runs: &[RunRow]) -> Markup {
    let fields = differences::of(runs);
    if fields.is_empty() {
        return html! { p { "These runs have the same model, data and settings." } };
    }
    html! { div .scroll tabindex="0" role="region" aria-label="Table of differences" { table .cards {
        thead { tr {
            th scope="col" { "Run" }
            @for field in &fields { th scope="col" { (visible(&field.label)) } }
        } }
        tbody { @for (i, run) in runs.iter().enumerate() { tr {
            (title(i, run))
            @for field in &fields { td data-label=(visible(&field.label)) { @match &field.values[i] {
                Some(value) => { (name(value)) }
                None => { span .hint { "default" } }
            } } }
        } } }
    } } }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_best_value_of_a_metric_is_known_by_its_direction() {
        let run = |values: &[(&str, f64)]| {
            let after = values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value));
            MetricsInfo::new(BTreeMap::new(), after.collect())
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
