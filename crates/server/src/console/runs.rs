//! Experiments and their runs: lists, and one run.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{Redirect, Response, sse::Event as Message},
};
use finetuner_protocol::{Event, ExamplesInfo, MetricsInfo, RunTask, Status};
use futures_util::StreamExt;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Page, Session, bytes,
    chart::{COLOURS, Curve, chart, number},
    page as shown, pager, path, pretty, query, status, time,
};
use crate::{
    api::{as_it_comes, examples_of, find_run, follow, log_text, status_of},
    app::App,
    database::{CheckpointRow, Found, RunFilter, RunRow, StoredEvent},
    error::ApiError,
    redaction::shown_config,
};

/// Runs of a page.
const PAGE: u64 = 50;
/// Points of a curve that are drawn.
pub(super) const POINTS: u64 = 600;
/// Example queries that are shown.
const EXAMPLES: usize = 5;
/// Matches that are shown of each.
const MATCHES: usize = 8;

pub(crate) async fn experiments(State(app): State<Arc<App>>, session: Session) -> Page {
    let (experiments, _) = app
        .database
        .experiments(session.user.id.clone(), None)
        .await?;
    let content = html! {
        h1 { "Experiments" }
        @if experiments.is_empty() {
            p { "There are none yet. A run that a program starts with " code { "fit" }
                " makes the experiment " code { "default" } "." }
        } @else {
            div .scroll { table {
                thead { tr {
                    th scope="col" { "Name" } th scope="col" .number { "Runs" }
                    th scope="col" { "Made" } th scope="col" { "Description" }
                } }
                tbody { @for experiment in experiments.iter().rev() { tr {
                    th scope="row" {
                        a href=(path(&["experiments", &experiment.name])) { (experiment.name) }
                    }
                    td .number { (experiment.runs) }
                    td { (time(&experiment.created_at)) }
                    td { (experiment.description) }
                } } }
            } }
        }
    };
    Ok(shown(&session, "Experiments", "Experiments", &content))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    status: String,
    q: String,
    order: String,
    page: Option<u64>,
}

/// The runs of an experiment.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    session: Session,
    Path(name): Path<String>,
    Query(asked): Query<ListQuery>,
) -> Page {
    let experiment = app
        .database
        .experiment(session.user.id.clone(), name.clone())
        .await?;
    let experiment = experiment
        .ok_or_else(|| ApiError::not_found(format!("there is no experiment `{name}`")))?;
    let number = asked.page.unwrap_or(1).max(1);
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let filter = RunFilter {
        status: given(&asked.status),
        name: given(&asked.q),
        newest_first: asked.order != "oldest",
        page: Some(((number - 1).saturating_mul(PAGE), PAGE)),
    };
    let (runs, total) = app.database.runs(experiment.id, filter).await?;
    let metric = runs.iter().find_map(|run| shown_metric(&metrics_of(run)));
    let here = path(&["experiments", &name]);
    let link = |page: u64| {
        let page = page.to_string();
        let fields = [
            ("status", asked.status.as_str()),
            ("q", &asked.q),
            ("order", &asked.order),
            ("page", &page),
        ];
        format!("{here}{}", query(&fields))
    };
    let statuses = ["CREATED", "STARTED", "FINISHED", "FAILED"];
    let content = html! {
        p .crumbs { a href="/console/" { "Experiments" } }
        h1 { (name) }
        form .row method="get" action=(here) role="search" {
            label for="q" { "Name" }
            input id="q" name="q" value=(asked.q);
            label for="status" { "Status" }
            select id="status" name="status" {
                option value="" { "any" }
                @for one in statuses {
                    option value=(one) selected[asked.status == one] { (one) }
                }
            }
            label for="order" { "Order" }
            select id="order" name="order" {
                option value="" { "newest first" }
                option value="oldest" selected[asked.order == "oldest"] { "oldest first" }
            }
            button type="submit" { "Show" }
        }
        form method="get" action="/console/compare" {
            div .scroll { table {
                caption { (total) " runs" }
                thead { tr {
                    th scope="col" { span .hidden { "Compare" } }
                    th scope="col" { "Name" } th scope="col" { "Status" }
                    th scope="col" { "Progress" } th scope="col" { "Model" }
                    th scope="col" .number { (metric.as_deref().unwrap_or("Metric")) " before" }
                    th scope="col" .number { "after" }
                    th scope="col" { "Made" }
                } }
                tbody { @for run in &runs { (row(run, metric.as_deref())) } }
            } }
            @if runs.len() > 1 { button type="submit" { "Compare those that are chosen" } }
        }
        (pager(total, number, PAGE, link))
    };
    Ok(shown(&session, "Experiments", &name, &content))
}

