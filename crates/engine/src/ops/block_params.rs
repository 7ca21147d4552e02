//! The layers of a transformer block, and how checkpoints call them.

use super::{LayerNorm, Linear};
use crate::{Result, params::Params};

/// The layers of a block.
#[derive(Clone)]
pub(crate) struct BlockParams {
    pub(crate) norm1: LayerNorm,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
    pub(crate) norm2: LayerNorm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
}

/// How the layers of a block are called in a checkpoint: both norms, query,
/// key, value, the attention's output, and the two layers of the MLP.
pub(crate) struct BlockNames {
    pub(crate) norms: [&'static str; 2],
    pub(crate) attention: [&'static str; 4],
    pub(crate) mlp: [&'static str; 2],
}

/// The names in a CLIP of `transformers`.
pub(crate) const CLIP_BLOCK: BlockNames = BlockNames {
    norms: ["layer_norm1", "layer_norm2"],
    attention: [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
    ],
    mlp: ["mlp.fc1", "mlp.fc2"],
};

/// The names in a BERT of `transformers`.
pub(crate) const BERT_BLOCK: BlockNames = BlockNames {
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    attention: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ],
    mlp: ["intermediate.dense", "output.dense"],
};

/// The names in a DistilBERT of `transformers`.
pub(crate) const DISTILBERT_BLOCK: BlockNames = BlockNames {
    norms: ["sa_layer_norm", "output_layer_norm"],
    attention: [
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
    ],
    mlp: ["ffn.lin1", "ffn.lin2"],
};

impl BlockNames {
    /// Name and shape of each tensor of the block `name`.
    pub(crate) fn tensors(
        &self,
        name: &str,
        width: usize,
        hidden: usize,
    ) -> Vec<(String, Vec<usize>)> {
        let norms = self.norms.iter().map(|part| (*part, vec![width]));
        let attention = self
            .attention
            .iter()
            .map(|part| (*part, vec![width, width]));
        let [fc1, fc2] = self.mlp;
        let mlp = [(fc1, vec![hidden, width]), (fc2, vec![width, hidden])];
        let parts = norms.chain(attention).chain(mlp);
        parts
            .flat_map(|(part, shape)| {
                [
                    (format!("{name}.{part}.bias"), vec![shape[0]]),
                    (format!("{name}.{part}.weight"), shape),
                ]
            })
            .collect()
    }
}

impl BlockParams {
    /// Takes the layers of the block `name`.
    pub(crate) fn load(
        params: &Params,
        names: &BlockNames,
        name: &str,
        width: usize,
        hidden: usize,
        eps: f32,
    ) -> Result<Self> {
        let linear = |part: &str, inputs, outputs| {
            Linear::load(params, &format!("{name}.{part}"), inputs, outputs, true)
        };
        let norm = |part: &str| LayerNorm::load(params, &format!("{name}.{part}"), width, eps);
        let [query, key, value, out] = names.attention;
        Ok(Self {
            norm1: norm(names.norms[0])?,
            query: linear(query, width, width)?,
            key: linear(key, width, width)?,
            value: linear(value, width, width)?,
            out: linear(out, width, width)?,
            norm2: norm(names.norms[1])?,
            fc1: linear(names.mlp[0], width, hidden)?,
            fc2: linear(names.mlp[1], hidden, width)?,
        })
    }
}
