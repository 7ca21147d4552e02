//! `/v2/rpc/artifact.*Upload*`: an artifact that comes in parts. A part that
//! has not come whole is sent again; what has come is never lost with a
//! connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Query, Request, State},
    http::{StatusCode, header},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    artifacts::{UploadFields, enter},
    auth::Writer,
    identity::success,
    json::JsonObject,
    told::Told,
};
use crate::{
    app::{App, to_the_end},
    database::Identity,
    error::{ApiError, Result},
    secret,
    store::{Stored, Unnamed, Upload},
};

/// The bytes of a part but the last.
const PART_BYTES: usize = 8 << 20;
/// The most bytes of a part.
pub(super) const MAX_PART_BYTES: usize = 2 * PART_BYTES;
/// How long a part may take.
const PART_TIME: Duration = Duration::from_secs(600);
/// How long an upload may stand still.
const LIFE: Duration = Duration::from_secs(3600);

/// Uploads in progress, by id.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, Arc<InProgress>>>);

struct InProgress {
    person: String,
    /// The project that it is for.
    project: String,
    touched: Mutex<Instant>,
    state: tokio::sync::Mutex<Stage>,
}

enum Stage {
    Open {
        upload: Box<Upload>,
        fields: UploadFields,
    },
    /// Stored whole, but without a name: a repeated `finish` goes on from here.
    Stored {
        stored: Stored,
        unnamed: Unnamed,
        fields: UploadFields,
    },
    /// The answer to `finish`, for when it is repeated.
    Done(Result<Value>),
}

impl InProgress {
    /// Whether this user has begun it, for the project of the request.
    fn is_of(&self, user: &Identity) -> bool {
        self.person == user.person && self.project == user.namespace
    }

    /// Whether parts may still come. One that is finished is only remembered.
    fn is_open(&self) -> bool {
        let state = self.state.try_lock();
        // What is being worked on is open.
        state.map_or(true, |state| !matches!(*state, Stage::Done(_)))
    }

    /// Takes in a part, unless it came before. Returns how many bytes have come.
    async fn take(&self, offset: u64, bytes: Bytes) -> Result<u64> {
        let mut state = self.state.lock().await;
        let Stage::Open { upload, .. } = &mut *state else {
            return Err(ApiError::conflict("this upload is finished"));
        };
        let end = offset.saturating_add(bytes.len() as u64);
        let has = upload.size();
        if end > has {
            if offset != has {
                return Err(ApiError::conflict(format!(
                    "`offset` is {offset}: {has} bytes have come, the next part begins there"
                )));
            }
            upload.write(bytes).await?;
        }
        Ok(upload.size())
    }
}

fn count_open(all: &HashMap<String, Arc<InProgress>>, person: &str) -> usize {
    let own = all.values().filter(|upload| upload.person == person);
    own.filter(|upload| upload.is_open()).count()
}

impl Uploads {
    /// A user's uploads that are in progress.
    pub(crate) fn open(&self, person: &str) -> usize {
        count_open(&self.all(), person)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<InProgress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, user: &Identity, state: Stage, most: usize) -> Result<String> {
        self.forget();
        let mut all = self.all();
        let open = count_open(&all, &user.person);
        if open >= most {
            return Err(ApiError::too_many(
                format!(
                    "uploads: you have {open} in progress, and the limit is {most}: finish one, \
                     wait an hour, or ask the operator for a higher `--max-uploads`"
                ),
                LIFE.as_secs(),
            ));
        }
        let id = secret::new_id();
        let upload = InProgress {
            person: user.person.clone(),
            project: user.namespace.clone(),
            touched: Mutex::new(Instant::now()),
            state: tokio::sync::Mutex::new(state),
        };
        all.insert(id.clone(), Arc::new(upload));
        Ok(id)
    }

    /// Forgets those that have stood still for too long.
    pub(crate) fn forget(&self) {
        let mut all = self.all();
        all.retain(|_, upload| {
            let touched = upload.touched.lock();
            touched.unwrap_or_else(PoisonError::into_inner).elapsed() < LIFE
        });
    }

    /// Drops an upload that is not finished.
    fn abort(&self, user: &Identity, id: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all
            .get(id)
            .is_some_and(|upload| upload.is_of(user) && upload.is_open())
        {
            all.remove(id);
        }
    }

    fn find(&self, user: &Identity, id: &str) -> Result<Arc<InProgress>> {
        let all = self.all();
        let found = all.get(id).filter(|upload| upload.is_of(user));
        let found = found.ok_or_else(|| {
            ApiError::not_found(format!("there is no upload `{id}`, or it has run out"))
        })?;
        *found.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(Arc::clone(found))
    }
}

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

/// Takes a part in. One that came before is taken as done.
pub(crate) async fn part(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Query(part): Query<Part>,
    request: Request,
) -> Result<Json<Value>> {
    let found = app.uploads.find(&user, &part.upload_id)?;
    // Parts are in memory until they are whole, so only a few are read at once.
    let turn = app.gates.parts.enter(&user.person).await?;
    let bytes = read_part(request).await?;
    // What has come is stored whole, whoever stops waiting for it.
    let received = to_the_end(async move {
        let received = found.take(part.offset, bytes).await;
        drop(turn);
        received
    });
    let received = received.await?;
    Ok(success(json!({"received": received})))
}

/// Reads a part; one that is announced as too large is not read.
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
            "the part is not whole, send it again: {}",
            error.body_text()
        )),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finish {
    upload_id: String,
    sha256: String,
    /// Older clients don't say it.
    #[serde(default)]
    documents: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Abort {
    upload_id: String,
}

/// Drops an upload that its client has given up. One that is not there is
/// dropped already.
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
    let told = Told {
        sha256: Some(finish.sha256),
        documents: finish.documents,
    };
    // It ends once, whoever stops waiting for it.
    let finished = async move { finish_one(&app, user, &found, told).await };
    to_the_end(finished).await.map(Json)
}

/// Finishes an upload. A repeated call gets the first answer. If the first call
/// failed for a reason that passes, such as a busy database, it is tried again.
async fn finish_one(app: &App, user: Identity, found: &InProgress, told: Told) -> Result<Value> {
    let mut state = found.state.lock().await;
    // Only a panic leaves this behind.
    let broken = Stage::Done(Err(ApiError::conflict(
        "this upload has failed: begin it again",
    )));
    let (stored, unnamed, fields) = match std::mem::replace(&mut *state, broken) {
        Stage::Open { upload, fields } => match app.place(*upload).await {
            Ok((stored, unnamed)) => (stored, unnamed, fields),
            // The bytes are gone.
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
        told.compare(app, &stored).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn only_open_uploads_count_against_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path()).unwrap();
        let uploads = Uploads::default();
        let open = || Stage::Open {
            upload: Box::new(store.upload()),
            fields: UploadFields::default(),
        };
        let db = crate::database::in_memory();
        let (ada, bob) = (db.identity_of("ada").await, db.identity_of("bob").await);
        for _ in 0..8 {
            uploads.begin(&ada, Stage::Done(Ok(json!({}))), 4).unwrap();
        }
        for _ in 0..4 {
            uploads.begin(&ada, open(), 4).unwrap();
        }
        assert_eq!(uploads.open(&ada.person), 4);
        assert!(uploads.begin(&ada, open(), 4).is_err());
        assert!(uploads.begin(&bob, open(), 4).is_ok(), "each user's own");
    }
}
