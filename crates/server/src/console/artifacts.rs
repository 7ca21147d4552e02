//! Names and descriptions of datasets and models for display.

use maud::{Markup, html};
use serde_json::Value;

use super::{session::Session, words::name as shown_name};
use crate::database::ArtifactRow;

/// Returns the artifact's name, or its ID if it has none.
pub(super) fn name_of(artifact: &ArtifactRow) -> &str {
    artifact.name.as_deref().unwrap_or(&artifact.id)
}

/// Renders the display name of an artifact. An unnamed artifact that a run
/// created is shown as "Model of run ...".
pub(super) fn shown_title(artifact: &ArtifactRow, maker: Option<&(String, String)>) -> Markup {
    match (&artifact.name, maker) {
        (Some(name), _) => shown_name(name),
        (None, Some((_, run))) => html! { "Model of run " (shown_name(run)) },
        (None, None) => shown_name(&artifact.id),
    }
}

/// Returns the title of an artifact's page, as [`shown_title`] without markup.
pub(super) fn title_of(artifact: &ArtifactRow, maker: Option<&(String, String)>) -> String {
    match (&artifact.name, maker) {
        (Some(name), _) => name.clone(),
        (None, Some((_, run))) => format!("Model of run {run}"),
        (None, None) => artifact.id.clone(),
    }
}

/// Describes who may read an artifact.
pub(super) fn audience(session: &Session, artifact: &ArtifactRow) -> &'static str {
    match (artifact.public, session.user.is_personal) {
        (true, _) => "everybody",
        (false, true) => "you",
        (false, false) => "members of the project",
    }
}

/// Returns the display name of an artifact kind.
pub(super) fn kind_name(kind: &str) -> &str {
    match kind {
        "documentArray" => "dataset",
        other => other,
    }
}

/// Returns the number of documents. It comes from the summary that the client
/// sent, and is not verified.
pub(super) fn length_of(artifact: &ArtifactRow) -> Option<u64> {
    let meta: Value = serde_json::from_str(&artifact.meta_data).ok()?;
    let summary = meta["summary"].as_array()?;
    summary.iter().find(|item| item["name"] == "Length")?["value"].as_u64()
}

/// Returns the name of the uploaded file that this dataset was read from.
pub(super) fn file_of(artifact: &ArtifactRow) -> Option<String> {
    let meta: Value = serde_json::from_str(&artifact.meta_data).ok()?;
    meta["file"].as_str().map(str::to_owned)
}
