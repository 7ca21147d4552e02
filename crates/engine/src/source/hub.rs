//! The Hugging Face hub and its cache on this machine.

use hf_hub::api::sync::{ApiBuilder, ApiError};

use super::ModelFiles;
use crate::{Error, Result};

/// Finds a model in the hub's cache, and fetches what is missing there.
pub(super) fn gather(name: &str) -> Result<ModelFiles> {
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
    ModelFiles::gather(name, |file| match repo.get(file) {
        Ok(path) => Ok(Some(path)),
        Err(ApiError::RequestError(e)) if e.to_string().contains("404") => Ok(None),
        Err(_) if may_lack(file) => Ok(None),
        Err(e) => Err(unreachable(&e)),
    })
}

fn cache() -> hf_hub::Cache {
    hf_hub::Cache::from_env()
}
