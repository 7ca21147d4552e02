//! `/v2/rpc/artifact.*Upload*`: uploads of an artifact in parts. A part that was
//! not received completely is sent again. Received parts survive a broken
//! connection.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Query, Request, State},
    http::{StatusCode, header},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{artifacts::enter, auth::Writer, declared::Declared, identity::success};
use crate::{
    app::App,
    database::Identity,
    error::{ApiError, Result},
    json::JsonObject,
    tasks::to_the_end,
    uploads::{InProgress, Stage, UploadFields},
};

/// Size of every part but the last, in bytes.
const PART_BYTES: usize = 8 << 20;
/// Maximum size of a part, in bytes.
pub(super) const MAX_PART_BYTES: usize = 2 * PART_BYTES;
/// Time limit for a part.
const PART_TIME: Duration = Duration::from_secs(600);

pub(crate) async fn begin(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    JsonObject(fields): JsonObject<UploadFields>,
) -> Result<Json<Value>> {
    fields.check(&app, &user).await?;
    let replaces = fields.name.as_deref().unwrap_or_default();
    let state = Stage::Open {
        upload: Box::new(app.upload(&user, Some(replaces)).await?),
        fields,
    };
    let id = app.uploads.begin(&user, state, app.settings.max_uploads)?;
    Ok(success(json!({"uploadId": id, "partSize": PART_BYTES})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    upload_id: String,
    offset: u64,
}

/// Receives a part. A part that was received before is accepted without an
/// effect.
pub(crate) async fn part(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Query(part): Query<Part>,
    request: Request,
) -> Result<Json<Value>> {
    let found = app.uploads.find(&user, &part.upload_id)?;
    // Parts are in memory until they are complete, so few are read at the same
    // time.
    let turn = app.gates.parts.enter(&user.person).await?;
    let bytes = read_part(request).await?;
    // A received part is stored completely, even if the client disconnects.
    let received = to_the_end(async move {
        let received = found.take(part.offset, bytes).await;
        drop(turn);
        received
    });
    let received = received.await?;
    Ok(success(json!({"received": received})))
}

/// Reads a part. Refuses it without reading if its announced size is too large.
async fn read_part(request: Request) -> Result<Bytes> {
    let too_large = || {
        ApiError::too_large(format!(
            "the part has more than {} MiB: send parts of `partSize` bytes",
            MAX_PART_BYTES >> 20
        ))
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_PART_BYTES) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(PART_TIME, Bytes::from_request(request, &()));
    let read = read.await.map_err(|_| {
        let minutes = PART_TIME.as_secs() / 60;
        ApiError::bad_request(format!(
            "the part took more than {minutes} minutes: send it again"
        ))
    })?;
    read.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        _ => ApiError::bad_request(format!(
            "the part is incomplete, send it again: {}",
            error.body_text()
        )),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finish {
    upload_id: String,
    sha256: String,
    /// Older clients do not send it.
    #[serde(default)]
    documents: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Abort {
    upload_id: String,
}

/// Drops an upload that its client has abandoned. Accepts one that does not
/// exist.
pub(crate) async fn abort(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    JsonObject(Abort { upload_id }): JsonObject<Abort>,
) -> Result<Json<Value>> {
    app.uploads.abort(&user, &upload_id);
    Ok(success(json!({})))
}

pub(crate) async fn finish(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    JsonObject(finish): JsonObject<Finish>,
) -> Result<Json<Value>> {
    let found = app.uploads.find(&user, &finish.upload_id)?;
    let declared = Declared {
        sha256: Some(finish.sha256),
        documents: finish.documents,
    };
    // The upload is finished once, even if the client disconnects.
    let finished = async move { finish_one(&app, user, &found, declared).await };
    to_the_end(finished).await.map(Json)
}

/// Finishes an upload. A repeated call gets the first answer. If the first call
/// failed for a temporary reason, such as a busy database, it is repeated.
async fn finish_one(
    app: &App,
    user: Identity,
    found: &InProgress,
    declared: Declared,
) -> Result<Value> {
    let mut state = found.state.lock().await;
    // Only a panic leaves this state behind.
    let broken = Stage::Done(Err(ApiError::conflict(
        "this upload has failed: start a new one",
    )));
    let (stored, unnamed, fields) = match std::mem::replace(&mut *state, broken) {
        Stage::Open { upload, fields } => match app.place(*upload).await {
            Ok((stored, unnamed)) => (stored, unnamed, fields),
            // The upload has no bytes any more.
            Err(error) => {
                *state = Stage::Done(Err(error.clone()));
                return Err(error);
            }
        },
        Stage::Stored {
            stored,
            unnamed,
            fields,
        } => (stored, unnamed, fields),
        Stage::Done(answer) => {
            *state = Stage::Done(answer.clone());
            return answer;
        }
    };
    let entered = async {
        declared.check(app, &stored).await?;
        enter(app, user, fields.clone(), &stored).await
    };
    match entered.await {
        Ok((id, orphans)) => {
            unnamed.named();
            app.remove_orphans(orphans).await;
            let Json(answer) = success(json!({"_id": id, "name": fields.name}));
            *state = Stage::Done(Ok(answer.clone()));
            Ok(answer)
        }
        Err(error) if error.status().is_server_error() => {
            *state = Stage::Stored {
                stored,
                unnamed,
                fields,
            };
            Err(error)
        }
        Err(error) => {
            *state = Stage::Done(Err(error.clone()));
            drop(unnamed);
            app.remove_orphans(vec![stored.content]).await;
            Err(error)
        }
    }
}
