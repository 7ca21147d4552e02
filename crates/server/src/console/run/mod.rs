//! One run: what came of it, what can be done with it, and how it went.

mod actions;
mod curves;
mod examples;
mod facts;
mod forms;
mod shared;
mod shares;
mod tabs;
mod top;

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{Response, sse::Event as Message},
};
use finetuner_protocol::RunTask;
use futures_util::StreamExt;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    Page, Session, annotations,
    chart::{View, ViewQuery},
    frame::page as framed,
    words::{name, path, query},
};
use crate::{
    api::{as_it_comes, find_run, follow},
    app::App,
    database::{ArtifactRow, CheckpointRow, RunRow},
};

pub(crate) use actions::{ask_to_cancel, ask_to_delete, cancel, delete};
pub(super) use curves::{Curves, of as curves_of};
pub(super) use examples::{EXAMPLES, Examples};
pub(super) use facts::{config_of, model_of, setting};
pub(crate) use forms::{clone, clone_form, continue_form, go_on};
pub(crate) use shared::{
    download as shared_download, page as shared_page, picture as shared_picture,
};
pub(crate) use shares::{create as create_share, list as list_shares, revoke as revoke_share};

/// The address of a run's page.
pub(super) fn run_path(run: &RunRow) -> String {
    path(&["experiments", &run.experiment, "runs", &run.name])
}

/// Whether a run makes training data.
pub(super) fn makes_data(run: &RunRow) -> bool {
    run.task == RunTask::Generation.as_str()
}

/// The links that lead to a run's page.
pub(super) fn crumbs(run: &RunRow) -> Markup {
    html! {
        nav .crumbs aria-label="Path" {
            a href="/console/" { "Experiments" } " / "
            a href=(path(&["experiments", &run.experiment])) { (name(&run.experiment)) }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunQuery {
    /// `live` for what changes while the run goes on, without the frame.
    part: String,
    tab: String,
    #[serde(flatten)]
    view: ViewQuery,
}

/// What a page shows of a run.
struct Shown {
    run: RunRow,
    checkpoints: Vec<CheckpointRow>,
    artifact: Option<ArtifactRow>,
    view: View,
    tab: tabs::Tab,
}

impl Shown {
    /// The address of this page with another tab.
    fn address(&self, tab: tabs::Tab, more: &[(&str, &str)]) -> String {
        let view = self.view.fields();
        let mut fields: Vec<(&str, &str)> = more.to_vec();
        fields.push(("tab", tab.word()));
        fields.extend(view.iter().map(|(name, value)| (*name, value.as_str())));
        format!("{}{}", run_path(&self.run), query(&fields))
    }
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
        tab: tabs::Tab::read(&asked.tab),
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

/// New lines of the log, as they come. The browser says how many it has.
pub(crate) async fn live(
    State(app): State<Arc<App>>,
    session: Session,
    Path(place): Path<(String, String)>,
    headers: HeaderMap,
) -> Page<Response> {
    let run = find_run(&app, session.user.namespace.clone(), place).await?;
    // Told at the end, so that the browser does not come again.
    let end = futures_util::stream::once(async { Ok(Message::default().event("end").data("")) });
    let lines = follow(app, session.user, run.id, &headers).chain(end);
    Ok(as_it_comes(lines))
}
