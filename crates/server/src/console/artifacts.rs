//! Data and models in the words of pages.

use maud::{Markup, html};
use serde_json::Value;

use super::{session::Session, words::name as shown_name};
use crate::database::ArtifactRow;

/// The name that whoever pushed it has given, else its ID.
pub(super) fn name_of(artifact: &ArtifactRow) -> &str {
    artifact.name.as_deref().unwrap_or(&artifact.id)
}

/// The name of an artifact. One that a run has made without a name is named by
/// the run: its ID tells people nothing.
pub(super) fn shown_title(artifact: &ArtifactRow, maker: Option<&(String, String)>) -> Markup {
    match (&artifact.name, maker) {
        (Some(name), _) => shown_name(name),
        (None, Some((_, run))) => html! { "Model of run " (shown_name(run)) },
        (None, None) => shown_name(&artifact.id),
    }
}

/// The title of an artifact's page.
pub(super) fn title_of(artifact: &ArtifactRow, maker: Option<&(String, String)>) -> String {
    match (&artifact.name, maker) {
        (Some(name), _) => name.clone(),
        (None, Some((_, run))) => format!("Model of run {run}"),
        (None, None) => artifact.id.clone(),
    }
}

/// Who may read an artifact.
pub(super) fn audience(session: &Session, artifact: &ArtifactRow) -> &'static str {
    match (artifact.public, session.user.is_personal) {
        (true, _) => "everybody",
        (false, true) => "you",
        (false, false) => "members of the project",
    }
}

/// The kind of an artifact in the words of pages.
pub(super) fn kind_name(kind: &str) -> &str {
    match kind {
        "documentArray" => "dataset",
        other => other,
    }
}

/// How many documents there are, as whoever pushed them has said.
pub(super) fn length_of(artifact: &ArtifactRow) -> Option<u64> {
    let meta: Value = serde_json::from_str(&artifact.meta_data).ok()?;
    let summary = meta["summary"].as_array()?;
    summary.iter().find(|item| item["name"] == "Length")?["value"].as_u64()
}

/// The file that was uploaded as this data.
pub(super) fn file_of(artifact: &ArtifactRow) -> Option<String> {
    let meta: Value = serde_json::from_str(&artifact.meta_data).ok()?;
    meta["file"].as_str().map(str::to_owned)
}