fn row(run: &RunRow, metric: Option<&str>) -> Markup {
    let metrics = metrics_of(run);
    let value = |values: &std::collections::BTreeMap<String, f64>| {
        let value = metric.and_then(|metric| values.get(metric));
        value.map_or(String::new(), |value| number(*value))
    };
    let id = format!("{}/{}", run.experiment, run.name);
    html! { tr {
        td { input type="checkbox" name="run" value=(id) aria-label={ "Compare " (run.name) }; }
        th scope="row" { a href=(run_path(run)) { (run.name) } }
        td { (status(&run.status)) }
        td { (progress(run)) }
        td { (model_of(run)) }
        td .number { (value(&metrics.before)) }
        td .number { (value(&metrics.after)) }
        td { (time(&run.created_at)) }
    } }
}

pub(super) fn run_path(run: &RunRow) -> String {
    path(&["experiments", &run.experiment, "runs", &run.name])
}

fn progress(run: &RunRow) -> Markup {
    let share = match run.status() {
        Status::Finished => 1.0,
        _ => run.progress.share(),
    };
    let percent = (share * 100.0).floor();
    html! { progress max="100" value=(percent) aria-label="Progress" { (percent) "%" } }
}

pub(super) fn config_of(run: &RunRow) -> Value {
    shown_config(&run.config)
}

/// The model that a run trains, or those that a synthesis run uses.
fn model_of(run: &RunRow) -> String {
    let config = config_of(run);
    let names = match makes_data(run) {
        true => models_of_synthesis(&config).concat(),
        false => texts(&config["model"]["name"]),
    };
    names.join(", ")
}

/// Whether a run makes training data.
fn makes_data(run: &RunRow) -> bool {
    run.task == RunTask::Generation.as_str()
}

/// The relation miners and the cross-encoder of a synthesis run.
fn models_of_synthesis(config: &Value) -> [Vec<String>; 2] {
    [
        texts(&config["relation_mining"]["models"]),
        texts(&config["cross_encoder"]),
    ]
}

/// A text, or those of a list.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Returns models and data of a run, in rows of a name and a value.
fn facts(run: &RunRow) -> Vec<(&'static str, String)> {
    if !makes_data(run) {
        return vec![("Model", model_of(run))];
    }
    let config = config_of(run);
    let [miners, cross_encoder] = models_of_synthesis(&config);
    let data = &config["data"];
    vec![
        ("Makes", "training data".to_owned()),
        ("Relation miner", miners.join(", ")),
        ("Cross-encoder", cross_encoder.join(", ")),
        ("Queries", texts(&data["queries"]).concat()),
        ("Corpus", texts(&data["corpus"]).concat()),
    ]
}

pub(super) fn metrics_of(run: &RunRow) -> MetricsInfo {
    serde_json::from_str(&run.metrics).unwrap_or_default()
}

/// The metric that a list shows, where it has room for one.
fn shown_metric(metrics: &MetricsInfo) -> Option<String> {
    let names = || metrics.before.keys().chain(metrics.after.keys());
    let first = |end: &str| names().find(|name| name.ends_with(end)).cloned();
    first("recall_at_k").or_else(|| names().next().cloned())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunQuery {
    /// Only the part of this name, for a page that is live.
    part: String,
}

/// One run.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    Query(RunQuery { part }): Query<RunQuery>,
) -> Page {
    let run = find_run(&app, session.user.id.clone(), place).await?;
    let checkpoints = app.database.checkpoints(run.id).await?;
    let state = state(&app, &run, &checkpoints).await?;
    if part == "state" {
        return Ok(state);
    }
    let log = log_text(&app, run.id).await?;
    let artifact = app
        .database
        .artifact(session.user.id.clone(), run.artifact_id.clone())
        .await?;
    let here = run_path(&run);
    let is_open = !run.status().is_final();
    let lines = log.lines().count();
    let content = html! {
        p .crumbs {
            a href="/console/" { "Experiments" } " / "
            a href=(path(&["experiments", &run.experiment])) { (run.experiment) }
        }
        h1 { (run.name) }
        @if !run.description.is_empty() { p { (run.description) } }
        div id="state" data-live=[is_open.then_some("state")] data-from={ (here) "?part=state" } {
            (state)
        }
        @if let Some(artifact) = &artifact {
            section aria-labelledby="artifact" {
                h2 id="artifact" {
                    @if makes_data(&run) { "Training data" } @else { "Artifact" }
                }
                dl {
                    @if let Some(name) = &artifact.name {
                        dt { "Name" }
                        dd { a href=(path(&["data", &artifact.id])) { (name) } }
                    }
                    dt { "Id" } dd { code { (artifact.id) } }
                    dt { "Size" } dd { (bytes(artifact.size)) }
                    dt { "SHA-256" } dd { code .long { (artifact.content) } }
                }
                p { a .button href=(path(&["data", &artifact.id, "download"])) download { "Download" } }
            }
        }
        (examples(&app, &session, &run).await?)
        section aria-labelledby="log" {
            h2 id="log" { "Log" }
            pre .log id="lines" tabindex="0" aria-live="off"
                data-follow=[is_open.then(|| format!("{here}/live"))] data-lines=(lines) { (log) }
        }
        section aria-labelledby="configuration" {
            h2 id="configuration" { "Configuration" }
            details { summary { "As it was sent, without keys" } pre { (pretty(&config_of(&run))) } }
        }
        section .row aria-label="Actions" {
            @if is_open {
                form method="post" action={ (here) "/cancel" } {
                    button .quiet type="submit" { "Cancel the run" }
                }
            }
            form method="post" action={ (here) "/delete" } data-confirm={ "Delete the run and its "
                @if makes_data(&run) { "training data?" } @else { "model?" } } {
                button .quiet type="submit" { "Delete the run" }
            }
        }
    };
    Ok(shown(&session, "Experiments", &run.name, &content))
}

