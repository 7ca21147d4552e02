//! The configuration file of sentence-transformers' `Transformer`: truncation
//! and lowercasing of texts.

use serde_json::{Map, Value, json};

use crate::{Error, Result, python_json};

/// Names that the file has had. The first one is current.
pub(crate) const FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Loading arguments that don't affect embeddings here.
const WITHOUT_EFFECT: [&str; 14] = [
    "trust_remote_code",
    "add_pooling_layer",
    "attn_implementation",
    "torch_dtype",
    "dtype",
    "low_cpu_mem_usage",
    "device_map",
    "use_safetensors",
    "use_fast",
    "padding_side",
    "use_cache",
    "use_memory_efficient_attention",
    "unpad_inputs",
    "clean_up_tokenization_spaces",
];

/// Truncation and lowercasing of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SentenceConfig {
    /// The longest text in tokens, if given.
    pub(crate) max_tokens: Option<usize>,
    /// Whether texts are lowercased before tokenization.
    pub(crate) lowercase: bool,
    /// Whether the network is a sequence classifier (cross-encoder).
    pub(crate) classifies: bool,
    /// The file's content, which is saved with the limit in use.
    file: Option<Value>,
}

impl SentenceConfig {
    pub(crate) fn parse(file: Value, shown: &str) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(format!("{shown}: {reason}"));
        let empty = Map::new();
        let fields = file.as_object().unwrap_or(&empty);
        let number = |field: &str, value: &Value| match value {
            Value::Null => Ok(None),
            value => match python_json::number(value) {
                // Python libraries write "no limit" as 1e30.
                Some(n) if n >= 1.0 => Ok(Some(n.min(1e9) as usize)),
                _ => Err(bad(format!("`{field}` is {value}; give a number"))),
            },
        };
        let mut max_tokens = None;
        let mut lowercase = false;
        let classifies = file["transformer_task"] == "sequence-classification";
        for (field, value) in fields {
            match field.as_str() {
                "max_seq_length" => {
                    max_tokens = max_tokens.or(number(field, value)?);
                }
                "do_lower_case" => {
                    lowercase = match value {
                        Value::Null => false,
                        Value::Bool(flag) => *flag,
                        _ => {
                            let reason = format!("`{field}` is {value}; give true or false");
                            return Err(bad(reason));
                        }
                    }
                }
                "tokenizer_args" | "processor_kwargs" | "model_args" | "model_kwargs"
                | "config_args" | "config_kwargs" => {
                    for (name, value) in value.as_object().unwrap_or(&empty) {
                        match name.as_str() {
                            // Takes precedence over `max_seq_length`.
                            "model_max_length" => {
                                max_tokens = number(name, value)?.or(max_tokens);
                            }
                            name if WITHOUT_EFFECT.contains(&name) => {}
                            name => {
                                let reason = format!("`{field}.{name}` ({value}) is not supported");
                                return Err(bad(reason));
                            }
                        }
                    }
                }
                "transformer_task" if classifies || value == "feature-extraction" => {}
                "module_output_name" if classifies && value == "scores" => {}
                "modality_config" if classifies && reads_logits(value) => {}
                "module_output_name" if value == "token_embeddings" => {}
                "modality_config" if reads_hidden_states(value) => {}
                "processing_kwargs" if value.as_object().is_none_or(Map::is_empty) => {}
                // These affect only other kinds of models, or speed.
                "query_length" | "document_length" | "query_expansion" | "unpad_inputs"
                | "backend" => {}
                _ if value.is_null() => {}
                _ => {
                    let reason = format!("the setting `{field}` ({value}) is not supported");
                    return Err(bad(reason));
                }
            }
        }
        Ok(Self {
            max_tokens,
            lowercase,
            classifies,
            file: Some(file),
        })
    }

    /// Returns the file's content for a model that reads `longest` tokens.
    pub(crate) fn to_json(&self, longest: usize) -> Value {
        let mut file = match &self.file {
            Some(Value::Object(file)) => file.clone(),
            _ => Map::from_iter([("do_lower_case".to_owned(), json!(false))]),
        };
        if self.max_tokens != Some(longest) {
            for field in ["tokenizer_args", "processor_kwargs"] {
                if let Some(Value::Object(arguments)) = file.get_mut(field) {
                    arguments.remove("model_max_length");
                }
            }
            file.insert("max_seq_length".to_owned(), longest.into());
        }
        Value::Object(file)
    }
}

/// Returns whether texts are mapped to the network's last hidden state, which
/// is the default.
fn reads_hidden_states(modalities: &Value) -> bool {
    let Some(modalities) = modalities.as_object() else {
        return modalities.is_null();
    };
    modalities.iter().all(|(kind, way)| {
        kind == "text"
            && way["method"] == "forward"
            && way["method_output_name"] == "last_hidden_state"
    })
}

/// Returns whether texts are mapped to a classifier's scores.
fn reads_logits(modalities: &Value) -> bool {
    let way = &modalities["text"];
    way["method"] == "forward" && way["method_output_name"] == "logits"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: Value) -> Result<SentenceConfig> {
        SentenceConfig::parse(file, "sentence_bert_config.json")
    }

    #[test]
    fn limits_are_read_from_old_and_new_files_and_written_again() {
        let old = json!({"max_seq_length": 64, "do_lower_case": true});
        let found = parse(old.clone()).unwrap();
        assert_eq!((found.max_tokens, found.lowercase), (Some(64), true));
        assert_eq!(found.to_json(64), old);
        assert_eq!(found.to_json(8)["max_seq_length"], 8);
        let new = json!({
            "transformer_task": "feature-extraction",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            "module_output_name": "token_embeddings",
        });
        let found = parse(new.clone()).unwrap();
        assert_eq!((found.max_tokens, found.lowercase), (None, false));
        assert_eq!(found.to_json(32)["max_seq_length"], 32);
        let arguments = json!({
            "max_seq_length": 64,
            "tokenizer_args": {"model_max_length": 16, "use_fast": true},
        });
        let found = parse(arguments).unwrap();
        assert_eq!(found.max_tokens, Some(16));
        let written = found.to_json(4);
        assert_eq!(written["max_seq_length"], 4);
        assert_eq!(written["tokenizer_args"], json!({"use_fast": true}));
        let endless = parse(json!({"max_seq_length": 1e30})).unwrap();
        assert_eq!(endless.max_tokens, Some(1_000_000_000));
    }

    #[test]
    fn settings_that_change_embeddings_are_refused_by_name() {
        for (file, part) in [
            (json!({"transformer_task": "fill-mask"}), "transformer_task"),
            (json!({"max_seq_length": "64"}), "max_seq_length"),
            (json!({"do_lower_case": 1}), "do_lower_case"),
            (
                json!({"tokenizer_name_or_path": "bert-base-cased"}),
                "tokenizer_name_or_path",
            ),
            (
                json!({"modality_config": {"text": {"method": "get_text_features"}}}),
                "modality_config",
            ),
            (
                json!({"config_args": {"hidden_act": "relu"}}),
                "`config_args.hidden_act`",
            ),
        ] {
            let error = parse(file).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
