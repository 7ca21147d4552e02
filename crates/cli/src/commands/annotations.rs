//! The commands `tag` and `note` for runs, and their parts that the commands for data share.

use clap::Args;
use finetuner::{AnnotationChange, Annotations};
use serde_json::json;

use super::runs::Named;
use crate::{
    failure::Result,
    output::{self, Output},
    session::Session,
};

/// Options that add, remove or replace tags.
#[derive(Debug, Args)]
pub(crate) struct Tagging {
    /// Tags to add; without any, the tags are shown
    tags: Vec<String>,
    /// Tag to remove; may be given several times
    #[arg(long, short, value_name = "TAG")]
    remove: Vec<String>,
    /// Remove all other tags
    #[arg(long, conflicts_with = "remove")]
    replace: bool,
}

impl Tagging {
    /// Returns the requested change; `None` if the tags are only to be shown.
    pub(super) fn change(self) -> Option<AnnotationChange> {
        match (self.replace, self.tags.is_empty() && self.remove.is_empty()) {
            (true, _) => Some(AnnotationChange::default().tags(self.tags)),
            (false, true) => None,
            (false, false) => Some(
                AnnotationChange::default()
                    .add_tags(self.tags)
                    .remove_tags(self.remove),
            ),
        }
    }
}

/// `tag`.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    tagging: Tagging,
}

impl Tag {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        let annotations = match self.tagging.change() {
            Some(change) => run.annotate(change).await?,
            None => run.annotations().await?,
        };
        show_tags(&annotations, output)
    }
}

/// `note`.
#[derive(Debug, Args)]
pub(crate) struct Note {
    #[command(flatten)]
    named: Named,
    /// The new note, "" for none; without it, the note is shown
    text: Option<String>,
}

impl Note {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        let annotations = match self.text {
            Some(text) => run.set_note(text).await?,
            None => run.annotations().await?,
        };
        show_note(&annotations, output)
    }
}

pub(super) fn show_tags(annotations: &Annotations, output: &Output) -> Result {
    output.either(&json!({"tags": annotations.tags}), || {
        output::without_controls(&annotations.tags.join(", "))
    })
}

pub(super) fn show_note(annotations: &Annotations, output: &Output) -> Result {
    output.either(&json!({"note": annotations.note}), || {
        output::without_controls(&annotations.note)
    })
}
