//! The list of data sets and models.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;
use serde::Deserialize;

use crate::{
    app::App,
    console::{
        annotations,
        artifacts::{audience, kind_name, length_of, shown_title},
        failure::Page,
        frame::{page as framed, pager, pages},
        session::Session,
        words::{bytes, count, path, query, time},
    },
    database::ArtifactList,
};

/// Address of the list.
const HERE: &str = "/console/data";
/// Artifacts of a page.
const PAGE: u64 = 50;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    q: String,
    kind: String,
    tag: String,
    page: Option<u64>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    session: Session,
    Query(asked): Query<ListQuery>,
) -> Page<Response> {
    let number = asked.page.unwrap_or(1).max(1);
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let list = ArtifactList {
        kind: given(&asked.kind),
        name: given(asked.q.trim()),
        tag: given(&asked.tag),
        newest_first: true,
        by_name: false,
        page: ((number - 1).saturating_mul(PAGE), PAGE),
    };
    let project = session.user.namespace.clone();
    let (artifacts, total) = app.database.artifacts(project.clone(), list).await?;
    let link = |page: u64| {
        let page = page.to_string();
        let fields = [
            ("q", asked.q.as_str()),
            ("kind", &asked.kind),
            ("tag", &asked.tag),
            ("page", &page),
        ];
        format!("{HERE}{}", query(&fields))
    };
    if number > pages(total, PAGE) {
        return Ok(Redirect::to(&link(pages(total, PAGE))).into_response());
    }
    let nameless = artifacts.iter().filter(|artifact| artifact.name.is_none());
    let nameless = nameless.map(|artifact| artifact.id.clone()).collect();
    let makers = app.database.makers(project.clone(), nameless).await?;
    let tags = app.database.tags_of_artifacts(project).await?;
    let content = html! {
        div .head {
            h1 { "Data and models" }
            @if session.writes() {
                div .actions role="group" aria-label="Actions" { a .button href="/console/data/new" { "Upload data" } }
            }
        }
        form .row method="get" action=(HERE) role="search" {
            label for="q" { "Name" }
            input id="q" name="q" value=(asked.q);
            label for="kind" { "Kind" }
            select id="kind" name="kind" {
                option value="" { "any" }
                @for kind in ["documentArray", "model"] {
                    option value=(kind) selected[asked.kind == kind] { (kind_name(kind)) }
                }
            }
            (annotations::choice(&asked.tag, &tags))
            button type="submit" { "Filter" }
        }
        div .scroll tabindex="0" role="region" aria-label="Table of data and models" { table {
            caption { (count(total, "item")) }
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Kind" }
                th scope="col" { "Tags" }
                th scope="col" .number { "Documents" } th scope="col" .number { "Size" }
                th scope="col" { "Visible to" } th scope="col" { "Updated" }
            } }
            tbody { @for artifact in &artifacts { tr {
                th scope="row" { a href=(path(&["data", &artifact.id])) {
                    (shown_title(artifact, makers.get(&artifact.id)))
                } }
                td { (kind_name(&artifact.kind)) }
                td { (annotations::tags(HERE, &artifact.annotations.tags)) }
                td .number { (length_of(artifact).map_or(String::new(), |n| n.to_string())) }
                td .number { (bytes(artifact.size)) }
                td { (audience(&session, artifact)) }
                td { (time(&artifact.updated_at)) }
            } } }
        } }
        (pager(total, number, PAGE, link))
    };
    let title = "Data and models";
    Ok(framed(&session, title, title, &content).into_response())
}
