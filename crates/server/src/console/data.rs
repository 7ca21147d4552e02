//! The page of a data set or a model, and a look into documents.

mod list;
mod upload;

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    annotations,
    artifacts::{audience, file_of, kind_name, shown_title, title_of},
    document::{DOCUMENTS, image_of, shown_document},
    failure::Page,
    frame::{page as framed, pager, pages},
    session::Session,
    start,
    words::{bytes, count, name as shown_name, path, time},
};
use crate::{
    app::App,
    database::{ArtifactRow, UseRow},
    documents,
    error::ApiError,
    ticket::Download,
};

pub(crate) use list::list;
pub(crate) use upload::{form as upload_form, upload};

/// Runs that are listed beside what they used.
const MAX_USES: u64 = 20;

async fn find(app: &App, session: &Session, id: String) -> Result<ArtifactRow, ApiError> {
    let found = app
        .database
        .artifact(session.user.namespace.clone(), id.clone())
        .await?;
    found.ok_or_else(|| ApiError::not_found(format!("there is no dataset or model `{id}`")))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct PageQuery {
    page: Option<u64>,
}

/// Renders the page of an artifact with its documents.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    Query(PageQuery { page }): Query<PageQuery>,
) -> Page<Response> {
    let artifact = find(&app, &session, id).await?;
    let number = page.unwrap_or(1).max(1);
    let first = (number - 1).saturating_mul(DOCUMENTS);
    let here = path(&["data", &artifact.id]);
    let person = &session.user.person;
    let documents = match artifact.kind.as_str() {
        "documentArray" => {
            Some(documents::read(&app, person, &artifact.content, first, DOCUMENTS).await)
        }
        _ => None,
    };
    if let Some(Ok((_, total))) = &documents
        && number > pages(*total, DOCUMENTS)
    {
        let last = pages(*total, DOCUMENTS);
        return Ok(Redirect::to(&format!("{here}?page={last}")).into_response());
    }
    let makers = app
        .database
        .makers(session.user.namespace.clone(), vec![artifact.id.clone()]);
    let makers = makers.await?;
    let maker = makers.get(&artifact.id);
    // Runs, tags and notes of a public artifact belong to its own project and are
    // not shown in others.
    let is_own = artifact.project == session.user.namespace;
    let uses = uses_of(&app, &session, &artifact, is_own).await?;
    let content = html! {
        nav .crumbs aria-label="Path" { a href="/console/data" { "Data and models" } }
        div .head {
            h1 { (shown_title(&artifact, maker)) }
            div .actions role="group" aria-label="Actions" {
                a .button href={ (here) "/download" } download { "Download" }
                @if let (Some(data), true) = (&artifact.name, is_own && session.writes() && artifact.kind == "documentArray") {
                    a .button .quiet href=(start::address(data)) { "Start a run" }
                }
            }
        }
        dl .facts {
            @if let Some((experiment, run)) = maker {
                dt { "Created by run" }
                dd { a href=(path(&["experiments", experiment, "runs", run])) { (shown_name(run)) } }
            }
            @if let Some(file) = file_of(&artifact) { dt { "Read from" } dd { (shown_name(&file)) } }
            dt { "Kind" } dd { (kind_name(&artifact.kind)) }
            dt { "Size" } dd { (bytes(artifact.size)) }
            dt { "Updated" } dd { (time(&artifact.updated_at)) }
            dt { "Visible to" } dd { (audience(&session, &artifact)) }
            dt { "ID" } dd { code .long { (artifact.id) } }
            dt { "SHA-256" } dd { code .long { (artifact.content) } }
        }
        (annotations::shown("/console/data", &artifact.annotations))
        @if is_own {
            (annotations::editor(&session, &here, artifact.created_by.as_deref(), &artifact.annotations))
        }
        (used_by(&uses))
        @match &documents {
            None => {}
            Some(Err(reason)) => { p .problem { "The documents can't be shown: " (reason.message()) } }
            Some(Ok((documents, total))) => {
                h2 { (count(*total, "document")) }
                ol .documents start=(first + 1) {
                    @for (i, document) in documents.iter().enumerate() {
                        @let place = first + i as u64;
                        li id={ "d" (place) } { (shown_document(document, &here, place, &mut Vec::new())) }
                    }
                }
                @if (documents.len() as u64) < DOCUMENTS.min(total.saturating_sub(first)) {
                    p .hint { "The next documents are too large to be shown here. Download the data to see them." }
                }
                (pager(*total, number, DOCUMENTS, |page| format!("{here}?page={page}")))
            }
        }
    };
    let title = title_of(&artifact, maker);
    Ok(framed(&session, "Data and models", &title, &content).into_response())
}

/// Returns the latest runs that used an artifact.
async fn uses_of(
    app: &App,
    session: &Session,
    artifact: &ArtifactRow,
    is_own: bool,
) -> Result<Vec<UseRow>, ApiError> {
    let project = session.user.namespace.clone();
    let name = artifact.name.clone().filter(|_| is_own);
    // This query scans the project's runs.
    let _turn = app.gates.previews.enter(&session.user.person).await?;
    let uses = match artifact.kind.as_str() {
        "documentArray" => {
            let content = artifact.content.clone();
            app.database
                .runs_over(project, name, content, MAX_USES + 1)
                .await
        }
        _ => {
            let id = artifact.id.clone();
            app.database
                .runs_from(project, id, name, MAX_USES + 1)
                .await
        }
    };
    Ok(uses?)
}

/// Renders links to the runs that used an artifact.
fn used_by(uses: &[UseRow]) -> Markup {
    html! {
        @if !uses.is_empty() {
            section aria-labelledby="uses" {
                h2 #uses { "Used by" }
                ul .uses {
                    @for used in uses.iter().take(MAX_USES as usize) { li {
                        a href=(path(&["experiments", &used.experiment, "runs", &used.run])) {
                            (shown_name(&used.experiment)) " / " (shown_name(&used.run))
                        }
                        ", " (time(&used.created_at))
                        @if !used.is_current { " " span .hint { "an earlier version of this data" } }
                    } }
                }
                @if uses.len() as u64 > MAX_USES { p .hint { "And earlier runs." } }
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageQuery {
    document: u64,
    /// Indices of the chunk and its subchunks, joined by dots. If empty, the
    /// first image is sent.
    part: String,
}

/// Sends an image of a document.
pub(crate) async fn image(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    Query(ImageQuery { document, part }): Query<ImageQuery>,
) -> Page<Response> {
    let artifact = find(&app, &session, id).await?;
    image_of(&app, &session.user.person, &artifact, document, &part).await
}

/// Redirects to a signed URL of the content.
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
) -> Page<Redirect> {
    let artifact = find(&app, &session, id).await?;
    let download = Download::of(&artifact).for_member(&artifact, &session.user);
    let key = app.signer.download(download);
    Ok(Redirect::to(&format!("/v2/download/{key}")))
}
