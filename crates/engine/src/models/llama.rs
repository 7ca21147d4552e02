//! Parts that Gemma 3 and Qwen3 share: the tensor names and the layout of
//! Llama's networks.

use super::{
    Network,
    encoder::{TextEncoder, bad_config},
    rates::Rates,
    rope::LayerType,
    sizes::Sizes,
};
use crate::{
    Result,
    ops::{
        AttentionConfig, BlockForm, BlockLayers, FinishNames, LayerName, LayerNorm, Pooler,
        Positions, TokenTables,
    },
    params::Params,
};

const TOKENS: &str = "embed_tokens.weight";
const LAST_NORM: &str = "norm";

/// Refuses a number of heads that groups of `kv_heads` can't share evenly.
pub(super) fn check_kv_heads(heads: usize, kv_heads: usize) -> Result<()> {
    match heads.is_multiple_of(kv_heads) {
        true => Ok(()),
        false => Err(bad_config(format!(
            "`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, {kv_heads}"
        ))),
    }
}

/// Refuses attention in both directions, for which `transformers` reads this
/// field of a decoder's `config.json`.
pub(super) fn check_causal(is_causal: Option<bool>) -> Result<()> {
    match is_causal {
        Some(false) => Err(bad_config(
            "`is_causal` is false; only networks with causal attention are supported",
        )),
        _ => Ok(()),
    }
}

/// Returns the names of a block's layers. `norm2` is the norm before the MLP.
pub(super) fn layers(
    attention_bias: bool,
    norm2: &'static str,
    finish: Option<FinishNames>,
) -> BlockLayers {
    let attention = |name| LayerName::new(name).with_bias(attention_bias);
    let mlp = |name| LayerName::new(name).with_bias(false);
    BlockLayers {
        norm1: Some("input_layernorm"),
        query: attention("self_attn.q_proj"),
        key: attention("self_attn.k_proj"),
        value: attention("self_attn.v_proj"),
        out: attention("self_attn.o_proj"),
        head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]),
        norm2,
        fc1: mlp("mlp.gate_proj"),
        gate: Some(mlp("mlp.up_proj")),
        fc2: mlp("mlp.down_proj"),
        finish,
    }
}

/// A network of this layout.
pub(super) struct Llama<'a> {
    pub(super) sizes: &'a Sizes,
    pub(super) layers: BlockLayers,
    /// The form of all blocks, except for rotary embeddings and windows.
    pub(super) form: BlockForm,
    /// Factor of the token embeddings.
    pub(super) scale: Option<f64>,
    pub(super) rates: Rates,
}

impl Llama<'_> {
    /// Returns the names and shapes of all tensors.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.sizes.hidden_size;
        let mut all = vec![(TOKENS.to_owned(), vec![self.sizes.vocab_size, width])];
        for layer in 0..self.sizes.num_hidden_layers {
            all.extend(self.layers.tensors(&format!("layers.{layer}"), &self.form));
        }
        all.extend(self.form.norm.tensors(LAST_NORM, width));
        all
    }

    /// Builds the network from its weights. `types` has the type of each layer,
    /// and `attention` sets the rotary embedding and the window of a type.
    pub(super) fn build(
        self,
        params: &Params,
        pooler: Pooler,
        types: &[LayerType],
        attention: impl Fn(LayerType, &mut AttentionConfig),
    ) -> Result<Box<dyn Network>> {
        let width = self.sizes.hidden_size;
        let block = |(layer, kind): (usize, &LayerType)| {
            let mut form = self.form.clone();
            attention(*kind, &mut form.attention);
            self.layers.load(params, &format!("layers.{layer}"), &form)
        };
        let (norm, eps) = (self.form.norm, self.form.eps);
        Ok(Box::new(TextEncoder {
            tables: TokenTables {
                token: params.get(TOKENS, &[self.sizes.vocab_size, width])?,
                position: Positions::None {
                    longest: self.sizes.max_position_embeddings,
                },
                kind: None,
            },
            scale: self.scale,
            first_norm: None,
            blocks: types.iter().enumerate().map(block).collect::<Result<_>>()?,
            last_norm: Some(LayerNorm::load_kind(params, LAST_NORM, width, eps, norm)?),
            pooler,
            rates: self.rates,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::models::registry;

    #[test]
    fn decoders_that_attend_in_both_directions_are_refused() {
        for kind in ["qwen3", "gemma3_text"] {
            registry::parse(&json!({"model_type": kind, "is_causal": true})).unwrap();
            let error = registry::parse(&json!({"model_type": kind, "is_causal": false}));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("`is_causal` is false"), "{error}");
        }
    }
}
