//! `/v2/rpc/artifact.*`: upload, download, list and deletion of artifacts, which
//! are data sets and models.

use std::sync::Arc;

use axum::{
    Form, Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use finetuner_protocol::check_name;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    auth::{User, Writer},
    declared::Declared,
    fields::Fields,
    identity::success,
    pages::PageQuery,
};
use crate::{
    app::App,
    database::{ArtifactList, ArtifactRow, Identity, NewArtifact, Which},
    error::{ApiError, Result},
    multipart,
    origin::public_address,
    secret,
    store::Stored,
    tasks::to_the_end,
    ticket::Download,
    uploads::UploadFields,
};

/// Maximum size of a form field other than the file, in bytes.
const MAX_FIELD_BYTES: usize = 64 << 10;
/// Maximum length of an artifact's type, in bytes.
const MAX_KIND_BYTES: usize = 255;
/// Characters of a file name that are percent-encoded in a header.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

impl UploadFields {
    /// Checks all fields before the file is received, so that a wrong field costs
    /// no upload.
    pub(super) async fn check(&self, app: &App, user: &Identity) -> Result<()> {
        if let Some(name) = self.name.as_deref().filter(|name| !name.is_empty()) {
            check_name("name", name).map_err(|e| ApiError::bad_request(e.to_string()))?;
        }
        let public = self.public.as_str();
        if !["", "true", "false"]
            .iter()
            .any(|known| public.eq_ignore_ascii_case(known))
        {
            return Err(ApiError::bad_request(format!(
                "`public` is `{public}`: give `true` or `false`"
            )));
        }
        if let Some(kind) = self
            .kind
            .as_deref()
            .filter(|kind| kind.len() > MAX_KIND_BYTES)
        {
            return Err(ApiError::bad_request(format!(
                "`type` has {} bytes: at most {MAX_KIND_BYTES} are allowed",
                kind.len()
            )));
        }
        check_meta_data(self.meta_data.as_deref())?;
        if let Some(id) = &self.id {
            let own = app
                .database
                .artifact(user.namespace.clone(), id.clone())
                .await?;
            own.ok_or_else(|| missing(&Which::Id(id.clone())))?;
        }
        Ok(())
    }
}

/// Checks that metadata is JSON, and limits its size, because lists contain it.
pub(super) fn check_meta_data(text: Option<&str>) -> Result<()> {
    let text = text.unwrap_or_default();
    if text.len() > MAX_FIELD_BYTES {
        return Err(ApiError::too_large(format!(
            "`metaData` has {} bytes: at most {MAX_FIELD_BYTES} are allowed",
            text.len()
        )));
    }
    let read = serde_json::from_str::<serde::de::IgnoredAny>(text);
    match read {
        Err(error) if !text.is_empty() => Err(ApiError::bad_request(format!(
            "`metaData` is not valid JSON: {error}"
        ))),
        _ => Ok(()),
    }
}

pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    mut form: multipart::Form,
) -> Result<Json<Value>> {
    let mut fields = UploadFields::default();
    let mut declared = Declared::default();
    let mut file = None;
    // Clients send the file first, so it is taken in before its name is known.
    while let Some(mut field) = form.next_field().await? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            if file.is_some() {
                return Err(ApiError::bad_request("the form has more than one `file`"));
            }
            let mut upload = app.upload(&user, None).await?;
            while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
                upload.write(bytes).await?;
            }
            file = Some(upload);
            continue;
        }
        let mut text = Vec::new();
        while let Some(bytes) = field.chunk().await.map_err(|e| broken(&e))? {
            text.extend_from_slice(&bytes);
            if text.len() > MAX_FIELD_BYTES {
                let limit = format!(
                    "`{name}`: at most {} KiB are allowed",
                    MAX_FIELD_BYTES >> 10
                );
                return Err(ApiError::too_large(limit));
            }
        }
        let text = String::from_utf8(text)
            .map_err(|_| ApiError::bad_request(format!("`{name}` is not valid UTF-8")))?;
        match name.as_str() {
            "name" => fields.name = Some(text),
            "id" => fields.id = Some(text),
            "type" => fields.kind = Some(text),
            "public" => fields.public = text,
            "metaData" => fields.meta_data = Some(text),
            other => drop(declared.read_field(other, &text)?),
        }
    }
    let file = file.ok_or_else(|| ApiError::bad_request("the form has no `file`"))?;
    let name = fields.name.clone();
    let id = to_the_end(async move {
        app.keep(file, async |stored| {
            declared.check(&app, stored).await?;
            enter(&app, user, fields, stored).await
        })
        .await
    });
    let id = id.await?;
    Ok(success(json!({"_id": id, "name": name})))
}

