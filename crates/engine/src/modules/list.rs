//! Reads `modules.json` and the folders of its modules.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use super::{
    LIST_FILE,
    classifier::ClassifierFiles,
    layer::{LayerSpec, PREFIX},
    pooling::Pooling,
    prompts::{self, Prompts},
    sentence::{self, SentenceConfig},
};
use crate::{Error, Result, params::RawTensor};

/// A module whose output is already one vector per text or image, so that no
/// pooling follows.
const WITHOUT_POOLING: &str = "CLIPModel";

/// The contents of a sentence-transformers folder, except for the network.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The folder of the network, empty or with a trailing slash.
    pub(crate) network: String,
    /// The pooling of the network's output, if it has one.
    pub(crate) pooling: Option<Pooling>,
    /// The modules after the pooling.
    pub(crate) layers: Vec<LayerSpec>,
    /// Their tensors, by the names that [`super::Layer`] uses.
    pub(crate) tensors: HashMap<String, RawTensor>,
    pub(crate) prompts: Prompts,
    pub(crate) sentence: SentenceConfig,
    /// The files of a cross-encoder outside its network.
    pub(crate) classifier: Option<ClassifierFiles>,
    /// Warnings about files that may not have the effect that their author
    /// expects.
    pub(crate) notes: Vec<String>,
}

/// Reads the tensors of a file, given its path and its name in the model.
pub(crate) type ReadTensors<'a> = dyn Fn(&Path, &str) -> Result<HashMap<String, RawTensor>> + 'a;

/// Access to a model's files.
pub(crate) struct Reader<'a> {
    /// Returns the path of a file, if it exists.
    pub(crate) find: &'a dyn Fn(&str) -> Result<Option<PathBuf>>,
    /// Reads a JSON file, if it exists.
    pub(crate) json: &'a dyn Fn(&str) -> Result<Option<Value>>,
    pub(crate) tensors: &'a ReadTensors<'a>,
}

impl Reader<'_> {
    fn json(&self, name: &str) -> Result<Option<Value>> {
        (self.json)(name)
    }

    /// Reads the tensors of a module's folder.
    fn weights(&self, folder: &str) -> Result<HashMap<String, RawTensor>> {
        for file in ["model.safetensors", "pytorch_model.bin"] {
            let file = format!("{folder}{file}");
            if let Some(path) = (self.find)(&file)? {
                return (self.tensors)(&path, &file);
            }
        }
        Err(Error::checkpoint(format!(
            "the module in `{folder}` has neither model.safetensors nor pytorch_model.bin"
        )))
    }
}

