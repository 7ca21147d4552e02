//! The `config.json` of BERTs from 2018 and 2019, which names no `model_type`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Fields that such a file has, of which no other architecture has all.
const FIELDS: [&str; 5] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
];
/// A tensor that every BERT has; with its prefix no other model has it.
const TENSOR: &str = "bert.embeddings.token_type_embeddings.weight";

/// Adds the `model_type` of a BERT where it is missing and the names of the
/// tensors leave no doubt, and returns a note about it. `find` says where a file
/// is.
pub(super) fn complete(
    config: &mut Value,
    find: impl Fn(&str) -> Result<Option<PathBuf>>,
) -> Result<Option<String>> {
    let Some(fields) = config.as_object_mut() else {
        return Ok(None);
    };
    let named = fields.contains_key("model_type");
    if named || !FIELDS.iter().all(|field| fields.contains_key(*field)) {
        return Ok(None);
    }
    let names = if let Some(path) = find("model.safetensors")? {
        names_of_safetensors(&path)?
    } else if let Some(path) = find("pytorch_model.bin")? {
        let tensors = candle_core::pickle::read_pth_tensor_info(&path, false, None);
        let tensors = tensors.map_err(|e| {
            let reason = crate::error::without_backtrace(e);
            Error::checkpoint(format!("{}: {reason}", path.display()))
        })?;
        tensors.into_iter().map(|tensor| tensor.name).collect()
    } else {
        return Ok(None);
    };
    if !names.iter().any(|name| name == TENSOR) {
        return Ok(None);
    }
    fields.insert("model_type".to_owned(), "bert".into());
    Ok(Some(
        "config.json has no `model_type`: by its fields and its tensors the model is a `bert`. \
         Add `\"model_type\": \"bert\"` to it, as transformers wants it"
            .to_owned(),
    ))
}

/// The most bytes that the head of a safetensors file may have.
const LARGEST_HEAD: u64 = 100 << 20;

/// The names in the head of a file; none where it is not such a file, which
/// reading its tensors will tell.
fn names_of_safetensors(path: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io(path, e);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() {
        return Ok(Vec::new());
    }
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEAD {
        return Ok(Vec::new());
    }
    let mut head = Vec::new();
    file.take(length).read_to_end(&mut head).map_err(failed)?;
    let head: Map<String, Value> = serde_json::from_slice(&head).unwrap_or_default();
    Ok(head.into_iter().map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::params::{FloatFormat, write_safetensors};

    #[test]
    fn an_old_bert_is_told_by_its_fields_and_tensors_and_nothing_else_is() {
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
        assert_eq!(complete(&mut config, find).unwrap(), None, "no weights");
        for (tensor, found) in [
            (TENSOR, true),
            ("embeddings.token_type_embeddings.weight", false),
            ("roberta.embeddings.token_type_embeddings.weight", false),
        ] {
            let tensors = HashMap::from([(tensor.to_owned(), (vec![1], vec![0.0]))]);
            let file = folder.path().join("model.safetensors");
            write_safetensors(&file, &tensors, FloatFormat::F32).unwrap();
            let mut config = bert.clone();
            assert_eq!(complete(&mut config, find).unwrap().is_some(), found);
            assert_eq!(config["model_type"] == "bert", found, "{tensor}");
        }
        let file = folder.path().join("model.safetensors");
        for broken in [
            &b"short"[..],
            b"\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x02\0\0\0\0\0\0\0{",
        ] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(complete(&mut bert.clone(), find).unwrap(), None);
        }
        let mut other = json!({"model_type": "clip"});
        assert_eq!(complete(&mut other, find).unwrap(), None);
    }
}