/// What changes while a run goes on.
async fn state(app: &App, run: &RunRow, checkpoints: &[CheckpointRow]) -> Page {
    let details = status_of(app, run).await?.details;
    let metrics = metrics_of(run);
    let steps = app.database.sampled_steps(run.id, POINTS).await?;
    let epochs = app.database.epochs(run.id).await?;
    let curves = loss_curves(&steps, &epochs);
    let rate = vec![Curve {
        name: "learning rate".to_owned(),
        points: steps.iter().filter_map(rate_of).collect(),
    }];
    Ok(html! {
        p data-final=[run.status().is_final().then_some("")] {
            (status(&run.status)) " " (details)
        }
        (progress(run))
        dl {
            @for (name, value) in facts(run) { dt { (name) } dd { (value) } }
            dt { "Device" } dd { (run.device) }
            dt { "Made" } dd { (time(&run.created_at)) }
            @if let (Some(started), Some(ended)) = (run.started_at, run.ended_at) {
                dt { "Took" } dd { (seconds(ended - started)) }
            }
            @if run.attempts > 1 { dt { "Workers" } dd { (run.attempts) } }
        }
        @if !metrics.before.is_empty() || !metrics.after.is_empty() {
            section aria-labelledby="metrics" {
                h2 id="metrics" { "Metrics" }
                (metrics_table(&metrics))
            }
        }
        @if !steps.is_empty() {
            section aria-labelledby="curves" {
                h2 id="curves" { "Curves" }
                (figure("Loss", "step", &curves))
                (figure("Learning rate", "step", &rate))
            }
        }
        @if !checkpoints.is_empty() {
            section aria-labelledby="checkpoints" {
                h2 id="checkpoints" { "Checkpoints" }
                div .scroll { table {
                    thead { tr {
                        th scope="col" .number { "Number" } th scope="col" .number { "Epochs" }
                        th scope="col" .number { "Steps" } th scope="col" .number { "Size" }
                        th scope="col" { "Made" }
                    } }
                    tbody { @for checkpoint in checkpoints { tr {
                        th scope="row" .number { (checkpoint.number) }
                        td .number { (checkpoint.epoch) } td .number { (checkpoint.step) }
                        td .number { (bytes(checkpoint.size)) }
                        td { (time(&checkpoint.created_at)) }
                    } } }
                } }
            }
        }
    })
}

