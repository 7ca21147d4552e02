//! Reads and describes the files of a model, from any location.

use std::{collections::HashMap, path::PathBuf};

use serde_json::Value;

use super::{
    adapter::{self, ADAPTER_FILE},
    extras::{EXTRAS_FILE, Extras, HEAD_FILE},
    open_clip,
    origin::Origin,
    untyped, weights,
};
use crate::{
    Error, Result,
    models::{HEAD_PREFIX, ModelConfig, ModelKind},
    modules::{self, Found, Reader},
    params::RawTensor,
    python_json,
};

/// Files that are copied unchanged with a model.
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

/// The contents of a model's files.
#[derive(Default)]
pub struct ModelFiles {
    pub(super) config: Value,
    pub(super) tensors: HashMap<String, RawTensor>,
    pub(super) preprocessor: Option<Value>,
    /// By file name.
    pub(super) side_files: HashMap<String, Vec<u8>>,
    pub(super) extras: Extras,
    /// The modules of sentence-transformers after the network.
    pub(super) modules: Found,
    /// Origin on the hub; one per tower of a two-tower model.
    pub(super) origins: Vec<Origin>,
}

impl ModelFiles {
    /// Returns the size of the weights in memory, in bytes.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let values = self.tensors.values().map(|(_, values)| values.len());
        (values.sum::<usize>() * size_of::<f32>()) as u64
    }

    /// Reads the files that `find` finds. `base` reads the base model of an
    /// adapter that comes without one.
    pub(super) fn gather(
        name: &str,
        find: impl Fn(&str) -> Result<Option<PathBuf>>,
        base: &dyn Fn(&str) -> Result<Self>,
    ) -> Result<Self> {
        let read = |file: &str| -> Result<Option<Vec<u8>>> {
            let Some(path) = find(file)? else {
                return Ok(None);
            };
            let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
            weights::refuse_pointer(&bytes, file)?;
            Ok(Some(bytes))
        };
        let json = |file: &str| -> Result<Option<Value>> {
            read(file)?
                .map(|bytes| python_json::parse(&bytes, file))
                .transpose()
        };
        let mut extras = match json(EXTRAS_FILE)? {
            Some(own) => Extras::parse(&own)?,
            None => Extras::default(),
        };
        let reader = Reader {
            find: &find,
            json: &json,
            tensors: &weights::read_file,
        };
        let modules = modules::read(&reader, extras.modules.as_ref(), &extras.head_modules)?;
        let has_modules = modules.is_some();
        let mut modules = modules.unwrap_or_default();
        if let Some(pooling) = modules.pooling {
            extras.pooler = Some(pooling.pooler);
        }
        // In sentence-transformers' layout the network may have its own folder.
        let network = modules.network.clone();
        let in_folder = |file: &str| format!("{network}{file}");
        let find = |file: &str| find(&in_folder(file));
        let read = |file: &str| read(&in_folder(file));
        let json = |file: &str| json(&in_folder(file));
        let missing = |file: &str| Error::model(name, format!("it has no {}", in_folder(file)));
        let adapter = json(ADAPTER_FILE)?;
        let described = describe(&json)?;
        if let (Some(adapter), None) = (&adapter, &described) {
            let mut files = base(&adapter::base_name(name, adapter)?)?;
            files.add_adapter(name, adapter, &find)?;
            for file in SIDE_FILES {
                if let Some(bytes) = read(file)? {
                    files.side_files.insert(file.to_owned(), bytes);
                }
            }
            if has_modules {
                let notes = std::mem::take(&mut files.modules.notes);
                modules.notes.extend(notes);
                files.modules = modules;
                files.extras = extras;
            }
            return Ok(files);
        }
        let (mut config, open_clip) = described.ok_or_else(|| missing("config.json"))?;
        modules.notes.extend(untyped::complete(&mut config, &find)?);
        if let Some(companions) = &open_clip {
            extras.max_tokens = extras.max_tokens.or(companions.max_tokens);
        }
        // Refuse an unsupported model before its weights are fetched.
        let parsed = ModelConfig::parse(&config)?;
        let mut side_files = HashMap::new();
        if parsed.max_tokens().is_some() {
            for file in SIDE_FILES {
                if let Some(bytes) = read(file)? {
                    side_files.insert(file.to_owned(), bytes);
                }
            }
        }
        let mut tensors = match &open_clip {
            None => weights::read(name, &weights::SINGLE_FILES, &find)?,
            Some(_) => open_clip::rename(weights::read(name, &open_clip::WEIGHT_FILES, &find)?)?,
        };
        if extras.head.is_some() {
            let path = find(HEAD_FILE)?.ok_or_else(|| missing(HEAD_FILE))?;
            tensors.extend(weights::read_file(&path, HEAD_FILE)?);
        }
        let mut files = Self {
            config,
            tensors,
            preprocessor: match open_clip {
                Some(companions) => Some(companions.preprocessor),
                None => preprocessor(json("processor_config.json")?, || {
                    json("preprocessor_config.json")
                })?,
            },
            side_files,
            extras,
            modules,
            origins: Vec::new(),
        };
        if let Some(adapter) = &adapter {
            files.add_adapter(name, adapter, &find)?;
        }
        Ok(files)
    }

    /// Merges the adapter that `find` finds into the weights.
    fn add_adapter(
        &mut self,
        name: &str,
        adapter: &Value,
        find: &dyn Fn(&str) -> Result<Option<PathBuf>>,
    ) -> Result<()> {
        // A cross-encoder keeps its classification head.
        let config = match ModelConfig::kind_of(&self.config)? {
            ModelKind::TextPairs => ModelConfig::parse_classifier(&self.config)?,
            _ => ModelConfig::parse(&self.config)?,
        };
        let all = std::mem::take(&mut self.tensors).into_iter();
        let (head, base) = all.partition(|(name, _)| name.starts_with(HEAD_PREFIX));
        let factors = adapter::read(name, find)?;
        self.tensors = adapter::merge(&config, base, adapter, factors)?;
        self.tensors.extend::<HashMap<_, _>>(head);
        self.modules.notes.push(
            "its adapter has been merged into its weights, and training updates these; \
             use `model_options.lora` to train a new adapter instead"
                .to_owned(),
        );
        Ok(())
    }
}

