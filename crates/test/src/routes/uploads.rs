//! `/v2/rpc/artifact.*Upload*`: uploads in one form or in parts.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Multipart, Query, State, multipart::MultipartError},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request::read;
use crate::{
    answer::{Refusal, Result, success},
    artifact::{Announced, Upload, UploadFields},
    state::Shared,
};

/// Size of all parts but the last, in bytes.
const PART_BYTES: usize = 8 << 20;

fn broken(error: &MultipartError) -> Refusal {
    Refusal::bad_request(format!("the form ends early: {error}"))
}

pub(super) async fn whole(
    State(shared): State<Arc<Shared>>,
    mut form: Multipart,
) -> Result<Json<Value>> {
    let mut fields = UploadFields::default();
    let mut announced = Announced::default();
    let mut file = None;
    while let Some(field) = form.next_field().await.map_err(|e| broken(&e))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            file = Some(field.bytes().await.map_err(|e| broken(&e))?);
            continue;
        }
        let text = field.text().await.map_err(|e| broken(&e))?;
        match name.as_str() {
            "name" => fields.name = Some(text),
            "type" => fields.kind = Some(text),
            "public" => fields.public = text,
            "metaData" => fields.meta_data = text,
            "sha256" => announced.sha256 = Some(text),
            "documents" => {
                let number = text.parse().map_err(|_| {
                    Refusal::unprocessable(format!("`documents` is `{text}`, not a whole number"))
                })?;
                announced.documents = Some(number);
            }
            _ => {}
        }
    }
    let file = file.ok_or_else(|| Refusal::bad_request("the form has no `file`"))?;
    fields.check()?;
    announced.compare(&file)?;
    let name = fields.name.clone();
    let id = shared.change(|state| state.put_artifact(None, fields, file));
    Ok(success(json!({"_id": id, "name": name})))
}

pub(super) async fn begin(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Json<Value>> {
    let fields: UploadFields = read(&body)?;
    fields.check()?;
    let id = shared.change(|state| {
        let id = state.new_id();
        let upload = Upload {
            fields,
            ..Upload::default()
        };
        state.uploads.insert(id.clone(), upload);
        id
    });
    Ok(success(json!({"uploadId": id, "partSize": PART_BYTES})))
}

fn missing(id: &str) -> Refusal {
    Refusal::not_found(format!("there is no upload `{id}`, or it has expired"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    upload_id: String,
    offset: usize,
}

/// Stores a part. A repeated part is accepted without effect.
pub(super) async fn part(
    State(shared): State<Arc<Shared>>,
    Query(Part { upload_id, offset }): Query<Part>,
    body: Bytes,
) -> Result<Json<Value>> {
    shared.change(|state| -> Result<Json<Value>> {
        let upload = state.uploads.get_mut(&upload_id);
        let upload = upload.ok_or_else(|| missing(&upload_id))?;
        if upload.done.is_some() {
            return Err(Refusal::conflict("this upload is finished"));
        }
        let has = upload.bytes.len();
        if offset.saturating_add(body.len()) > has {
            if offset != has {
                return Err(Refusal::conflict(format!(
                    "`offset` is {offset}: {has} bytes were received, so the next part must start \
                     there"
                )));
            }
            upload.bytes.extend_from_slice(&body);
        }
        Ok(success(json!({"received": upload.bytes.len()})))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Finish {
    upload_id: String,
    sha256: String,
    #[serde(default)]
    documents: Option<u64>,
}

/// Finishes an upload. A repeated call gets the first answer.
pub(super) async fn finish(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Json<Value>> {
    let finish: Finish = read(&body)?;
    let announced = Announced {
        sha256: Some(finish.sha256),
        documents: finish.documents,
    };
    shared.change(|state| -> Result<Json<Value>> {
        let upload = state.uploads.get_mut(&finish.upload_id);
        let upload = upload.ok_or_else(|| missing(&finish.upload_id))?;
        if let Some(done) = &upload.done {
            return Ok(Json(done.clone()));
        }
        let bytes = std::mem::take(&mut upload.bytes).freeze();
        let fields = upload.fields.clone();
        announced.compare(&bytes)?;
        let name = fields.name.clone();
        let id = state.put_artifact(None, fields, bytes);
        let Json(answer) = success(json!({"_id": id, "name": name}));
        if let Some(upload) = state.uploads.get_mut(&finish.upload_id) {
            upload.done = Some(answer.clone());
        }
        Ok(Json(answer))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Abort {
    upload_id: String,
}

/// Drops an upload.
pub(super) async fn abort(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Json<Value>> {
    let Abort { upload_id } = read(&body)?;
    shared.change(|state| state.uploads.remove(&upload_id));
    Ok(success(json!({})))
}
