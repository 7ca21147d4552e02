//! Where models come from: the one that ships with the engine, a folder in
//! Hugging Face layout, or the Hugging Face hub and its cache on this machine.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::Device;
use finetuner_protocol::{CLIP_SMALL, find_backbone};
use serde_json::Value;

use crate::{
    Error, Result,
    image::ImageProcessor,
    models::{Clip, ClipConfig},
    params::{RawTensor, parse_safetensors},
    tokenizer::Tokenizer,
};

/// Files that go with a model and are handed on unchanged.
const SIDE_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
];

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The small CLIP inside the engine.
    Bundled,
    /// A folder.
    Folder(PathBuf),
    /// A repository of the hub, `owner/name`.
    Hub(String),
}

impl ModelSource {
    /// Decides what the name of a model means, without reading any weights.
    ///
    /// A path counts as a folder where it begins with `/`, `./` or `../`, and
    /// only if `local` allows it.
    ///
    /// # Errors
    /// [`Error::Model`] for names that can't be any model here.
    pub fn resolve(name: &str, local: bool) -> Result<Self> {
        if name == CLIP_SMALL {
            return Ok(Self::Bundled);
        }
        let path = Path::new(name);
        if path.is_absolute() || name.starts_with("./") || name.starts_with("../") {
            if !local {
                return Err(Error::model(
                    name,
                    "this server does not load models from folders; it can be allowed with `--local-models`",
                ));
            }
            return if path.join("config.json").is_file() {
                Ok(Self::Folder(path.to_owned()))
            } else {
                Err(Error::model(name, "there is no config.json in that folder"))
            };
        }
        match find_backbone(name) {
            Some(backbone) if !backbone.trainable => {
                return Err(Error::model(
                    name,
                    "this backend can't fine-tune it yet; the CLIP models can be",
                ));
            }
            Some(backbone) => return Ok(Self::Hub(backbone.hub_name().to_owned())),
            None if is_hub_name(name) && name.contains("clip") => {}
            None => {
                return Err(Error::model(
                    name,
                    format!(
                        "it is not in the list of backbones. Choose one of it, such as \
                         `{CLIP_SMALL}` or `openai/clip-vit-base-patch32`, the hub's name of \
                         another CLIP model (`owner/name`), or a folder that begins with `/` or `./`"
                    ),
                ));
            }
        }
        Ok(Self::Hub(name.to_owned()))
    }

    /// Reads the model's files.
    ///
    /// # Errors
    /// [`Error::Model`] where a file can't be had, [`Error::Checkpoint`] where
    /// one is broken.
    pub fn read(&self) -> Result<ModelFiles> {
        match self {
            Self::Bundled => ModelFiles::bundled(),
            Self::Folder(folder) => {
                let name = folder.display().to_string();
                ModelFiles::gather(&name, |file| {
                    let path = folder.join(file);
                    Ok(path.is_file().then_some(path))
                })
            }
            Self::Hub(name) => hub::gather(name),
        }
    }
}

fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    matches!(name.split_once('/'), Some((owner, model)) if part(owner) && part(model))
}

/// The files of a model, read.
pub struct ModelFiles {
    config: Value,
    tensors: HashMap<String, RawTensor>,
    preprocessor: Option<Value>,
    /// By file name.
    side_files: HashMap<String, Vec<u8>>,
}

impl ModelFiles {
    fn bundled() -> Result<Self> {
        let json = |bytes: &[u8], name: &str| {
            serde_json::from_slice(bytes).map_err(|e| Error::checkpoint(format!("{name}: {e}")))
        };
        let side_files = [
            (
                "tokenizer.json",
                &include_bytes!("../assets/clip-small/tokenizer.json")[..],
            ),
            (
                "tokenizer_config.json",
                &include_bytes!("../assets/clip-small/tokenizer_config.json")[..],
            ),
        ];
        Ok(Self {
            config: json(
                include_bytes!("../assets/clip-small/config.json"),
                "config.json",
            )?,
            tensors: parse_safetensors(
                include_bytes!("../assets/clip-small/model.safetensors"),
                CLIP_SMALL,
            )?,
            preprocessor: Some(json(
                include_bytes!("../assets/clip-small/preprocessor_config.json"),
                "preprocessor_config.json",
            )?),
            side_files: side_files
                .into_iter()
                .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
                .collect(),
        })
    }

