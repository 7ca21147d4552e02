//! `/v2/rpc/artifact.*`: data that is pushed and pulled, models that are saved.

use std::sync::Arc;

use axum::{
    Form, Json,
    extract::{Multipart, Path, Query, State},
    http::{HeaderMap, header},
    response::IntoResponse,
};
use finetuner_protocol::check_name;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{auth::User, identity::success};
use crate::{
    app::App,
    database::NewArtifact,
    error::{ApiError, Result},
    secret,
    store::Stored,
};

/// The most bytes of a form field that is not the file.
const MAX_FIELD_BYTES: usize = 1 << 20;

/// The fields of an upload beside its file.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    public: bool,
    meta_data: Option<String>,
}

pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    User(user): User,
    mut form: Multipart,
) -> Result<Json<Value>> {
    let mut fields = Fields::default();
    let mut stored = None;
    // Clients send the file first, so it is taken in before its name is known.
    while let Some(mut field) = form.next_field().await.map_err(|e| broken(&e))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            let mut upload = app.store.upload();
            while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
                upload.write(bytes).await?;
            }
            stored = Some(upload.finish().await?);
            continue;
        }
        let mut text = Vec::new();
        while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
            text.extend_from_slice(&bytes);
            if text.len() > MAX_FIELD_BYTES {
                let limit = format!("`{name}`: {} KiB are allowed", MAX_FIELD_BYTES >> 10);
                return Err(ApiError::too_large(limit));
            }
        }
        let text = String::from_utf8(text)
            .map_err(|_| ApiError::bad_request(format!("`{name}` is no UTF-8")))?;
        match name.as_str() {
            "name" => fields.name = Some(text),
            "id" => fields.id = Some(text),
            "type" => fields.kind = Some(text),
            "public" => fields.public = text.eq_ignore_ascii_case("true"),
            "metaData" => fields.meta_data = Some(text),
            _ => {}
        }
    }
    let stored = stored.ok_or_else(|| ApiError::bad_request("the form has no `file`"))?;
    let name = fields.name.clone();
    let id = match enter(&app, user.id, fields, &stored).await {
        Ok(id) => id,
        Err(error) => {
            // Nothing refers to what was just taken in, unless it was there before.
            if !app.database.has_content(stored.content.clone()).await? {
                app.store.remove(&stored.content).await;
            }
            return Err(error);
        }
    };
    Ok(success(json!({"_id": id, "name": name})))
}

/// Gives stored bytes their name and owner.
async fn enter(app: &App, user_id: String, fields: Fields, stored: &Stored) -> Result<String> {
    let name = fields.name.filter(|name| !name.is_empty());
    if let Some(name) = &name {
        check_name("name", name).map_err(|e| ApiError::bad_request(e.to_string()))?;
    }
    let id = match fields.id {
        None => secret::new_id(),
        Some(id) => {
            let own = app.database.artifact(user_id.clone(), id.clone()).await?;
            own.ok_or_else(|| ApiError::not_found(format!("there is no artifact `{id}`")))?
                .id
        }
    };
    app.put_artifact(NewArtifact {
        id,
        user_id,
        name,
        kind: fields.kind.unwrap_or_default(),
        public: fields.public,
        meta_data: fields.meta_data.unwrap_or_default(),
        content: stored.content.clone(),
        size: stored.size,
    })
    .await
}

fn broken(error: &axum::extract::multipart::MultipartError) -> ApiError {
    ApiError::bad_request(format!("the form is broken off: {error}"))
}

/// An artifact by its id or its name.
#[derive(Deserialize)]
pub(crate) struct Which {
    id: Option<String>,
    name: Option<String>,
}

pub(crate) async fn url_by_query(
    app: State<Arc<App>>,
    user: User,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Result<Json<Value>> {
    download_url(app, user, &headers, which).await
}

pub(crate) async fn url_by_form(
    app: State<Arc<App>>,
    user: User,
    headers: HeaderMap,
    Form(which): Form<Which>,
) -> Result<Json<Value>> {
    download_url(app, user, &headers, which).await
}

async fn download_url(
    State(app): State<Arc<App>>,
    User(user): User,
    headers: &HeaderMap,
    which: Which,
) -> Result<Json<Value>> {
    let (found, asked) = match (which.id, which.name) {
        (Some(id), _) => (app.database.artifact(user.id, id.clone()).await?, id),
        (None, Some(name)) => {
            let found = app.database.artifact_by_name(user.id, name.clone()).await?;
            (found, name)
        }
        (None, None) => return Err(ApiError::bad_request("`id` or `name` is needed")),
    };
    let artifact =
        found.ok_or_else(|| ApiError::not_found(format!("there is no artifact `{asked}`")))?;
    // The address by which the client reached us is one that it can reach.
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| ApiError::bad_request("the header `Host` is needed"))?;
    let forwarded = headers.get("x-forwarded-proto");
    let scheme = match forwarded.and_then(|scheme| scheme.to_str().ok()) {
        Some("https") => "https",
        _ => "http",
    };
    let key = app.tickets.issue(artifact.content, artifact.size);
    let url = format!("{scheme}://{host}/v2/download/{key}");
    Ok(success(json!({"download": url})))
}

/// The bytes of an artifact. The key in the address is all that is needed.
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
) -> Result<impl IntoResponse> {
    let ticket = app.tickets.redeem(&key).ok_or_else(|| {
        ApiError::not_found("this download has expired: ask for its address again")
    })?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, ticket.size.to_string()),
        (header::ETAG, format!("\"{}\"", ticket.content)),
    ];
    Ok((headers, app.store.body(&ticket.content).await?))
}