/// The description of a model's network.
pub(super) enum Described {
    /// The network's folder, either empty or ending with a slash, and its
    /// `config.json`.
    Network(String, Value),
    /// An adapter of another model.
    AdapterOf(String),
}

/// Reads the description of a model. `read` returns the content of a file.
pub(super) fn config(
    name: &str,
    read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
) -> Result<Described> {
    let json = |file: &str| {
        let bytes = read(file)?;
        bytes
            .map(|bytes| {
                weights::refuse_pointer(&bytes, file)?;
                python_json::parse(&bytes, file)
            })
            .transpose()
    };
    let network = match json(modules::LIST_FILE)? {
        Some(list) => modules::network_folder(&list)?,
        None => String::new(),
    };
    if let Some((config, _)) = describe(&|file: &str| json(&format!("{network}{file}")))? {
        return Ok(Described::Network(network, config));
    }
    match json(&format!("{network}{ADAPTER_FILE}"))? {
        Some(adapter) => Ok(Described::AdapterOf(adapter::base_name(name, &adapter)?)),
        None => Err(Error::model(
            name,
            format!("it has no {network}config.json"),
        )),
    }
}

/// Returns the model's `config.json`, or open_clip's own file converted to one,
/// with the rest of that file; `None` if the model has neither. If open_clip's
/// file exists, a `config.json` without a `model_type` belongs to another
/// library.
pub(super) fn describe(
    json: &dyn Fn(&str) -> Result<Option<Value>>,
) -> Result<Option<(Value, Option<open_clip::Companions>)>> {
    let config = json("config.json")?;
    if let Some(config) = config
        .as_ref()
        .filter(|config| config.get("model_type").is_some())
    {
        return Ok(Some((config.clone(), None)));
    }
    if let Some(own) = json(open_clip::CONFIG_FILE)? {
        let described = open_clip::describe(&own, json)?;
        return Ok(Some((described.config, Some(described.companions))));
    }
    Ok(config.map(|config| (config, None)))
}

/// Returns the image preprocessing. `transformers` 5 writes all processors of a
/// model to one file, which takes precedence.
fn preprocessor(
    processors: Option<Value>,
    own: impl FnOnce() -> Result<Option<Value>>,
) -> Result<Option<Value>> {
    match processors.and_then(|json| json.get("image_processor").cloned()) {
        Some(nested) => Ok(Some(nested)),
        None => own(),
    }
}
