//! `/v2/rpc/artifact.update`: changes name, metadata, visibility, tags and note
//! of an artifact in one transaction.

use std::sync::Arc;

use axum::{Json, extract::State};
use finetuner_protocol::{AnnotationChange, check_name, split_tags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    artifacts::{check_meta_data, missing},
    auth::Writer,
    fields::Fields,
    identity::success,
};
use crate::{
    app::App,
    database::{Annotated, ArtifactChange, Which, is_duplicate},
    error::{ApiError, Result},
    runs::invalid_annotation,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changes {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    meta_data: Option<Value>,
    #[serde(default)]
    public: Option<bool>,
    #[serde(default)]
    tags: Option<TagList>,
    #[serde(default)]
    add_tags: Option<TagList>,
    #[serde(default)]
    remove_tags: Option<TagList>,
    #[serde(default)]
    note: Option<String>,
}

/// Tags: a list in JSON, a comma-separated text in a form.
#[derive(Deserialize)]
#[serde(untagged)]
enum TagList {
    List(Vec<String>),
    Text(String),
}

impl From<TagList> for Vec<String> {
    fn from(tags: TagList) -> Self {
        match tags {
            TagList::List(tags) => tags,
            TagList::Text(text) => split_tags(&text),
        }
    }
}

impl Changes {
    fn annotations(&mut self) -> AnnotationChange {
        let mut change = AnnotationChange::default();
        change.tags = self.tags.take().map(Vec::from);
        change.add_tags = self.add_tags.take().map(Vec::from).unwrap_or_default();
        change.remove_tags = self.remove_tags.take().map(Vec::from).unwrap_or_default();
        change.note = self.note.take();
        change
    }
}

pub(crate) async fn update(
    State(app): State<Arc<App>>,
    Writer(user): Writer,
    Fields(mut changes): Fields<Changes>,
) -> Result<Json<Value>> {
    if let Some(name) = &changes.name {
        check_name("name", name).map_err(|e| ApiError::bad_request(e.to_string()))?;
    }
    let id = changes.id.clone();
    let annotations = changes.annotations();
    let meta_data = changes.meta_data.map(|meta_data| match meta_data {
        Value::String(text) => text,
        other => other.to_string(),
    });
    check_meta_data(meta_data.as_deref())?;
    let change = ArtifactChange {
        name: changes.name,
        meta_data,
        public: changes.public,
        annotations,
    };
    let updated = app
        .database
        .update_artifact(user, changes.id, change)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => {
                ApiError::conflict("`name`: another artifact has this name already; choose another")
            }
            false => error.into(),
        })?;
    match updated {
        Annotated::Done(_) => Ok(success(json!({"_id": id}))),
        Annotated::Missing => Err(missing(&Which::Id(id))),
        Annotated::Invalid(error) => Err(invalid_annotation(&error)),
    }
}