    /// Reads the files that `find` knows.
    fn gather(name: &str, find: impl Fn(&str) -> Result<Option<PathBuf>>) -> Result<Self> {
        let read = |file: &str| -> Result<Option<Vec<u8>>> {
            find(file)?
                .map(|path| std::fs::read(&path).map_err(|e| Error::io(&path, e)))
                .transpose()
        };
        let json = |file: &str| -> Result<Option<Value>> {
            read(file)?
                .map(|bytes| {
                    serde_json::from_slice(&bytes)
                        .map_err(|e| Error::checkpoint(format!("{file}: {e}")))
                })
                .transpose()
        };
        let missing = |file: &str| Error::model(name, format!("it has no {file}"));
        let config = json("config.json")?.ok_or_else(|| missing("config.json"))?;
        // Fail on a wrong kind of model before its weights are fetched.
        ClipConfig::parse(&config)?;
        let mut side_files = HashMap::new();
        for file in SIDE_FILES {
            if let Some(bytes) = read(file)? {
                side_files.insert(file.to_owned(), bytes);
            }
        }
        if !side_files.contains_key("tokenizer.json") {
            return Err(missing("tokenizer.json"));
        }
        let tensors = if let Some(bytes) = read("model.safetensors")? {
            parse_safetensors(&bytes, "model.safetensors")?
        } else if let Some(path) = find("pytorch_model.bin")? {
            read_pytorch(&path)?
        } else {
            return Err(missing("model.safetensors"));
        };
        Ok(Self {
            config,
            tensors,
            preprocessor: json("preprocessor_config.json")?,
            side_files,
        })
    }

    /// Puts the model together.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the files do not fit each other.
    pub fn load(self, device: &Device) -> Result<LoadedModel> {
        let config = ClipConfig::parse(&self.config)?;
        let size = config.vision_config.image_size as u32;
        let processor = match &self.preprocessor {
            Some(json) => ImageProcessor::parse(json, size)?,
            None => ImageProcessor::clip(size),
        };
        let tokenizer = self
            .side_files
            .get("tokenizer.json")
            .ok_or_else(|| Error::checkpoint("tokenizer.json is missing"))?;
        Ok(LoadedModel {
            tokenizer: Tokenizer::parse(tokenizer, config.text_config.max_position_embeddings)?,
            model: Clip::new(config, self.tensors, device)?,
            processor,
            description: ModelDescription {
                config: self.config,
                side_files: self.side_files,
            },
        })
    }
}

/// A model, ready to be used.
pub struct LoadedModel {
    /// The model.
    pub model: Clip,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its image processor.
    pub processor: ImageProcessor,
    /// Its files beside the weights.
    pub description: ModelDescription,
}

/// What a saved model needs beside its weights.
pub struct ModelDescription {
    pub(crate) config: Value,
    pub(crate) side_files: HashMap<String, Vec<u8>>,
}

/// Reads the tensors of a PyTorch file. The pickle in it is interpreted as
/// data; nothing that it names is run.
fn read_pytorch(path: &Path) -> Result<HashMap<String, RawTensor>> {
    candle_core::pickle::read_all(path)
        .map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?
        .into_iter()
        .filter(|(_, tensor)| tensor.dtype().is_float())
        .map(|(name, tensor)| {
            let data = tensor
                .flatten_all()?
                .to_dtype(candle_core::DType::F32)?
                .to_vec1()?;
            Ok((name, (tensor.dims().to_vec(), data)))
        })
        .collect()
}

#[cfg(feature = "hub")]
mod hub {
    use hf_hub::api::sync::{ApiBuilder, ApiError};

    use super::{Error, ModelFiles, Result};

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
}

#[cfg(not(feature = "hub"))]
mod hub {
    use super::{Error, ModelFiles, Result};

    pub(super) fn gather(name: &str) -> Result<ModelFiles> {
        Err(Error::model(
            name,
            "this build can't ask the hub: give the path of a folder with the model's files",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let resolve = |name: &str| ModelSource::resolve(name, true);
        assert_eq!(resolve(CLIP_SMALL).unwrap(), ModelSource::Bundled);
        let hub = |name: &str| ModelSource::Hub(name.to_owned());
        for name in ["openai/clip-vit-base-patch32", "laion/CLIP-clip.x_y"] {
            assert_eq!(resolve(name).unwrap(), hub(name));
        }
        for (name, reason) in [
            ("resnet50", "can't fine-tune it yet"),
            ("no-such-model", "not in the list"),
            ("../nowhere/clip", "no config.json"),
            ("clip/../../etc", "not in the list"),
            ("a/clip;rm", "not in the list"),
            ("", "not in the list"),
        ] {
            let error = resolve(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
        let refused = ModelSource::resolve("/tmp", false).unwrap_err().to_string();
        assert!(refused.contains("--local-models"), "{refused}");
    }
}
