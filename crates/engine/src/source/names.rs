//! Checks the names of models.

use std::path::Path;

use finetuner_protocol::{BACKBONES, backbone::Backbone, worker::LocalModels};

use crate::{Error, Result};

/// Returns the reason why a listed model can't be fine-tuned, with
/// alternatives. Uses the names that clients of both languages list.
pub(super) fn not_trainable(backbone: &Backbone) -> String {
    let others: Vec<String> = BACKBONES
        .iter()
        .filter(|other| other.trainable && other.task == backbone.task)
        .map(|other| {
            let names = other.aliases.iter().chain([&other.name]);
            let listed = names.copied().find(|name| !name.contains('/'));
            format!("`{}`", listed.unwrap_or(other.name))
        })
        .collect();
    let task = &backbone.task;
    match others.is_empty() {
        true => format!("this server can't fine-tune it, nor any other {task} model"),
        false => format!(
            "this server can't fine-tune it; for {task} it can fine-tune {}",
            others.join(", ")
        ),
    }
}

/// Checks that a folder may be loaded from.
pub(super) fn check_folder(name: &str, local: &LocalModels) -> Result<()> {
    let folders = match local {
        LocalModels::Anywhere => return Ok(()),
        LocalModels::In(folders) => folders.as_slice(),
        LocalModels::Nowhere => &[],
    };
    if folders.is_empty() {
        return Err(Error::model(
            name,
            "this server does not load models from folders; allow folders with \
             `--local-models FOLDER`",
        ));
    }
    let real = |path: &Path| path.canonicalize();
    let is_inside = real(Path::new(name)).is_ok_and(|path| {
        let mut allowed = folders.iter().filter_map(|folder| real(folder).ok());
        allowed.any(|folder| path.starts_with(folder))
    });
    // The error reveals nothing about other folders, not even whether they
    // exist.
    match is_inside {
        true => Ok(()),
        false => {
            let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
            Err(Error::model(
                name,
                format!(
                    "this server loads models only from folders in {} (`--local-models`)",
                    folders.join(", ")
                ),
            ))
        }
    }
}

/// Returns whether a text can name a branch, tag or commit.
pub(super) fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    text.len() <= 255 && text.chars().all(allowed) && text.split('/').all(part)
}

pub(super) fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    matches!(name.split_once('/'), Some((owner, model)) if part(owner) && part(model))
}