fn seconds(millis: i64) -> String {
    let seconds = millis / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

fn metrics_table(metrics: &MetricsInfo) -> Markup {
    let mut names: Vec<&String> = metrics.before.keys().chain(metrics.after.keys()).collect();
    names.sort();
    names.dedup();
    let value = |values: &std::collections::BTreeMap<String, f64>, name: &str| {
        values
            .get(name)
            .map_or(String::new(), |value| number(*value))
    };
    html! { div .scroll { table {
        thead { tr {
            th scope="col" { "Metric" } th scope="col" .number { "Before" }
            th scope="col" .number { "After" }
        } }
        tbody { @for name in names { tr {
            th scope="row" { (name) }
            td .number { (value(&metrics.before, name)) }
            td .number { (value(&metrics.after, name)) }
        } } }
    } } }
}

/// Over all epochs, counted from 1.
fn step_number(epoch: u64, step: u64, steps: u64) -> f64 {
    (epoch.saturating_sub(1) * steps + step) as f64
}

fn rate_of(stored: &StoredEvent) -> Option<(f64, f64)> {
    match stored.event {
        Event::Step {
            epoch,
            step,
            steps,
            learning_rate,
            ..
        } => Some((step_number(epoch, step, steps), learning_rate)),
        _ => None,
    }
}

/// The losses of the steps and, where there is one, of the evaluation data.
pub(super) fn loss_curves(steps: &[StoredEvent], epochs: &[StoredEvent]) -> Vec<Curve> {
    let mut per_epoch = 1;
    let loss = steps.iter().filter_map(|stored| match stored.event {
        Event::Step {
            epoch,
            step,
            steps,
            loss,
            ..
        } => {
            per_epoch = steps;
            Some((step_number(epoch, step, steps), loss))
        }
        _ => None,
    });
    let train = Curve {
        name: "loss".to_owned(),
        points: loss.collect(),
    };
    let validation = epochs.iter().filter_map(|stored| match stored.event {
        Event::Epoch {
            epoch,
            val_loss: Some(loss),
            ..
        } => Some((step_number(epoch, per_epoch, per_epoch), loss)),
        _ => None,
    });
    let validation = Curve {
        name: "val_loss".to_owned(),
        points: validation.collect(),
    };
    match validation.points.is_empty() {
        true => vec![train],
        false => vec![train, validation],
    }
}

pub(super) fn figure(title: &str, x_name: &str, curves: &[Curve]) -> Markup {
    html! {
        figure {
            figcaption {
                (title)
                @if curves.len() > 1 { @for (i, curve) in curves.iter().enumerate() {
                    span class={ "key c" (i % COLOURS) } { (curve.name) }
                } }
            }
            (chart(title, x_name, curves))
        }
    }
}

/// What example queries found, with pictures where the data is still there.
async fn examples(app: &App, session: &Session, run: &RunRow) -> Page {
    let all: ExamplesInfo = examples_of(app, run.id).await?;
    let queries: Vec<&String> = all.after.keys().take(EXAMPLES).collect();
    if queries.is_empty() {
        return Ok(html! {});
    }
    let [before, after] = app.database.found_documents(run.id).await?;
    let data = after
        .as_ref()
        .or(before.as_ref())
        .map(|found| found.data.clone());
    let data = match data {
        Some(name) => {
            app.database
                .artifact_by_name(session.user.id.clone(), name)
                .await?
        }
        None => None,
    };
    // What was pushed since may hold other pictures.
    let used: Value = serde_json::from_str(&run.data).unwrap_or_default();
    let data = data.filter(|data| {
        let name = data.name.as_deref().unwrap_or_default();
        used[name] == data.content.as_str()
    });
    let found = |of: &Option<Found>, texts: &ExamplesByQuery, query: &str| {
        let places = of.as_ref().and_then(|found| found.places.get(query));
        let texts = texts.get(query).map(Vec::as_slice).unwrap_or_default();
        html! { ol .found { @for (i, text) in texts.iter().take(MATCHES).enumerate() { li {
            @let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
            @match (&data, places.and_then(|places| places.get(i))) {
                (Some(data), Some(place)) => {
                    img loading="lazy" alt=(text) title=(text)
                        src={ (path(&["data", &data.id, "picture"])) "?document=" (place) };
                }
                _ => { (text) }
            }
        } } } }
    };
    Ok(html! { section aria-labelledby="examples" {
        h2 id="examples" { "Examples" }
        @for query in queries {
            h3 { (query) }
            div .sides {
                div { h4 { "Before" } (found(&before, &all.before, query)) }
                div { h4 { "After" } (found(&after, &all.after, query)) }
            }
        }
    } })
}

type ExamplesByQuery = std::collections::BTreeMap<String, Vec<Value>>;

/// New lines of the log, as they come. The browser says how many it has.
pub(crate) async fn live(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
) -> Page<Response> {
    let run = find_run(&app, session.user.id, place).await?;
    // Told at the end, so that the browser does not come again.
    let end = futures_util::stream::once(async { Ok(Message::default().event("end").data("")) });
    let lines = follow(app, run.id, &headers).chain(end);
    Ok(as_it_comes(lines))
}

pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page<Redirect> {
    session.may_write()?;
    let run = find_run(&app, session.user.id.clone(), place).await?;
    let reason = format!("Run cancelled by {}", session.user.name);
    app.fail(run.id, None, reason).await?;
    Ok(Redirect::to(&run_path(&run)))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
) -> Page<Redirect> {
    session.may_write()?;
    let run = find_run(&app, session.user.id.clone(), place).await?;
    let list = path(&["experiments", &run.experiment]);
    app.delete_run(run).await?;
    Ok(Redirect::to(&list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_unit() {
        assert_eq!(seconds(5_000), "5 s");
        assert_eq!(seconds(65_000), "1 min 5 s");
        assert_eq!(seconds(3_700_000), "1 h 1 min");
    }
}
