//! The datasets that the form offers, and the settings suggested for each.

use super::{shape::Shape, typed::Typed};
use crate::{
    app::App,
    console::session::Session,
    database::{ArtifactList, ArtifactRow},
    documents,
    error::ApiError,
};

/// Maximum number of datasets in the form, newest first.
const MAX_OFFERED: u64 = 200;

/// Number of documents that determine the kind of a dataset.
const SAMPLE: u64 = 24;

/// Kind and size of the selected dataset.
pub(super) struct Found {
    pub(super) shape: Shape,
    pub(super) documents: u64,
}

pub(super) async fn datasets(app: &App, session: &Session) -> Result<Vec<ArtifactRow>, ApiError> {
    let list = ArtifactList {
        kind: Some("documentArray".to_owned()),
        newest_first: true,
        page: (0, MAX_OFFERED),
        ..ArtifactList::default()
    };
    let project = session.user.namespace.clone();
    let (all, _) = app.database.artifacts(project, list).await?;
    Ok(all.into_iter().filter(|data| data.name.is_some()).collect())
}

/// Reads the start of a dataset. `None` if it does not exist or can't be read.
pub(super) async fn look(
    app: &App,
    session: &Session,
    data: &str,
) -> Result<Option<Found>, ApiError> {
    let project = session.user.namespace.clone();
    let artifact = app.database.artifact_by_name(project, data.to_owned());
    let Some(artifact) = artifact.await? else {
        return Ok(None);
    };
    let person = &session.user.person;
    let read = documents::read(app, person, &artifact.content, 0, SAMPLE).await;
    Ok(read.ok().map(|(documents, total)| Found {
        shape: Shape::of(&documents),
        documents: total,
    }))
}

/// Fills empty fields with settings that fit the data.
pub(super) fn fill(typed: &mut Typed, found: &Found) {
    let defaults = found.shape.defaults(found.documents);
    let fill = |field: &mut String, value: String| {
        if field.is_empty() {
            *field = value;
        }
    };
    if typed.other_model.is_empty() {
        fill(&mut typed.model, defaults.model.to_owned());
    }
    fill(&mut typed.loss, defaults.loss.to_string());
    fill(&mut typed.epochs, defaults.epochs.to_owned());
    fill(&mut typed.batch_size, defaults.batch_size.to_string());
    fill(&mut typed.learning_rate, defaults.learning_rate.to_owned());
}
