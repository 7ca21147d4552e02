//! Changes tags and notes of runs, for the API and the console.

use finetuner_protocol::{AnnotationChange, Annotations, InvalidField};

use crate::{
    app::App,
    database::{Annotated, Identity},
    error::{ApiError, Result},
};

/// Changes tags and note of runs of a project, given by their ids: of all of them or of
/// none.
pub(crate) async fn annotate(
    app: &App,
    by: Identity,
    runs: Vec<i64>,
    change: AnnotationChange,
) -> Result<Vec<Annotations>> {
    match app.database.annotate_runs(by, runs, change).await? {
        Annotated::Done(changed) => Ok(changed),
        Annotated::Missing => Err(ApiError::not_found("one of the runs was deleted meanwhile")),
        Annotated::Invalid(error) => Err(invalid_annotation(&error)),
    }
}

/// Returns the error for invalid tags or an invalid note.
pub(crate) fn invalid_annotation(error: &InvalidField) -> ApiError {
    ApiError::unprocessable(error.to_string())
}