/// Reads the modules of a folder; `None` if it has no `modules.json`.
/// `own_list` replaces that file for models that sentence-transformers can't
/// load. Modules at the positions `head` are skipped: they are a projection
/// head, which is also stored in another form.
pub(crate) fn read(
    reader: &Reader<'_>,
    own_list: Option<&Value>,
    head: &[usize],
) -> Result<Option<Found>> {
    let list = match (reader.json(LIST_FILE)?, own_list) {
        (Some(list), _) => list,
        (None, Some(list)) => list.clone(),
        (None, None) => return Ok(None),
    };
    let mut entries = entries(&list)?;
    let number = entries.len();
    let mut index = 0..number;
    entries.retain(|_| index.next().is_some_and(|index| !head.contains(&index)));
    let mut entries = entries.into_iter();
    let mut found = Found::default();
    let first = entries.next();
    let pools = match first.as_ref().map(|first| (first.name(), first)) {
        Some(("Transformer", first)) => {
            found.network = first.folder.clone();
            for file in sentence::FILES {
                let file = format!("{}{file}", first.folder);
                if let Some(json) = reader.json(&file)? {
                    found.sentence = SentenceConfig::parse(json, &file)?;
                    break;
                }
            }
            true
        }
        Some((WITHOUT_POOLING, first)) => {
            found.network = first.folder.clone();
            if number > 1 {
                return Err(Error::checkpoint(format!(
                    "{LIST_FILE}: modules after a {WITHOUT_POOLING} are not supported"
                )));
            }
            false
        }
        Some((_, first)) => return Err(unknown(&first.class)),
        None => return Err(Error::checkpoint(format!("{LIST_FILE}: it is empty"))),
    };
    let settings = reader.json(prompts::FILE)?;
    let mut rest = entries.peekable();
    if found.sentence.classifies || ClassifierFiles::are_settings(settings.as_ref()) {
        if let Some(other) = rest.peek() {
            return Err(Error::checkpoint(format!(
                "{LIST_FILE}: `{}` after the network of a cross-encoder is not supported; a \
                 sequence classifier must be a single Transformer",
                other.class
            )));
        }
        found.classifier = Some(ClassifierFiles::parse(settings)?);
        return Ok(Some(found));
    }
    if pools {
        match rest.next_if(|entry| entry.name() == "Pooling") {
            Some(entry) => {
                let file = format!("{}config.json", entry.folder);
                let config = reader.json(&file)?.ok_or_else(|| {
                    Error::checkpoint(format!("{LIST_FILE} names `{file}`, which is missing"))
                })?;
                found.pooling = Some(Pooling::parse(&config, &file)?);
            }
            // A model of ours with a pooling that sentence-transformers lacks.
            None if own_list.is_some() => {}
            None => {
                let other = rest
                    .peek()
                    .map_or("nothing".to_owned(), |entry| format!("`{}`", entry.class));
                return Err(Error::checkpoint(format!(
                    "{LIST_FILE}: expected a Pooling after the Transformer, not {other}"
                )));
            }
        }
    }
    for entry in rest {
        let file = format!("{}config.json", entry.folder);
        let config = reader.json(&file)?.unwrap_or(Value::Null);
        // Modules of other packages may have the same class names.
        let spec = match entry.name() {
            "" => None,
            _ => LayerSpec::parse(&entry.class, config, &file, &mut found.notes)?,
        };
        let spec = spec.ok_or_else(|| unknown(&entry.class))?;
        if !spec.tensors().is_empty() {
            let index = found.layers.len();
            let tensors = reader.weights(&entry.folder)?;
            let named = tensors
                .into_iter()
                .map(|(name, tensor)| (format!("{PREFIX}{index}.{name}"), tensor));
            found.tensors.extend(named);
        }
        found.layers.push(spec);
    }
    if let Some(json) = settings {
        found.prompts = Prompts::parse(json)?;
    }
    Ok(Some(found))
}

fn unknown(class: &str) -> Error {
    Error::checkpoint(format!(
        "{LIST_FILE}: the module `{class}` is not supported; supported are Transformer, CLIPModel, \
         Pooling, Dense, LayerNorm, Normalize and Dropout of sentence_transformers"
    ))
}

/// An entry of the list.
struct Entry {
    class: String,
    /// Empty, or with a trailing slash.
    folder: String,
}

impl Entry {
    /// Returns the class name; empty for classes of other packages.
    fn name(&self) -> &str {
        match self.class.strip_prefix("sentence_transformers.") {
            Some(path) => path.rsplit('.').next().unwrap_or_default(),
            None => "",
        }
    }
}

fn entries(list: &Value) -> Result<Vec<Entry>> {
    let bad = |reason: String| Error::checkpoint(format!("{LIST_FILE}: {reason}"));
    let list = list
        .as_array()
        .ok_or_else(|| bad("expected a list of modules".to_owned()))?;
    list.iter()
        .enumerate()
        .map(|(index, entry)| {
            let text = |field: &str| {
                entry[field].as_str().ok_or_else(|| {
                    bad(format!(
                        "the `{field}` of module {index} is {}; give a text",
                        entry[field]
                    ))
                })
            };
            let (class, path) = (text("type")?, text("path")?);
            let inside = Path::new(path)
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !inside || path.contains('\\') {
                return Err(bad(format!("the path `{path}` leads outside the folder")));
            }
            let path = path.trim_matches('/');
            Ok(Entry {
                class: class.to_owned(),
                folder: match path {
                    "" | "." => String::new(),
                    path => format!("{path}/"),
                },
            })
        })
        .collect()
}

/// Returns the folder of the network, empty or with a trailing slash.
///
/// # Errors
/// [`Error::Checkpoint`] if the list is invalid.
pub(crate) fn network_folder(list: &Value) -> Result<String> {
    let first = entries(list)?.into_iter().next();
    Ok(first.map_or(String::new(), |entry| entry.folder))
}

