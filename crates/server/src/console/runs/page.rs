//! The pages with lists of runs.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use maud::html;

use super::{
    column_form,
    columns::{self, Columns},
    find::{PAGE, read},
    form,
    listed::{ListQuery, Listed},
    search::Conditions,
    table,
};
use crate::{
    app::App,
    console::{
        cookies::add_cookie,
        failure::Page,
        frame::{page as framed, pager, pages},
        session::Session,
        words::name,
    },
    database::{ExperimentRow, now_ms},
    error::ApiError,
    runs::find_experiment,
};

/// Renders the list of an experiment's runs.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(experiment): Path<String>,
    Query(asked): Query<ListQuery>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Page<Response> {
    let found = find_experiment(&app, session.user.namespace.clone(), experiment).await?;
    list(&app, &session, Some(found), asked, raw, &headers).await
}

/// Renders the list of all runs.
pub(crate) async fn all(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<ListQuery>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Page<Response> {
    list(&app, &session, None, asked, raw, &headers).await
}

async fn list(
    app: &App,
    session: &Session,
    of: Option<ExperimentRow>,
    asked: ListQuery,
    raw: Option<String>,
    headers: &HeaderMap,
) -> Page<Response> {
    let listed = Listed::new(of, asked, Columns::read(headers));
    if !listed.asked.columns.is_empty() {
        return remember(&listed, &raw.unwrap_or_default(), headers);
    }
    let (conditions, wrong) = match Conditions::read(&listed.asked.filter) {
        Ok(conditions) => (conditions, None),
        Err(reason) => (Conditions::default(), Some(reason)),
    };
    let (runs, total) = read(app, &session.user, &listed, conditions).await?;
    let last = pages(total, PAGE);
    if listed.number > last {
        let to = listed.with(&[("page", &*last.to_string())]);
        return Ok(Redirect::to(&to).into_response());
    }
    let shown = table::Shown::of(&runs, &listed.asked.metric, now_ms());
    let table = html! { div #runs {
        (table::markup(&shown, &listed, total, session.writes()))
        (pager(total, listed.number, PAGE, |page| listed.with(&[("page", &*page.to_string())])))
    } };
    if listed.asked.part == "live" {
        return Ok(table.into_response());
    }
    let tags = app
        .database
        .tags_of_runs(session.user.namespace.clone())
        .await?;
    let title = listed.of.as_ref().map_or("Runs", |of| of.name.as_str());
    let content = html! {
        @if let Some(experiment) = &listed.of {
            nav .crumbs aria-label="Path" { a href="/console/" { "Experiments" } }
            h1 { (name(&experiment.name)) }
            @if !experiment.description.is_empty() { p { (name(&experiment.description)) } }
        } @else { h1 { "Runs" } }
        (form::markup(&listed, &shown, &tags, wrong.as_deref()))
        (column_form::markup(&listed, &shown))
        form #selection method="post" action="/console/runs/selected" {
            (listed.hidden_fields())
            (session.project_field())
            input type="hidden" name="back" value=(listed.with(&[]));
            @if let Some(experiment) = &listed.of {
                input type="hidden" name="experiment" value=(experiment.name);
            }
            div data-live=(listed.with(&[("part", "live")])) data-every=(pause(total)) { (table) }
        }
    };
    let part = if listed.is_of_one() {
        "Experiments"
    } else {
        "Runs"
    };
    Ok(framed(session, part, title, &content).into_response())
}

/// Stores the selected columns in the cookie and redirects to the list.
fn remember(listed: &Listed, raw: &str, headers: &HeaderMap) -> Page<Response> {
    let mut answer = Redirect::to(&listed.with(&[])).into_response();
    if listed.asked.columns == "default" {
        add_cookie(headers, &mut answer, columns::COOKIE, "", 0);
        return Ok(answer);
    }
    let fields = url::form_urlencoded::parse(raw.as_bytes());
    let fields: Vec<(String, String)> = fields.into_owned().collect();
    let chosen = Columns::chosen(&fields).map_err(ApiError::bad_request)?;
    add_cookie(
        headers,
        &mut answer,
        columns::COOKIE,
        &chosen.value(),
        columns::AGE,
    );
    Ok(answer)
}

/// Returns the refresh interval of a page in seconds. It is longer for many runs,
/// because sorting them takes time.
fn pause(total: u64) -> u64 {
    if total > 1000 { 30 } else { 5 }
}
