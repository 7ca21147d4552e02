//! The page that starts a run on a stored dataset. The form suggests settings
//! that fit the data, and can show the same run as code.

mod code;
mod form;
mod offer;
mod shape;
mod submission;
mod typed;

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};

use super::{
    failure::Page,
    links::run_path,
    project_form::ProjectForm,
    session::Session,
    words::{path, query},
};
use crate::app::App;
use form::page;
use offer::{datasets, fill, look};
use submission::create_run;
use typed::Typed;

pub(crate) async fn form(
    State(app): State<Arc<App>>,
    session: Session,
    Query(mut typed): Query<Typed>,
) -> Page {
    session.may_write()?;
    let offered = datasets(&app, &session).await?;
    let found = match typed.data.is_empty() {
        true => None,
        false => look(&app, &session, &typed.data).await?,
    };
    if let Some(found) = &found {
        fill(&mut typed, found);
    }
    Ok(page(&session, &typed, &offered, found.as_ref(), None))
}

pub(crate) async fn start(
    State(app): State<Arc<App>>,
    session: Session,
    ProjectForm(typed): ProjectForm<Typed>,
) -> Page<Response> {
    session.may_write()?;
    let created = match typed.action == "code" {
        true => None,
        false => Some(create_run(&app, &session, &typed).await),
    };
    let wrong = match created {
        Some(Ok(run)) => return Ok(Redirect::to(&run_path(&run)).into_response()),
        Some(Err(wrong)) => Some(wrong),
        None => None,
    };
    let offered = datasets(&app, &session).await?;
    let found = look(&app, &session, &typed.data).await?;
    let page = page(&session, &typed, &offered, found.as_ref(), wrong.as_ref());
    let status = wrong.map_or(StatusCode::OK, |wrong| wrong.status);
    Ok((status, page).into_response())
}

/// Returns the URL of the form for a dataset.
pub(super) fn address(data: &str) -> String {
    format!("{}{}", path(&["start"]), query(&[("data", data)]))
}