/// Returns whether a file of this name in an artifact belongs to the modules.
pub(crate) fn is_file(name: &str) -> bool {
    if [LIST_FILE, prompts::FILE].contains(&name) || sentence::FILES.contains(&name) {
        return true;
    }
    let Some((folder, file)) = name.split_once('/') else {
        return false;
    };
    // On Windows, a backslash separates folders too.
    if folder.contains('\\') {
        return false;
    }
    let number = folder.split_once('_').map_or("", |(number, _)| number);
    let is_module = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_module && ["config.json", "model.safetensors"].contains(&file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_folder(files: &[(&str, Value)]) -> Result<Option<Found>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, json) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, json.to_string()).unwrap();
        }
        let find = |name: &str| {
            let path = folder.path().join(name);
            Ok(path.is_file().then_some(path))
        };
        let json = |name: &str| {
            let path = find(name)?;
            let read = path.map(|path| std::fs::read(path).unwrap());
            Ok(read.map(|bytes| serde_json::from_slice(&bytes).unwrap()))
        };
        let reader = Reader {
            find: &find,
            json: &json,
            tensors: &|_, _| Ok(HashMap::new()),
        };
        read(&reader, None, &[])
    }

    fn module(class: &str, path: &str) -> Value {
        json!({"idx": 0, "name": "0", "path": path, "type": class})
    }

    #[test]
    fn classes_of_old_and_new_versions_in_any_folder_are_read() {
        let mean = json!({"pooling_mode_mean_tokens": true});
        for (transformer, pooling, normalize) in [
            (
                "sentence_transformers.models.Transformer",
                "sentence_transformers.models.Pooling",
                "sentence_transformers.models.Normalize",
            ),
            (
                "sentence_transformers.base.modules.transformer.Transformer",
                "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
                "sentence_transformers.base.modules.normalize.Normalize",
            ),
        ] {
            let found = read_folder(&[
                (
                    "modules.json",
                    json!([
                        module(transformer, "0_BERT"),
                        module(pooling, "my_pool"),
                        module(normalize, "2_Normalize"),
                    ]),
                ),
                ("my_pool/config.json", mean.clone()),
                (
                    "0_BERT/sentence_roberta_config.json",
                    json!({"max_seq_length": 9}),
                ),
            ])
            .unwrap()
            .unwrap();
            assert_eq!(found.network, "0_BERT/");
            assert_eq!(found.pooling, Some(Pooling::default()));
            assert_eq!(found.layers[0].name(), "Normalize");
            assert_eq!(found.sentence.max_tokens, Some(9));
        }
        assert!(read_folder(&[]).unwrap().is_none());
    }

    #[test]
    fn files_of_modules_are_in_a_numbered_folder() {
        assert!(is_file("modules.json") && is_file("2_Dense/model.safetensors"));
        for other in [
            "Dense/config.json",
            "2_Dense/notes",
            "1_\\..\\..\\x/config.json",
        ] {
            assert!(!is_file(other), "{other}");
        }
    }

    #[test]
    fn an_unsupported_list_is_refused_by_name() {
        let st = |name: &str| format!("sentence_transformers.models.{name}");
        let transformer = module(&st("Transformer"), "");
        let pooling = module(&st("Pooling"), "1_Pooling");
        for (list, part) in [
            (json!({}), "a list of modules"),
            (json!([]), "it is empty"),
            (
                json!([module("my_code.Transformer", "")]),
                "`my_code.Transformer`",
            ),
            (
                json!([module(&st("StaticEmbedding"), "")]),
                "StaticEmbedding",
            ),
            (json!([transformer]), "not nothing"),
            (
                json!([transformer, module(&st("Normalize"), "1")]),
                "expected a Pooling",
            ),
            (
                json!([transformer, pooling, module(&st("LSTM"), "2_LSTM")]),
                "models.LSTM`",
            ),
            (
                json!([transformer, pooling, module("my_code.Normalize", "2_Mine")]),
                "my_code.Normalize`",
            ),
            (
                json!([transformer, module(&st("Pooling"), "none")]),
                "none/config.json",
            ),
            (
                json!([module(&st("Transformer"), "../other")]),
                "`../other`",
            ),
            (json!([module(&st("Transformer"), "/etc")]), "`/etc`"),
            (json!([{"type": 1}]), "`type`"),
        ] {
            let error =
                read_folder(&[("modules.json", list), ("1_Pooling/config.json", json!({}))])
                    .unwrap_err()
                    .to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
