//! Detects BERTs of 2018 and 2019, whose `config.json` has no `model_type`.

use std::path::PathBuf;

use serde_json::Value;

use super::weights;
use crate::Result;

/// Fields of such a file. No other architecture has all of them.
const FIELDS: [&str; 5] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
];
/// A tensor of every BERT. With this prefix no other model has it.
const TENSOR: &str = "bert.embeddings.token_type_embeddings.weight";

/// Returns whether a `config.json` without a `model_type` has the fields of a
/// BERT.
fn looks_like_bert(config: &Value) -> bool {
    let has = |field: &str| config.get(field).is_some();
    !has("model_type") && FIELDS.iter().all(|field| has(field))
}

/// Adds the `model_type` of a BERT if the fields match, for a model whose
/// tensors are checked later.
pub(super) fn assume_bert(config: &mut Value) {
    if looks_like_bert(config) {
        config["model_type"] = "bert".into();
    }
}

/// Adds the `model_type` of a BERT if it is missing and the tensor names
/// confirm it. Then it returns a note. `find` locates a file.
pub(super) fn complete(
    config: &mut Value,
    find: &dyn Fn(&str) -> Result<Option<PathBuf>>,
) -> Result<Option<String>> {
    if !looks_like_bert(config) {
        return Ok(None);
    }
    let names = weights::names(&weights::SINGLE_FILES, find)?;
    if !names.iter().any(|name| name == TENSOR) {
        return Ok(None);
    }
    assume_bert(config);
    Ok(Some(
        "config.json has no `model_type`; its fields and tensors are those of a `bert`. \
         Add `\"model_type\": \"bert\"` to it, which transformers requires"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::params::{FloatFormat, write_safetensors};

    #[test]
    fn only_an_old_bert_is_detected_by_fields_and_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let find = |name: &str| {
            let path = folder.path().join(name);
            Ok(path.is_file().then_some(path))
        };
        let bert = json!({
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "type_vocab_size": 2, "vocab_size": 9,
        });
        let mut config = bert.clone();
        assert_eq!(complete(&mut config, &find).unwrap(), None, "no weights");
        for (tensor, found) in [
            (TENSOR, true),
            ("embeddings.token_type_embeddings.weight", false),
            ("roberta.embeddings.token_type_embeddings.weight", false),
        ] {
            let tensors = HashMap::from([(tensor.to_owned(), (vec![1], vec![0.0]))]);
            let file = folder.path().join("model.safetensors");
            write_safetensors(&file, &tensors, FloatFormat::F32).unwrap();
            let mut config = bert.clone();
            assert_eq!(complete(&mut config, &find).unwrap().is_some(), found);
            assert_eq!(config["model_type"] == "bert", found, "{tensor}");
        }
        std::fs::write(folder.path().join("model.safetensors"), "short").unwrap();
        let error = complete(&mut bert.clone(), &find).unwrap_err().to_string();
        assert!(error.contains("model.safetensors is cut short"), "{error}");
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let index = json!({"weight_map": {TENSOR: "model-00001-of-00002.safetensors"}});
        let file = folder.path().join("model.safetensors.index.json");
        std::fs::write(file, index.to_string()).unwrap();
        assert!(complete(&mut bert.clone(), &find).unwrap().is_some());
        let mut other = json!({"model_type": "clip"});
        assert_eq!(complete(&mut other, &find).unwrap(), None);
    }
}
