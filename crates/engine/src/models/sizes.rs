//! Sizes that text networks have in common.

use serde_json::Value;

use super::encoder::bad_config;
use crate::Result;

/// Sizes of a text network, with their names in `transformers`.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
}

impl Sizes {
    /// Reads the sizes in a `config.json`, by their names here or those of
    /// GPT-2. `self` holds the defaults.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a size is 0 or not a number.
    pub(super) fn read(self, json: &Value) -> Result<Self> {
        let size = |names: &[&'static str], default: usize| -> Result<usize> {
            let given = names.iter().find_map(|name| {
                let value = json.get(*name).filter(|value| !value.is_null())?;
                Some((*name, value))
            });
            let Some((name, value)) = given else {
                return Ok(default);
            };
            let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
            match size {
                // A network may have no layers.
                Some(0) if name != "num_hidden_layers" => Err(bad_config(format!("`{name}` is 0"))),
                Some(size) => Ok(size),
                None => Err(bad_config(format!(
                    "`{name}` is {value}; give a whole number"
                ))),
            }
        };
        Ok(Self {
            vocab_size: size(&["vocab_size"], self.vocab_size)?,
            hidden_size: size(&["hidden_size", "n_embd"], self.hidden_size)?,
            num_hidden_layers: size(&["num_hidden_layers", "n_layer"], self.num_hidden_layers)?,
            num_attention_heads: size(
                &["num_attention_heads", "n_head"],
                self.num_attention_heads,
            )?,
            intermediate_size: size(&["intermediate_size", "n_inner"], self.intermediate_size)?,
            max_position_embeddings: size(
                &["max_position_embeddings", "n_positions"],
                self.max_position_embeddings,
            )?,
        })
    }
}

/// Methods of [`super::Architecture`] that are the same for all text networks
/// with the fields `sizes` and `rates`. The arguments are the prefixes of names
/// in checkpoints, and those of the layers.
macro_rules! text_network {
    ($prefixes:expr, $layers:expr) => {
        fn kind(&self) -> ModelKind {
            ModelKind::Text
        }

        fn dim(&self) -> usize {
            self.sizes.hidden_size
        }

        fn family(&self) -> &'static str {
            "transformer"
        }

        fn max_tokens(&self) -> Option<usize> {
            Some(self.sizes.max_position_embeddings)
        }

        fn vocab_size(&self) -> Option<usize> {
            Some(self.sizes.vocab_size)
        }

        fn has_dropout(&self) -> bool {
            self.rates.any()
        }

        fn prefixes(&self) -> &'static [&'static str] {
            &$prefixes
        }

        fn layer_prefixes(&self) -> &'static [&'static str] {
            &$layers
        }
    };
}

pub(super) use text_network;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZES: Sizes = Sizes {
        vocab_size: 9,
        hidden_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 12,
        max_position_embeddings: 16,
    };

    #[test]
    fn sizes_are_read_by_both_names_and_checked() {
        let found = SIZES
            .read(&json!({"n_embd": 4, "vocab_size": 7, "n_layer": null}))
            .unwrap();
        assert_eq!((found.hidden_size, found.vocab_size), (4, 7));
        assert_eq!(found.num_hidden_layers, 2);
        for (json, part) in [
            (json!({"hidden_size": 0}), "`hidden_size` is 0"),
            (json!({"n_head": -1}), "`n_head` is -1"),
            (json!({"vocab_size": "many"}), "`vocab_size` is \"many\""),
        ] {
            let error = SIZES.read(&json).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
