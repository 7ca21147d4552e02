//! The page of a run, for members of its project.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{Response, sse::Event as Message},
};
use futures_util::StreamExt;
use maud::html;
use serde::Deserialize;

use super::{
    curves, examples,
    shown::{Shown, Tab},
    tabs, top,
};
use crate::{
    app::App,
    console::{
        annotations,
        chart::{View, ViewQuery},
        failure::Page,
        frame::page as framed,
        links::run_path,
        session::Session,
    },
    runs::{as_it_comes, find_run, follow},
};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunQuery {
    /// `live` for the parts that change during the run, without the layout.
    part: String,
    tab: String,
    #[serde(flatten)]
    view: ViewQuery,
}

pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    Query(asked): Query<RunQuery>,
) -> Page {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    let shown = Shown {
        checkpoints: app.database.checkpoints(run.id).await?,
        artifact: app
            .database
            .artifact(session.user.namespace.clone(), run.artifact_id.clone())
            .await?,
        view: View::from(&asked.view),
        tab: Tab::read(&asked.tab),
        run,
    };
    let is_open = !shown.run.status().is_final();
    let top = top::markup(&app, &session, &shown).await?;
    let curves = curves::section(&app, &shown).await?;
    let live = html! {
        div #top data-final[!is_open] { (top) }
        div #curves { (curves) }
    };
    if asked.part == "live" {
        return Ok(live);
    }
    let live_from = shown.address(shown.tab, &[("part", "live")]);
    let content = html! {
        div data-live=[is_open.then_some(live_from)] {
            div #top data-final[!is_open] { (top) }
            (annotations::editor(&session, &run_path(&shown.run), shown.run.created_by.as_deref(), &shown.run.annotations))
            (examples::section(&app, &session, &shown).await?)
            div #curves { (curves) }
            (tabs::section(&app, &shown).await?)
        }
    };
    Ok(framed(&session, "Experiments", &shown.run.name, &content))
}

/// Streams the lines of the log after `Last-Event-ID`, or all of them.
pub(crate) async fn live(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
) -> Page<Response> {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    // Without this last message, the browser would reconnect.
    let end = futures_util::stream::once(async { Ok(Message::default().event("end").data("")) });
    let lines = follow(app, session.user, run.id, &headers).chain(end);
    Ok(as_it_comes(lines))
}
