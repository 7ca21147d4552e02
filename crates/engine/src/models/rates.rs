//! Rates of dropout and stochastic depth, read from a `config.json`.

use serde_json::Value;

use crate::{Error, Result, ops::BlockRates};

/// Probabilities of dropping an element in training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Dropout of the embeddings, before the first block.
    pub(super) embeddings: f32,
    pub(super) blocks: BlockRates,
    /// Dropout after the network's last norm.
    pub(super) output: f32,
}

impl Rates {
    /// Reads the rates of BERT and its relatives: one for attention weights,
    /// and one for everything else.
    pub(super) fn bert(json: &Value, default: f32) -> Result<Self> {
        let hidden = rate(json, &["hidden_dropout_prob"], default)?;
        let attention = rate(json, &["attention_probs_dropout_prob"], default)?;
        Ok(Self {
            embeddings: hidden,
            blocks: BlockRates::new(attention, hidden),
            output: 0.0,
        })
    }

    /// Reads a rate of attention weights only, as in CLIP, SigLIP, Gemma and
    /// Qwen.
    pub(super) fn attention(json: &Value) -> Result<Self> {
        let attention = rate(json, &["attention_dropout"], 0.0)?;
        Ok(Self {
            blocks: BlockRates::new(attention, 0.0),
            ..Self::default()
        })
    }

    /// Returns whether any rate is above 0.
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// Reads a rate under the first of these names that the `config.json` contains.
pub(super) fn rate(json: &Value, names: &[&str], default: f32) -> Result<f32> {
    let given = names.iter().find_map(|name| {
        let value = json.get(*name).filter(|value| !value.is_null())?;
        Some((name, value))
    });
    let Some((name, value)) = given else {
        return Ok(default);
    };
    match value.as_f64().filter(|rate| (0.0..1.0).contains(rate)) {
        Some(rate) => Ok(rate as f32),
        None => Err(Error::config_json(format!(
            "`{name}` is {value}; give a number from 0 to below 1"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_have_their_defaults_and_their_limits() {
        let rates = Rates::bert(&json!({"hidden_dropout_prob": 0.25}), 0.1).unwrap();
        assert_eq!(rates.embeddings, 0.25);
        assert_eq!(rates.blocks, BlockRates::new(0.1, 0.25));
        assert!(
            !Rates::attention(&json!({"attention_dropout": null}))
                .unwrap()
                .any()
        );
        for bad in [json!(1), json!(-0.1), json!("x")] {
            let error = Rates::attention(&json!({"attention_dropout": bad})).unwrap_err();
            let error = error.to_string();
            let wanted = format!("`attention_dropout` is {bad}; give a number from 0 to below 1");
            assert!(error.contains(&wanted), "{error}");
        }
    }
}
