//! Data sets and models, and a look into documents.

mod upload;

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
};
use finetuner_protocol::{Content, Document};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Page, Session, annotations,
    frame::{page as framed, pager, pages},
    start,
    words::{bytes, count, name as shown_name, path, query, time},
};
use crate::{
    app::App,
    database::{ArtifactList, ArtifactRow, UseRow},
    documents,
    error::ApiError,
    ticket::Download,
};

pub(crate) use upload::{form as upload_form, upload};

/// Artifacts of a page.
const PAGE: u64 = 50;
/// Documents of a page.
const DOCUMENTS: u64 = 24;
/// Runs that are listed beside what they used.
const USES: u64 = 20;
/// Characters of a text that are shown.
const TEXT: usize = 400;
/// Parts of a document that are shown, and how deep.
const PARTS: usize = 8;
const DEPTH: usize = 3;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    q: String,
    kind: String,
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
            ("page", &page),
        ];
        format!("/console/data{}", query(&fields))
    };
    if number > pages(total, PAGE) {
        return Ok(Redirect::to(&link(pages(total, PAGE))).into_response());
    }
    let nameless = artifacts.iter().filter(|artifact| artifact.name.is_none());
    let nameless = nameless.map(|artifact| artifact.id.clone()).collect();
    let makers = app.database.makers(project, nameless).await?;
    let content = html! {
        div .head {
            h1 { "Data and models" }
            @if session.writes() {
                div .actions role="group" aria-label="Actions" { a .button href="/console/data/new" { "Upload data" } }
            }
        }
        form .row method="get" action="/console/data" role="search" {
            label for="q" { "Name" }
            input id="q" name="q" value=(asked.q);
            label for="kind" { "Kind" }
            select id="kind" name="kind" {
                option value="" { "any" }
                @for kind in ["documentArray", "model"] {
                    option value=(kind) selected[asked.kind == kind] { (kind_name(kind)) }
                }
            }
            button type="submit" { "Filter" }
        }
        div .scroll tabindex="0" role="region" aria-label="Table of data and models" { table {
            caption { (count(total, "item")) }
            thead { tr {
                th scope="col" { "Name" } th scope="col" { "Kind" }
                th scope="col" .number { "Documents" } th scope="col" .number { "Size" }
                th scope="col" { "Visible to" } th scope="col" { "Updated" }
            } }
            tbody { @for artifact in &artifacts { tr {
                th scope="row" { a href=(path(&["data", &artifact.id])) {
                    (shown_title(artifact, makers.get(&artifact.id)))
                } }
                td { (kind_name(&artifact.kind)) }
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

/// The name that whoever pushed it has given, else its ID.
pub(super) fn name_of(artifact: &ArtifactRow) -> &str {
    artifact.name.as_deref().unwrap_or(&artifact.id)
}

/// The name of an artifact. One that a run has made without a name is named by
/// the run: its ID tells people nothing.
fn shown_title(artifact: &ArtifactRow, maker: Option<&(String, String)>) -> Markup {
    match (&artifact.name, maker) {
        (Some(name), _) => shown_name(name),
        (None, Some((_, run))) => html! { "Model of run " (shown_name(run)) },
        (None, None) => shown_name(&artifact.id),
    }
}

/// The title of an artifact's page.
pub(super) fn title_of(artifact: &ArtifactRow, maker: Option<&(String, String)>) -> String {
    match (&artifact.name, maker) {
        (Some(name), _) => name.clone(),
        (None, Some((_, run))) => format!("Model of run {run}"),
        (None, None) => artifact.id.clone(),
    }
}

/// Who may read an artifact.
fn audience(session: &Session, artifact: &ArtifactRow) -> &'static str {
    match (artifact.public, session.user.is_personal) {
        (true, _) => "everybody",
        (false, true) => "you",
        (false, false) => "members of the project",
    }
}

/// The kind of an artifact in the words of pages.
fn kind_name(kind: &str) -> &str {
    match kind {
        "documentArray" => "dataset",
        other => other,
    }
}

/// How many documents there are, as whoever pushed them has said.
fn length_of(artifact: &ArtifactRow) -> Option<u64> {
    let meta: Value = serde_json::from_str(&artifact.meta_data).ok()?;
    let summary = meta["summary"].as_array()?;
    summary.iter().find(|item| item["name"] == "Length")?["value"].as_u64()
}

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

/// An artifact, and the documents in it.
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
    // Names and notes of another project's public data mean nothing here.
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
        (annotations::shown(&artifact.annotations))
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

/// The file that was uploaded as this data.
fn file_of(artifact: &ArtifactRow) -> Option<String> {
    let meta: Value = serde_json::from_str(&artifact.meta_data).ok()?;
    meta["file"].as_str().map(str::to_owned)
}

/// The last runs that used an artifact.
async fn uses_of(
    app: &App,
    session: &Session,
    artifact: &ArtifactRow,
    is_own: bool,
) -> Result<Vec<UseRow>, ApiError> {
    let project = session.user.namespace.clone();
    let name = artifact.name.clone().filter(|_| is_own);
    // The project's runs are looked through.
    let _turn = app.gates.previews.enter(&session.user.person).await?;
    let uses = match artifact.kind.as_str() {
        "documentArray" => {
            let content = artifact.content.clone();
            app.database
                .runs_over(project, name, content, USES + 1)
                .await
        }
        _ => {
            let id = artifact.id.clone();
            app.database.runs_from(project, id, name, USES + 1).await
        }
    };
    Ok(uses?)
}

/// Links to runs that used an artifact.
fn used_by(uses: &[UseRow]) -> Markup {
    html! {
        @if !uses.is_empty() {
            section aria-labelledby="uses" {
                h2 #uses { "Used by" }
                ul .uses {
                    @for used in uses.iter().take(USES as usize) { li {
                        a href=(path(&["experiments", &used.experiment, "runs", &used.run])) {
                            (shown_name(&used.experiment)) " / " (shown_name(&used.run))
                        }
                        ", " (time(&used.created_at))
                        @if !used.is_current { " " span .hint { "an earlier version of this data" } }
                    } }
                }
                @if uses.len() as u64 > USES { p .hint { "And earlier runs." } }
            }
        }
    }
}

/// The address of a document of a data set, counted from 0.
pub(super) fn document_address(id: &str, place: u64) -> String {
    let page = place / DOCUMENTS + 1;
    format!("{}?page={page}#d{place}", path(&["data", id]))
}

/// The address of the first picture in a document.
pub(super) fn picture_address(id: &str, place: u64) -> String {
    format!("{}/picture?document={place}", path(&["data", id]))
}

/// A document with its parts; `place` says which part of the document this is.
pub(super) fn shown_document(
    document: &Document,
    here: &str,
    number: u64,
    place: &mut Vec<usize>,
) -> Markup {
    let parts = html! {
        @if !document.chunks.is_empty() && place.len() < DEPTH {
            ul .parts {
                @for (i, chunk) in document.chunks.iter().take(PARTS).enumerate() {
                    @let shown = { place.push(i); let shown = shown_document(chunk, here, number, place); place.pop(); shown };
                    li { (shown) }
                }
                @if document.chunks.len() > PARTS { li { "and " (document.chunks.len() - PARTS) " more" } }
            }
        }
    };
    let part = place
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(".");
    html! {
        @if let Some(modality) = &document.modality { span .modality { (shown_name(modality.as_ref())) } " " }
        @match &document.content {
            Some(Content::Text(text)) => { span .text { (shown_name(&cut(text))) } }
            Some(Content::Blob(blob)) if image_kind(blob).is_some() => {
                img loading="lazy" alt={ "picture of document " (number + 1) }
                    src={ (here) "/picture?document=" (number) "&part=" (part) };
            }
            Some(Content::Blob(blob)) => { (bytes(blob.len() as u64)) " of data" }
            Some(Content::Tensor(_)) => { "a tensor" }
            None => {}
        }
        @if document.content.is_none() && !document.uri.is_empty() { code { (shown_name(&cut(&document.uri))) } }
        @for (name, value) in document.tags.iter().take(PARTS) {
            " " span .tag { (shown_name(name)) ": " (shown_name(&cut(&value.to_string()))) }
        }
        (parts)
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The media type of a picture that a browser may be given, by its first bytes.
fn image_kind(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 4] = [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"BM", "image/bmp"),
    ];
    let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    let plain = kinds.iter().find(|(start, _)| bytes.starts_with(start));
    plain
        .map(|(_, kind)| *kind)
        .or(is_webp.then_some("image/webp"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct PictureQuery {
    document: u64,
    /// Numbers of parts, with dots between them. Without, the first picture.
    part: String,
}

/// A picture of a document.
pub(crate) async fn picture(
    State(app): State<Arc<App>>,
    session: Session,
    Path(id): Path<String>,
    Query(PictureQuery { document, part }): Query<PictureQuery>,
) -> Page<Response> {
    let artifact = find(&app, &session, id).await?;
    picture_of(&app, &session.user.person, &artifact, document, &part).await
}

/// A picture of a document. `reader` has a part of the turns of those who look at
/// data.
pub(super) async fn picture_of(
    app: &App,
    reader: &str,
    artifact: &ArtifactRow,
    document: u64,
    part: &str,
) -> Page<Response> {
    let none = || ApiError::not_found("there is no such picture");
    let (documents, _) = documents::read(app, reader, &artifact.content, document, 1).await?;
    let mut found = documents.first().ok_or_else(none)?;
    for step in part.split('.').filter(|step| !step.is_empty()) {
        let step = step.parse::<usize>().ok();
        found = step.and_then(|i| found.chunks.get(i)).ok_or_else(none)?;
    }
    let blob = match part {
        "" => first_picture(found),
        _ => found.as_blob(),
    };
    let blob = blob.ok_or_else(none)?;
    let kind = image_kind(blob).ok_or_else(none)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; sandbox"),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=300"),
        ),
    ];
    Ok((headers, blob.to_vec()).into_response())
}

fn first_picture(document: &Document) -> Option<&[u8]> {
    let own = document.as_blob().filter(|blob| image_kind(blob).is_some());
    own.or_else(|| document.chunks.iter().find_map(first_picture))
}

/// Leads to the bytes.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_are_sent_to_browsers() {
        assert_eq!(image_kind(b"\x89PNG\r\n\x1a\nxx"), Some("image/png"));
        assert_eq!(image_kind(b"RIFF1234WEBPxx"), Some("image/webp"));
        assert_eq!(image_kind(b"<svg onload=alert(1)>"), None);
        assert_eq!(image_kind(b"<html>"), None);
        assert_eq!(image_kind(b""), None);
    }

    #[test]
    fn document_texts_are_escaped_and_truncated() {
        let evil = "<script>alert(1)</script>";
        let document = Document::new()
            .with_tag("x\"<b>", evil)
            .with_chunk(Document::text(evil).with_modality("<i>"))
            .with_chunk(Document::uri("javascript:\"<u>"));
        let html = shown_document(&document, "/console/data/1", 0, &mut Vec::new()).0;
        for part in ["<script", "<b>", "<i>", "<u>"] {
            assert!(!html.contains(part), "{part} in {html}");
        }
        assert_eq!(cut(&"ä".repeat(1000)).chars().count(), TEXT + 1);
    }
}