/// Stores an uploaded content as an artifact of the user's project.
pub(super) async fn enter(
    app: &App,
    user: Identity,
    fields: UploadFields,
    stored: &Stored,
) -> Result<(String, Vec<String>)> {
    fields.check(app, &user).await?;
    let name = fields.name.filter(|name| !name.is_empty());
    let id = fields.id.unwrap_or_else(secret::new_id);
    let new = NewArtifact {
        id: id.clone(),
        project_id: user.namespace.clone(),
        created_by: Some(user.person.clone()),
        name,
        kind: fields.kind.unwrap_or_default(),
        public: fields.public.eq_ignore_ascii_case("true"),
        meta_data: fields.meta_data.unwrap_or_default(),
        content: stored.content.clone(),
        size: stored.size,
    };
    app.put_artifact(user, new)
        .await
        .map_err(|error| match error.status() {
            // The artifact belongs to another project, although this one may read
            // it.
            StatusCode::NOT_FOUND => ApiError::not_found(format!("there is no artifact `{id}`")),
            _ => error,
        })
}

fn broken(error: &axum::extract::multipart::MultipartError) -> ApiError {
    ApiError::bad_request(format!("the form is incomplete or malformed: {error}"))
}

/// Selects an artifact by its id or its name.
#[derive(Deserialize)]
pub(crate) struct Asked {
    id: Option<String>,
    name: Option<String>,
}

impl Asked {
    fn which(self) -> Result<Which> {
        match (self.id, self.name) {
            (Some(id), _) => Ok(Which::Id(id)),
            (None, Some(name)) => Ok(Which::Name(name)),
            (None, None) => Err(ApiError::bad_request("give `id` or `name`")),
        }
    }

    async fn find(self, app: &App, project: String) -> Result<ArtifactRow> {
        let which = self.which()?;
        let found = app.database.find_artifact(project, which.clone()).await?;
        found.ok_or_else(|| missing(&which))
    }
}

pub(super) fn missing(which: &Which) -> ApiError {
    let (Which::Id(asked) | Which::Name(asked)) = which;
    ApiError::not_found(format!("there is no artifact `{asked}`"))
}

pub(crate) async fn url_by_query(
    app: State<Arc<App>>,
    user: User,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>> {
    download_url(app, user, &headers, asked).await
}

pub(crate) async fn url_by_form(
    app: State<Arc<App>>,
    user: User,
    headers: HeaderMap,
    Form(asked): Form<Asked>,
) -> Result<Json<Value>> {
    download_url(app, user, &headers, asked).await
}

async fn download_url(
    State(app): State<Arc<App>>,
    User(user): User,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Json<Value>> {
    let artifact = asked.find(&app, user.namespace.clone()).await?;
    let download = Download::of(&artifact).for_member(&artifact, &user);
    let key = app.signer.download(download);
    let base = public_address(headers, app.settings.public_url.as_deref())?;
    let url = format!("{base}/v2/download/{key}");
    Ok(success(json!({"download": url})))
}

/// Streams the bytes of an artifact. The key in the address authorises the
/// request, as long as the user that it was created for is a member of the
/// artifact's project. `Range: bytes=N-` resumes an interrupted download.
/// `If-None-Match` with the content's tag is answered 304 without the bytes.
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let ticket = app.signer.redeem(&key).ok_or_else(|| {
        ApiError::not_found("this download address has expired: request a new one")
    })?;
    if let Some((project, person)) = ticket.member
        && !app.database.is_member(project, person).await?
    {
        let reason = "this download is for members of its project: the user that it was created \
                      for is not one any more";
        return Err(ApiError::not_found(reason));
    }
    let tag = format!("\"{}\"", ticket.content);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let same = text(header::IF_RANGE).is_none_or(|known| known == tag);
    let start = text(header::RANGE).filter(|_| same).and_then(range_start);
    let common = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, as_file(&ticket.name)),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, tag),
    ];
    let size = ticket.size;
    let Some(start) = start else {
        let length = [(header::CONTENT_LENGTH, size.to_string())];
        let (_, body) = app.store.body(&ticket.content).await.map_err(gone)?;
        return Ok((common, length, body).into_response());
    };
    if start >= size {
        let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
        return Ok((StatusCode::RANGE_NOT_SATISFIABLE, common, range).into_response());
    }
    let range = [
        (header::CONTENT_LENGTH, (size - start).to_string()),
        (
            header::CONTENT_RANGE,
            format!("bytes {start}-{}/{size}", size - 1),
        ),
    ];
    let body = app.store.body_from(&ticket.content, start).await;
    let (_, body) = body.map_err(gone)?;
    Ok((StatusCode::PARTIAL_CONTENT, common, range, body).into_response())
}

