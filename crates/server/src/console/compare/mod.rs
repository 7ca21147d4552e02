//! The comparison page: results, differences in settings, examples and curves of
//! several runs.

mod differences;
mod examples;
mod results;

use std::sync::Arc;

use axum::{
    extract::{Query, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use super::{
    chart::{Curve, View, ViewQuery, figure},
    failure::Page,
    frame::page as framed,
    run::{Curves, curves_of},
    session::Session,
    words::{count, name, own_address, path, visible},
};
use crate::{app::App, database::RunRow, error::ApiError, runs::find_run};

/// Maximum number of runs in a comparison.
const MAX_RUNS: usize = 200;
/// Maximum number of points in a figure, and bounds on the number of points per
/// run.
const MAX_POINTS: u64 = 6000;
const MAX_RUN_POINTS: u64 = 400;
const MIN_RUN_POINTS: u64 = 40;
/// Maximum number of metrics with curves.
const MAX_METRICS: usize = 8;

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    RawQuery(asked): RawQuery,
    Query(view): Query<ViewQuery>,
) -> Page<Response> {
    let asked = asked.unwrap_or_default();
    let fields = url::form_urlencoded::parse(asked.as_bytes());
    let fields: Vec<(String, String)> = fields.into_owned().collect();
    let of = |wanted: &str| {
        let found = fields.iter().find(|(field, _)| field == wanted);
        found.map(|(_, value)| value.as_str())
    };
    // URL of the list in which the runs were selected.
    let back = of("back").and_then(own_address);
    let mut chosen: Vec<&str> = Vec::new();
    for (_, id) in fields.iter().filter(|(field, _)| field == "run") {
        if chosen.len() <= MAX_RUNS && !chosen.contains(&id.as_str()) {
            chosen.push(id);
        }
    }
    if !(2..=MAX_RUNS).contains(&chosen.len()) {
        let page = too_few(&session, chosen.len(), of("experiment"), back);
        return Ok((StatusCode::BAD_REQUEST, page).into_response());
    }
    // Rows, curves and examples of all runs are in memory at once.
    let _turn = app.gates.previews.enter(&session.user.person).await?;
    let mut runs = Vec::new();
    for id in &chosen {
        let (experiment, name) = id
            .split_once('/')
            .ok_or_else(|| ApiError::bad_request("`run` must be an experiment/run"))?;
        let place = (experiment.to_owned(), name.to_owned());
        runs.push(find_run(&app, session.user.namespace.clone(), place).await?);
    }
    let view = View::from(&view);
    let points = (MAX_POINTS / runs.len() as u64).clamp(MIN_RUN_POINTS, MAX_RUN_POINTS);
    // A visible range gets a higher resolution.
    let points = if view.is_part() { points * 4 } else { points };
    let mut own = Vec::new();
    for run in &runs {
        own.push(curves_of(&app, run, points).await?);
    }
    let (curves, left_out) = curves(&runs, &own);
    let mut kept: Vec<(&str, &str)> = chosen.iter().map(|id| ("run", *id)).collect();
    kept.extend(back.map(|back| ("back", back)));
    let content = html! {
        nav .crumbs aria-label="Path" {
            a href="/console/" { "Experiments" }
            @if runs.iter().all(|run| run.experiment == runs[0].experiment) {
                " / " a href=(path(&["experiments", &runs[0].experiment])) { (name(&runs[0].experiment)) }
            }
            @if let Some(back) = back { " / " a href=(back) { "Back to the list" } }
        }
        h1 { "Compare " (count(runs.len() as u64, "run")) }
        section aria-labelledby="results" { h2 #results { "Results" } (results::table(&runs, &own)) }
        section aria-labelledby="differences" {
            h2 #differences { "Differences" }
            (differences(&runs))
        }
        (examples::section(&app, &runs).await?)
        @if !curves.is_empty() {
            section aria-labelledby="curves" {
                div .head { h2 #curves { "Curves" } (view.form("/console/compare", &kept)) }
                div .figures { @for (title, curves) in &curves { (figure(title, curves, &view)) } }
                @if left_out > 0 {
                    p .hint { "Curves of " (MAX_METRICS) " metrics are drawn, and of " (left_out) " more are not." }
                }
            }
        }
    };
    Ok(framed(&session, "Experiments", "Compare runs", &content).into_response())
}

/// Renders the error page for fewer than 2 or more than [`MAX_RUNS`] runs.
fn too_few(session: &Session, chosen: usize, from: Option<&str>, back: Option<&str>) -> Markup {
    let content = html! {
        h1 { "Compare runs" }
        p .problem role="alert" {
            @if chosen > MAX_RUNS { "You have selected more than " (MAX_RUNS) " runs. At most " (MAX_RUNS) " can be compared." }
            @else { "You have selected " (count(chosen as u64, "run")) ". Select at least 2 in a list of runs." }
        }
        p { @match (back, from) {
            (Some(back), _) => { a href=(back) { "Back to the list" } }
            (None, Some(experiment)) => {
                a href=(path(&["experiments", experiment])) { "Back to the runs of " (name(experiment)) }
            }
            (None, None) => { a href="/console/" { "Back to the experiments" } }
        } }
    };
    framed(session, "Experiments", "Compare runs", &content)
}

/// Returns the curves of all runs, grouped by title, and the number of metrics whose
/// curves are omitted.
fn curves(runs: &[RunRow], all: &[Curves]) -> (Vec<(String, Vec<Curve>)>, usize) {
    // A run without points keeps its empty curve, because the position sets the colour.
    let of = |title: &str, take: &dyn Fn(&Curves) -> Option<Curve>| {
        let curves = runs.iter().zip(all).map(|(run, own)| Curve {
            name: run.name.clone(),
            points: take(own).unwrap_or_default().points,
        });
        let curves: Vec<Curve> = curves.collect();
        let is_empty = curves.iter().all(|curve| curve.points.is_empty());
        (!is_empty).then(|| (title.to_owned(), curves))
    };
    let mut figures = vec![
        of("Loss", &|own| Some(own.loss.clone())),
        of("Validation loss", &|own| Some(own.val_loss.clone())),
    ];
    let mut measured = measured(all);
    let left_out = measured.len().saturating_sub(MAX_METRICS);
    measured.truncate(MAX_METRICS);
    for metric in measured {
        let same = |curve: &&Curve| curve.name == metric;
        figures.push(of(&metric, &|own| own.metrics.iter().find(same).cloned()));
    }
    figures.push(of("Learning rate", &|own| Some(own.learning_rate.clone())));
    (figures.into_iter().flatten().collect(), left_out)
}

/// Returns the metrics that any run measured during the training, most
/// informative first.
fn measured(all: &[Curves]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let longest = all.iter().map(|own| own.metrics.len()).max().unwrap_or(0);
    for place in 0..longest {
        for curve in all.iter().filter_map(|own| own.metrics.get(place)) {
            if !names.contains(&curve.name) {
                names.push(curve.name.clone());
            }
        }
    }
    names
}

/// Renders the differences between the settings of the runs.
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
            (results::title(i, run))
            @for field in &fields { td data-label=(visible(&field.label)) { @match &field.values[i] {
                Some(value) => { (name(value)) }
                None => { span .hint { "default" } }
            } } }
        } } }
    } } }
}
