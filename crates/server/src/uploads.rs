//! Uploads in parts that are in progress.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    database::Identity,
    error::{ApiError, Result},
    secret,
    store::{Stored, Unnamed, Upload},
};

/// Fields of an upload other than the file.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct UploadFields {
    pub(crate) name: Option<String>,
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// `True` or `False`, as Python writes them.
    pub(crate) public: String,
    pub(crate) meta_data: Option<String>,
}

/// Time without a call after which an upload is dropped.
const LIFE: Duration = Duration::from_secs(3600);

/// Uploads in progress, by id.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, Arc<InProgress>>>);

pub(crate) struct InProgress {
    person: String,
    /// Project that the upload belongs to.
    project: String,
    touched: Mutex<Instant>,
    pub(crate) state: tokio::sync::Mutex<Stage>,
}

pub(crate) enum Stage {
    Open {
        upload: Box<Upload>,
        fields: UploadFields,
    },
    /// Completely stored, but without a name: a repeated `finish` continues from
    /// here.
    Stored {
        stored: Stored,
        unnamed: Unnamed,
        fields: UploadFields,
    },
    /// Answer to `finish`, for repeated calls.
    Done(Result<Value>),
}

impl InProgress {
    /// Whether the upload belongs to this user and this project.
    fn is_of(&self, user: &Identity) -> bool {
        self.person == user.person && self.project == user.namespace
    }

    /// Whether the upload accepts parts. A finished one only keeps its answer.
    fn is_open(&self) -> bool {
        let state = self.state.try_lock();
        // A locked state belongs to an upload in use.
        state.map_or(true, |state| !matches!(*state, Stage::Done(_)))
    }

    /// Appends a part, unless it was received before. Returns the number of bytes
    /// received.
    pub(crate) async fn take(&self, offset: u64, bytes: Bytes) -> Result<u64> {
        let mut state = self.state.lock().await;
        let Stage::Open { upload, .. } = &mut *state else {
            return Err(ApiError::conflict("this upload is finished"));
        };
        let end = offset.saturating_add(bytes.len() as u64);
        let has = upload.size();
        if end > has {
            if offset != has {
                return Err(ApiError::conflict(format!(
                    "`offset` is {offset}: {has} bytes were received, so the next part must start \
                     there"
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
    /// Returns the number of a user's uploads in progress.
    pub(crate) fn open(&self, person: &str) -> usize {
        count_open(&self.all(), person)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<InProgress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, user: &Identity, state: Stage, most: usize) -> Result<String> {
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

    /// Drops uploads without a recent call.
    pub(crate) fn forget(&self) {
        let mut all = self.all();
        all.retain(|_, upload| {
            let touched = upload.touched.lock();
            touched.unwrap_or_else(PoisonError::into_inner).elapsed() < LIFE
        });
    }

    /// Drops an upload that has not been finished.
    pub(crate) fn abort(&self, user: &Identity, id: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all
            .get(id)
            .is_some_and(|upload| upload.is_of(user) && upload.is_open())
        {
            all.remove(id);
        }
    }

    pub(crate) fn find(&self, user: &Identity, id: &str) -> Result<Arc<InProgress>> {
        let all = self.all();
        let found = all.get(id).filter(|upload| upload.is_of(user));
        let found = found.ok_or_else(|| {
            ApiError::not_found(format!(
                "there is no upload `{id}`, or it has expired: start a new one"
            ))
        })?;
        *found.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(Arc::clone(found))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