/// Converts the error of a missing content: the artifact was deleted.
fn gone(error: ApiError) -> ApiError {
    match error.status() {
        StatusCode::NOT_FOUND => ApiError::not_found("this artifact was deleted"),
        _ => error,
    }
}

/// Returns a `Content-Disposition` that makes a browser save the bytes under this
/// name.
fn as_file(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " .-_()+,=@".contains(c);
    let ascii = name.replace(|c| !plain(c), "_");
    let whole = utf8_percent_encode(name, ESCAPED);
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{whole}")
}

/// Parses a range without an end, `bytes=N-`, into its start. Other ranges are
/// not supported.
fn range_start(range: &str) -> Option<u64> {
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

/// Returns an artifact as JSON.
fn about(artifact: &ArtifactRow) -> Value {
    json!({
        "_id": artifact.id,
        "name": artifact.name,
        "type": artifact.kind,
        "metaData": serde_json::from_str::<Value>(&artifact.meta_data).unwrap_or_default(),
        "visibility": if artifact.public { "public" } else { "private" },
        "size": artifact.size,
        "sha256": artifact.content,
        "createdAt": artifact.created_at,
        "updatedAt": artifact.updated_at,
        "tags": artifact.annotations.tags,
        "note": artifact.annotations.note,
    })
}

pub(crate) async fn detail(
    State(app): State<Arc<App>>,
    User(user): User,
    Form(asked): Form<Asked>,
) -> Result<Json<Value>> {
    Ok(success(about(&asked.find(&app, user.namespace).await?)))
}

/// Maximum number of artifacts in a list without paging.
const WHOLE_LIST: u64 = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListQuery {
    #[serde(default)]
    filter: Value,
    /// Maps a field to 1 (ascending) or -1 (descending).
    #[serde(default)]
    sort: Value,
    #[serde(default)]
    page_index: Option<u64>,
    #[serde(default)]
    page_size: Option<u64>,
}

impl ListQuery {
    /// Returns offset and limit. The Python client's `cloud_list` does not page:
    /// it shows one answer as the whole list.
    fn page(&self) -> (u64, u64) {
        match (self.page_index, self.page_size) {
            (None, None) => (0, WHOLE_LIST),
            (index, size) => PageQuery::of(index, size),
        }
    }

    /// Whether to sort in descending order. A list without paging begins with the
    /// newest, even if `cloud_list` requests the oldest. It has no option for the
    /// order, and users look for what they have just pushed.
    fn newest_first(&self, field: &str, order: i64) -> bool {
        let is_whole = self.page_index.is_none() && self.page_size.is_none();
        order == -1 || is_whole && field == "createdAt"
    }
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    User(user): User,
    Fields(query): Fields<ListQuery>,
) -> Result<Json<Value>> {
    let text = |field: &str| query.filter[field].as_str().map(str::to_owned);
    let sort = query.sort.as_object().and_then(|sort| sort.iter().next());
    let (field, order) = sort.map_or(("createdAt", 1), |(field, order)| {
        (field.as_str(), order.as_i64().unwrap_or(1))
    });
    let list = ArtifactList {
        kind: text("type"),
        name: text("name"),
        tag: None,
        newest_first: query.newest_first(field, order),
        by_name: field == "name",
        page: query.page(),
    };
    let (rows, total) = app.database.artifacts(user.namespace, list).await?;
    let Json(mut answer) = success(rows.iter().map(about).collect());
    answer["meta"] = json!({"total": total});
    Ok(Json(answer))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Form(asked): Form<Asked>,
) -> Result<Json<Value>> {
    let which = asked.which()?;
    if !app.delete_artifact(user, which.clone()).await? {
        return Err(missing(&which));
    }
    Ok(success(json!({})))
}

/// Deletes the given artifacts that exist. `ids` and `names` may be repeated.
pub(crate) async fn delete_many(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Form(fields): Form<Vec<(String, String)>>,
) -> Result<Json<Value>> {
    if !fields
        .iter()
        .any(|(field, _)| field == "ids" || field == "names")
    {
        return Err(ApiError::bad_request("give `ids` or `names`"));
    }
    let mut deleted = 0;
    for (field, value) in fields {
        let which = match field.as_str() {
            "ids" => Which::Id(value),
            "names" => Which::Name(value),
            _ => continue,
        };
        deleted += u64::from(app.delete_artifact(user.clone(), which).await?);
    }
    Ok(success(json!({"deleted": deleted})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn download_names_suit_old_and_new_browsers() {
        assert_eq!(
            as_file("shoes é\"\r\n.zip"),
            "attachment; filename=\"shoes ____.zip\"; \
             filename*=UTF-8''shoes%20%C3%A9%22%0D%0A.zip"
        );
    }
}
