//! Display of documents, and access to the images in them.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use finetuner_protocol::{Content, Document};
use maud::{Markup, html};

use super::{
    failure::Page,
    words::{bytes, cut, name as shown_name, path},
};
use crate::{app::App, database::ArtifactRow, documents, error::ApiError};

/// Number of documents on a page.
pub(super) const DOCUMENTS: u64 = 24;

/// Maximum number of characters shown of a text.
const MAX_CHARS: usize = 400;

/// Limits on what is shown of a document: chunks of one document (and tags), and
/// depth.
const MAX_CHUNKS: usize = 8;

const MAX_DEPTH: usize = 3;

/// Returns the URL of a document in a dataset. `place` counts from 0.
pub(super) fn document_address(id: &str, place: u64) -> String {
    let page = place / DOCUMENTS + 1;
    format!("{}?page={page}#d{place}", path(&["data", id]))
}

/// Returns the URL of the first image in a document.
pub(super) fn image_address(id: &str, place: u64) -> String {
    format!("{}/picture?document={place}", path(&["data", id]))
}

/// Renders a document with its chunks. `place` is the position of this chunk in
/// the outermost document.
pub(super) fn shown_document(
    document: &Document,
    here: &str,
    number: u64,
    place: &mut Vec<usize>,
) -> Markup {
    let parts = html! {
        @if !document.chunks.is_empty() && place.len() < MAX_DEPTH {
            ul .parts {
                @for (i, chunk) in document.chunks.iter().take(MAX_CHUNKS).enumerate() {
                    @let shown = { place.push(i); let shown = shown_document(chunk, here, number, place); place.pop(); shown };
                    li { (shown) }
                }
                @if document.chunks.len() > MAX_CHUNKS { li { "and " (document.chunks.len() - MAX_CHUNKS) " more" } }
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
            Some(Content::Text(text)) => { span .text { (shown_name(&cut(text, MAX_CHARS))) } }
            Some(Content::Blob(blob)) if image_kind(blob).is_some() => {
                img loading="lazy" alt={ "image of document " (number + 1) }
                    src={ (here) "/picture?document=" (number) "&part=" (part) };
            }
            Some(Content::Blob(blob)) => { (bytes(blob.len() as u64)) " of data" }
            Some(Content::Tensor(_)) => { "a tensor" }
            None => {}
        }
        @if document.content.is_none() && !document.uri.is_empty() { code { (shown_name(&cut(&document.uri, MAX_CHARS))) } }
        @for (name, value) in document.tags.iter().take(MAX_CHUNKS) {
            " " span .tag { (shown_name(name)) ": " (shown_name(&cut(&value.to_string(), MAX_CHARS))) }
        }
        (parts)
    }
}

/// Returns the media type of an image by its first bytes; `None` if it is unsafe
/// or unknown. SVG is unsafe because it can contain scripts.
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

/// Sends an image of a document. Requests of one `reader` take turns with those
/// of other readers of data.
pub(super) async fn image_of(
    app: &App,
    reader: &str,
    artifact: &ArtifactRow,
    document: u64,
    part: &str,
) -> Page<Response> {
    let none = || ApiError::not_found("there is no such image");
    let (documents, _) = documents::read(app, reader, &artifact.content, document, 1).await?;
    let mut found = documents.first().ok_or_else(none)?;
    for step in part.split('.').filter(|step| !step.is_empty()) {
        let step = step.parse::<usize>().ok();
        found = step.and_then(|i| found.chunks.get(i)).ok_or_else(none)?;
    }
    let blob = match part {
        "" => first_image(found),
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

fn first_image(document: &Document) -> Option<&[u8]> {
    let own = document.as_blob().filter(|blob| image_kind(blob).is_some());
    own.or_else(|| document.chunks.iter().find_map(first_image))
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
            .with_chunk(Document::uri("javascript:\"<u>"))
            .with_chunk(Document::text("ä".repeat(1000)));
        let html = shown_document(&document, "/console/data/1", 0, &mut Vec::new()).0;
        for part in ["<script", "<b>", "<i>", "<u>"] {
            assert!(!html.contains(part), "{part} in {html}");
        }
        assert!(html.contains(&format!("{}…", "ä".repeat(MAX_CHARS))));
    }
}
