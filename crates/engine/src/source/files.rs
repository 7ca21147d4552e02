//! Reading the files of a model, wherever they are.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Extras, untyped};
use crate::{
    Error, Result,
    models::ModelConfig,
    modules::{self, Found, Reader},
    params::{RawTensor, parse_safetensors},
};

/// Files that go with a model and are handed on unchanged.
pub(super) const SIDE_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// What a saved model is beside its network: see [`Extras`].
pub(crate) const EXTRAS_FILE: &str = "finetuner.json";
/// The weights of a projection head.
pub(crate) const HEAD_FILE: &str = "projection_head.safetensors";

/// The files of a model, read.
#[derive(Default)]
pub struct ModelFiles {
    pub(super) config: Value,
    pub(super) tensors: HashMap<String, RawTensor>,
    pub(super) preprocessor: Option<Value>,
    /// By file name.
    pub(super) side_files: HashMap<String, Vec<u8>>,
    pub(super) extras: Extras,
    /// What sentence-transformers has behind the network.
    pub(super) modules: Found,
}

impl ModelFiles {
    /// Reads the files that `find` knows.
    pub(super) fn gather(
        name: &str,
        find: impl Fn(&str) -> Result<Option<PathBuf>>,
    ) -> Result<Self> {
        let read = |file: &str| -> Result<Option<Vec<u8>>> {
            find(file)?
                .map(|path| std::fs::read(&path).map_err(|e| Error::io(&path, e)))
                .transpose()
        };
        let json = |file: &str| -> Result<Option<Value>> {
            read(file)?
                .map(|bytes| parse_json(&bytes, file))
                .transpose()
        };
        let missing = |file: &str| Error::model(name, format!("it has no {file}"));
        let mut extras = match json(EXTRAS_FILE)? {
            Some(own) => Extras::parse(&own)?,
            None => Extras::default(),
        };
        let reader = Reader {
            find: &find,
            tensors: &read_weights,
        };
        let modules = modules::read(&reader, extras.modules.as_ref(), &extras.head_modules)?;
        let mut modules = modules.unwrap_or_default();
        if let Some(pooling) = modules.pooling {
            extras.pooler = Some(pooling.pooler);
        }
        // The network of a model of sentence-transformers may have a folder of
        // its own.
        let network = modules.network.clone();
        let in_folder = |file: &str| format!("{network}{file}");
        let find = |file: &str| find(&in_folder(file));
        let read = |file: &str| read(&in_folder(file));
        let json = |file: &str| json(&in_folder(file));
        let missing = |file: &str| missing(&in_folder(file));
        let mut config = json("config.json")?.ok_or_else(|| missing("config.json"))?;
        modules.notes.extend(untyped::complete(&mut config, find)?);
        // Fail on a wrong kind of model before its weights are fetched.
        let parsed = ModelConfig::parse(&config)?;
        let mut side_files = HashMap::new();
        if parsed.max_tokens().is_some() {
            for file in SIDE_FILES {
                if let Some(bytes) = read(file)? {
                    side_files.insert(file.to_owned(), bytes);
                }
            }
        }
        let mut tensors = if let Some(bytes) = read("model.safetensors")? {
            parse_safetensors(&bytes, "model.safetensors")?
        } else if let Some(path) = find("pytorch_model.bin")? {
            read_pytorch(&path)?
        } else {
            return Err(missing("model.safetensors"));
        };
        if extras.head.is_some() {
            let bytes = read(HEAD_FILE)?.ok_or_else(|| missing(HEAD_FILE))?;
            tensors.extend(parse_safetensors(&bytes, HEAD_FILE)?);
        }
        Ok(Self {
            config,
            tensors,
            preprocessor: preprocessor(json("processor_config.json")?, || {
                json("preprocessor_config.json")
            })?,
            side_files,
            extras,
            modules,
        })
    }
}

/// How pictures are prepared: `transformers` 5 writes the steps of all
/// processors of a model into one file, which goes first.
fn preprocessor(
    processors: Option<Value>,
    own: impl FnOnce() -> Result<Option<Value>>,
) -> Result<Option<Value>> {
    match processors.and_then(|json| json.get("image_processor").cloned()) {
        Some(nested) => Ok(Some(nested)),
        None => own(),
    }
}

pub(super) fn parse_json(bytes: &[u8], name: &str) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::checkpoint(format!("{name}: {e}")))
}

/// Reads the tensors of a file of safetensors or PyTorch.
fn read_weights(path: &Path) -> Result<HashMap<String, RawTensor>> {
    if path.extension().is_some_and(|ext| ext == "bin") {
        return read_pytorch(path);
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    parse_safetensors(&bytes, &path.display().to_string())
}

/// Reads the tensors of a PyTorch file. The pickle in it is interpreted as
/// data; nothing that it names is run.
fn read_pytorch(path: &Path) -> Result<HashMap<String, RawTensor>> {
    candle_core::pickle::read_all(path)
        .map_err(|e| {
            let reason = crate::error::without_backtrace(e);
            Error::checkpoint(format!("{}: {reason}", path.display()))
        })?
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
