//! The Hugging Face hub and its cache on this machine.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError};

use super::{HubRules, ModelFiles};
use crate::{Error, Result};

/// Finds a model in the hub's cache, and fetches what is missing there.
pub(super) fn gather(name: &str, rules: &HubRules) -> Result<ModelFiles> {
    let unreachable = |e: &dyn std::fmt::Display| {
        Error::model(
            name,
            format!(
                "its files are not in the hub's cache on this machine ({}), and the hub can't \
                 be asked: {e}. Offline, put config.json, model.safetensors, tokenizer.json \
                 and preprocessor_config.json into one folder and give that folder's path as \
                 the model, or fill the cache on a machine that is online",
                cache().path().display()
            ),
        )
    };
    let api = ApiBuilder::from_env()
        .with_progress(false)
        .with_token(rules.token.clone())
        .build()
        .map_err(|e| unreachable(&e))?;
    let repo = api.model(name.to_owned());
    let cached = cache().model(name.to_owned());
    // Offline, what a model that is cached may lack is not there.
    let may_lack = |file: &str| match file {
        "config.json" | "tokenizer.json" => false,
        "model.safetensors" => cached.get("pytorch_model.bin").is_some(),
        "pytorch_model.bin" => false,
        _ => cached.get("config.json").is_some(),
    };
    let absent = |file: &str, error: ApiError| match error {
        ApiError::RequestError(e) if e.to_string().contains("404") => Ok(None),
        _ if may_lack(file) => Ok(None),
        error => Err(unreachable(&error)),
    };
    ModelFiles::gather(name, |file| {
        // What is in the cache is not fetched again.
        if let Some(limit) = rules.max_bytes
            && cached.get(file).is_none()
        {
            match api.metadata(&repo.url(file)) {
                Ok(about) if about.size() as u64 > limit => {
                    let size = about.size() >> 20;
                    let reason = format!(
                        "its {file} has {size} MiB, this server fetches {} at most \
                         (`--max-hub-download`): choose a smaller model",
                        limit >> 20
                    );
                    return Err(Error::model(name, reason));
                }
                Ok(_) => {}
                Err(error) => return absent(file, error),
            }
        }
        match repo.get(file) {
            Ok(path) => Ok(Some(path)),
            Err(error) => absent(file, error),
        }
    })
}

/// The token that the hub's own tools have kept for this user.
pub(super) fn token() -> Option<String> {
    cache().token()
}

/// Where models are kept on this machine.
pub(super) fn cache_folder() -> PathBuf {
    cache().path().clone()
}

fn cache() -> hf_hub::Cache {
    hf_hub::Cache::from_env()
}
