//! The storage page: usage and limit of each project.

use std::sync::Arc;

use axum::{
    Form,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;
use serde::Deserialize;

use super::frame::AdminSession;
use crate::{
    app::App,
    console::{
        failure::Page,
        frame::{pager, pages, problem},
        words::{bytes, count, name, visible},
    },
    error::ApiError,
};

/// Number of projects on a page.
const PAGE: u64 = 50;
const HERE: &str = "/console/admin/storage";

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    page: Option<u64>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Query(ListQuery { page }): Query<ListQuery>,
) -> Page {
    show(&app, &session, page.unwrap_or(1), None).await
}

async fn show(app: &App, session: &AdminSession, number: u64, wrong: Option<&str>) -> Page {
    let number = number.max(1);
    let first = (number - 1).saturating_mul(PAGE);
    let (projects, total) = app.database.storage((first, PAGE)).await?;
    let number = number.min(pages(total, PAGE));
    let all = match app.settings.max_stored {
        Some(most) => bytes(most),
        None => "no limit".to_owned(),
    };
    let content = html! {
        h1 { "Storage" }
        (problem(wrong))
        p { "Data, models and checkpoints of each project, the largest first. The server's limit for a project: " (all) "." }
        div .scroll tabindex="0" role="region" aria-label="Storage by project" { table {
            caption { (count(total, "project")) }
            thead { tr {
                th scope="col" { "Project" } th scope="col" .number { "Members" }
                th scope="col" .number { "Stored" } th scope="col" { "Limit in MiB" }
            } }
            tbody { @for project in &projects { tr {
                th scope="row" { (name(&project.name)) @if project.is_personal { " " span .tag { "personal" } } }
                td .number { (project.members) }
                td .number { (bytes(project.stored)) }
                td {
                    form .row method="post" action=(HERE) {
                        input type="hidden" name="name" value=(project.name);
                        input name="stored" type="number" min="0" max="1000000000"
                            value=(project.max_stored.map_or(String::new(), |most| (most >> 20).to_string()))
                            aria-label={ "Limit of " (visible(&project.name)) " in MiB" };
                        button .quiet type="submit" aria-label={ "Set the limit of " (visible(&project.name)) } { "Set" }
                    }
                }
            } } }
        } }
        (pager(total, number, PAGE, |page| format!("{HERE}?page={page}")))
        p .hint { "If the limit is empty, the server's limit applies." }
    };
    Ok(session.framed("Storage", &content))
}

#[derive(Deserialize)]
pub(crate) struct Limit {
    name: String,
    stored: String,
}

pub(crate) async fn set(
    State(app): State<Arc<App>>,
    session: AdminSession,
    Form(limit): Form<Limit>,
) -> Page<Response> {
    let most = match limit.stored.trim() {
        "" => Ok(None),
        text => text
            .parse::<u64>()
            .ok()
            .and_then(|mib| mib.checked_mul(1 << 20))
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Some)
            .ok_or_else(|| {
                ApiError::bad_request(format!(
                    "`stored` is `{text}`: enter a whole number of MiB, or nothing for the \
                     server's limit"
                ))
            }),
    };
    let set = match most {
        Ok(most) => {
            let set = app
                .database
                .set_max_stored(session.manager(), limit.name, most);
            set.await.map_err(ApiError::from)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = set {
        let page = show(&app, &session, 1, Some(error.message())).await?;
        return Ok((error.status(), page).into_response());
    }
    Ok(Redirect::to(HERE).into_response())
}
