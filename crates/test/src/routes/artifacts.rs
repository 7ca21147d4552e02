//! `/v2/rpc/artifact.*`: information about artifacts, and downloads.

use std::sync::Arc;

use axum::{
    Form, Json,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use finetuner_protocol::AnnotationChange;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{page::part, request::read};
use crate::{
    answer::{Result, success},
    artifact::{Artifact, Asked, DOWNLOADS},
    state::Shared,
};

pub(super) async fn url_by_query(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>> {
    download_url(&shared, &asked)
}

pub(super) async fn url_by_form(
    State(shared): State<Arc<Shared>>,
    Form(asked): Form<Asked>,
) -> Result<Json<Value>> {
    download_url(&shared, &asked)
}

fn download_url(shared: &Shared, asked: &Asked) -> Result<Json<Value>> {
    let id = shared.look(|state| state.artifact(asked).map(|a| a.id.clone()))?;
    // A relative address, because a backend without a socket has no absolute one.
    Ok(success(json!({"download": format!("{DOWNLOADS}{id}")})))
}

/// Returns the bytes of an artifact. `Range: bytes=N-` resumes a download;
/// `If-None-Match` with the current hash gives 304.
pub(super) async fn download(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let asked = Asked {
        id: Some(id),
        name: None,
    };
    let content = |a: &Artifact| (a.bytes.clone(), format!("\"{}\"", a.sha256));
    let (bytes, tag) = shared.look(|state| state.artifact(&asked).map(content))?;
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let is_same = text(header::IF_RANGE).is_none_or(|known| known == tag);
    let start = text(header::RANGE)
        .filter(|_| is_same)
        .and_then(range_start);
    let common = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ETAG, tag),
    ];
    let size = bytes.len();
    match start {
        None => Ok((common, bytes).into_response()),
        Some(start) if start >= size => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, common, range).into_response())
        }
        Some(start) => {
            let range = format!("bytes {start}-{}/{size}", size - 1);
            let range = [(header::CONTENT_RANGE, range)];
            let rest = bytes.slice(start..);
            Ok((StatusCode::PARTIAL_CONTENT, common, range, rest).into_response())
        }
    }
}

/// Returns the start of a range without an end; other ranges are not supported.
fn range_start(range: &str) -> Option<usize> {
    let range = range.strip_prefix("bytes=")?;
    range.strip_suffix('-')?.parse().ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    #[serde(default)]
    filter: Value,
    #[serde(default)]
    page_index: Option<u64>,
    #[serde(default)]
    page_size: Option<u64>,
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Json<Value>> {
    let query: ListQuery = read(&body)?;
    let is_wanted = |artifact: &&Artifact| {
        let wanted = |field: &str, value: Option<&str>| {
            let filter = query.filter[field].as_str();
            filter.is_none_or(|filter| value == Some(filter))
        };
        wanted("type", Some(&artifact.kind)) && wanted("name", artifact.name.as_deref())
    };
    let found: Vec<Value> = shared.look(|state| {
        let found = state.artifacts.iter().filter(is_wanted);
        found.map(Artifact::about).collect()
    });
    let total = found.len();
    let page = query.page_index.unwrap_or(1);
    let found = part(found, page, query.page_size.unwrap_or(1000));
    let Json(mut answer) = success(found.into());
    answer["meta"] = json!({"total": total});
    Ok(Json(answer))
}

pub(super) async fn detail(
    State(shared): State<Arc<Shared>>,
    Form(asked): Form<Asked>,
) -> Result<Json<Value>> {
    let about = shared.look(|state| state.artifact(&asked).map(Artifact::about))?;
    Ok(success(about))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Update {
    id: Option<String>,
    tags: Option<Vec<String>>,
    add_tags: Vec<String>,
    remove_tags: Vec<String>,
    note: Option<String>,
}

/// Changes tags and note.
pub(super) async fn update(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Json<Value>> {
    let update: Update = read(&body)?;
    let mut change = AnnotationChange::default()
        .add_tags(update.add_tags)
        .remove_tags(update.remove_tags);
    change.tags = update.tags;
    change.note = update.note;
    let asked = Asked {
        id: update.id,
        name: None,
    };
    shared.change(|state| state.annotate_artifact(&asked, &change))?;
    Ok(success(json!({"_id": asked.id})))
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Form(asked): Form<Asked>,
) -> Result<Json<Value>> {
    shared.change(|state| state.remove_artifact(&asked))?;
    Ok(success(json!({})))
}
