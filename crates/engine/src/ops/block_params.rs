//! A transformer block's layers, and their names in checkpoints.

use super::{
    Activation, AttentionConfig, BlockRates, LayerNorm, Linear, NormKind, block_finish::Finish,
};
use crate::{Result, params::Params};

/// The layers of a block.
#[derive(Clone)]
pub(crate) struct BlockParams {
    /// `None` if another norm directly precedes the block, as in ModernBERT's
    /// first.
    pub(crate) norm1: Option<LayerNorm>,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
    /// Norms of each head of queries and keys, before rotary embedding.
    pub(crate) head_norms: Option<[LayerNorm; 2]>,
    pub(crate) norm2: LayerNorm,
    pub(crate) fc1: Linear,
    /// A layer parallel to `fc1` whose output multiplies the activation's
    /// (Shazeer 2020, arXiv:2002.05202).
    pub(crate) gate: Option<Linear>,
    pub(crate) fc2: Linear,
    /// Operations on the outputs of both halves before the residual is added.
    pub(crate) finish: [Option<Finish>; 2],
}

/// A transformer block over the rows of several sequences, `[rows, width]`.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) params: BlockParams,
    pub(crate) attention: AttentionConfig,
    pub(crate) activation: Activation,
    /// Whether the norms come before the halves (pre-norm).
    pub(crate) norm_first: bool,
    /// Dropout rates in training.
    pub(crate) rates: BlockRates,
}

/// Sizes and settings of a block.
#[derive(Clone)]
pub(crate) struct BlockForm {
    /// Elements of a row.
    pub(crate) width: usize,
    /// Elements of a row inside the MLP.
    pub(crate) hidden: usize,
    pub(crate) activation: Activation,
    pub(crate) norm: NormKind,
    pub(crate) eps: f32,
    /// Whether the norms come before the halves (pre-norm).
    pub(crate) norm_first: bool,
    pub(crate) attention: AttentionConfig,
    /// Dropout rates in training.
    pub(crate) rates: BlockRates,
}

/// The name of a linear layer in a checkpoint, relative to the block's.
#[derive(Clone, Copy)]
pub(crate) struct LayerName {
    name: &'static str,
    bias: bool,
    /// Index and number of the equal layers that share the tensor.
    part: (usize, usize),
}

impl LayerName {
    /// Names a layer with a bias.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            bias: true,
            part: (0, 1),
        }
    }

    /// Sets whether the layer has a bias.
    pub(crate) const fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// Selects part `part` of a tensor that holds `parts` layers.
    pub(crate) const fn part(self, part: usize, parts: usize) -> Self {
        Self {
            part: (part, parts),
            ..self
        }
    }

    /// Returns the layer's tensors. A shared tensor belongs to its first layer.
    fn tensors(self, block: &str, outputs: usize, inputs: usize) -> Vec<(String, Vec<usize>)> {
        let (part, parts) = self.part;
        if part > 0 {
            return Vec::new();
        }
        let (name, outputs) = (self.name, outputs * parts);
        let bias = (format!("{block}.{name}.bias"), vec![outputs]);
        let weight = (format!("{block}.{name}.weight"), vec![outputs, inputs]);
        if self.bias {
            vec![bias, weight]
        } else {
            vec![weight]
        }
    }

    fn load(self, params: &Params, block: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        let name = format!("{block}.{}", self.name);
        Linear::load_part(params, &name, inputs, outputs, self.bias, self.part)
    }
}

/// Names of a block's layers in a checkpoint; see [`BlockParams`].
#[derive(Clone)]
pub(crate) struct BlockLayers {
    pub(crate) norm1: Option<&'static str>,
    pub(crate) query: LayerName,
    pub(crate) key: LayerName,
    pub(crate) value: LayerName,
    pub(crate) out: LayerName,
    pub(crate) head_norms: Option<[&'static str; 2]>,
    pub(crate) norm2: &'static str,
    pub(crate) fc1: LayerName,
    pub(crate) gate: Option<LayerName>,
    pub(crate) fc2: LayerName,
    pub(crate) finish: Option<FinishNames>,
}

/// Names of the operations that finish both halves; see [`Finish`].
#[derive(Clone, Copy)]
pub(crate) enum FinishNames {
    /// Tensors with a factor per element, as in DINOv2.
    Scales([&'static str; 2]),
    /// Norms.
    Norms([&'static str; 2]),
}

impl BlockLayers {
    /// Returns name, outputs and inputs of each linear layer.
    fn linear(&self, form: &BlockForm) -> Vec<(LayerName, usize, usize)> {
        let (width, hidden) = (form.width, form.hidden);
        let (inner, kv) = (form.attention.width(), form.attention.kv_width());
        let mut all = vec![
            (self.query, inner, width),
            (self.key, kv, width),
            (self.value, kv, width),
            (self.out, width, inner),
            (self.fc1, hidden, width),
        ];
        all.extend(self.gate.map(|gate| (gate, hidden, width)));
        all.push((self.fc2, width, hidden));
        all
    }

    /// Returns the names and shapes of the tensors of the block `name`.
    pub(crate) fn tensors(&self, name: &str, form: &BlockForm) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for norm in self.norm1.into_iter().chain([self.norm2]) {
            all.extend(form.norm.tensors(&format!("{name}.{norm}"), form.width));
        }
        for (layer, outputs, inputs) in self.linear(form) {
            all.extend(layer.tensors(name, outputs, inputs));
        }
        for norm in self.head_norms.into_iter().flatten() {
            let name = format!("{name}.{norm}");
            all.extend(form.norm.tensors(&name, form.attention.head));
        }
        match self.finish {
            Some(FinishNames::Scales(scales)) => {
                let shape = || vec![form.width];
                all.extend(scales.map(|scale| (format!("{name}.{scale}"), shape())));
            }
            Some(FinishNames::Norms(norms)) => {
                for norm in norms {
                    all.extend(form.norm.tensors(&format!("{name}.{norm}"), form.width));
                }
            }
            None => {}
        }
        all
    }

    /// Loads the block `name`.
    pub(crate) fn load(&self, params: &Params, name: &str, form: &BlockForm) -> Result<Block> {
        let (width, hidden) = (form.width, form.hidden);
        let (inner, kv) = (form.attention.width(), form.attention.kv_width());
        let linear = |layer: LayerName, outputs, inputs| layer.load(params, name, outputs, inputs);
        let norm_of = |part: &str, width| {
            let name = format!("{name}.{part}");
            LayerNorm::load_kind(params, &name, width, form.eps, form.norm)
        };
        let norm = |part: &str| norm_of(part, width);
        let finish = |half: usize| {
            Ok::<_, crate::Error>(match self.finish {
                Some(FinishNames::Scales(names)) => {
                    let name = format!("{name}.{}", names[half]);
                    Some(Finish::Scale(params.get(&name, &[width])?))
                }
                Some(FinishNames::Norms(names)) => Some(Finish::Norm(norm(names[half])?)),
                None => None,
            })
        };
        let head_norms = match self.head_norms {
            Some([query, key]) => {
                let head = form.attention.head;
                Some([norm_of(query, head)?, norm_of(key, head)?])
            }
            None => None,
        };
        let params = BlockParams {
            norm1: self.norm1.map(norm).transpose()?,
            query: linear(self.query, inner, width)?,
            key: linear(self.key, kv, width)?,
            value: linear(self.value, kv, width)?,
            out: linear(self.out, width, inner)?,
            head_norms,
            norm2: norm(self.norm2)?,
            fc1: linear(self.fc1, hidden, width)?,
            gate: self
                .gate
                .map(|gate| linear(gate, hidden, width))
                .transpose()?,
            fc2: linear(self.fc2, width, hidden)?,
            finish: [finish(0)?, finish(1)?],
        };
        Ok(Block {
            params,
            attention: form.attention.clone(),
            activation: form.activation,
            norm_first: form.norm_first,
            rates: form.rates,
        })
    }
}

/// Names of a block whose layers all have biases: both norms; query, key, value
/// and output of the attention; both layers of the MLP.
pub(crate) struct BlockNames {
    pub(crate) norms: [&'static str; 2],
    pub(crate) attention: [&'static str; 4],
    pub(crate) mlp: [&'static str; 2],
}

/// Names in CLIP of `transformers`.
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

/// Names in BERT of `transformers`.
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

/// Names in DistilBERT of `transformers`.
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
    /// Converts them to names of single layers.
    pub(crate) const fn layers(&self) -> BlockLayers {
        let [query, key, value, out] = self.attention;
        BlockLayers {
            norm1: Some(self.norms[0]),
            query: LayerName::new(query),
            key: LayerName::new(key),
            value: LayerName::new(value),
            out: LayerName::new(out),
            head_norms: None,
            norm2: self.norms[1],
            fc1: LayerName::new(self.mlp[0]),
            gate: None,
            fc2: LayerName::new(self.mlp[1]),
            finish: None,
        }
    }

    /// Returns the names and shapes of the tensors of the block `name`.
    pub(crate) fn tensors(
        &self,
        name: &str,
        width: usize,
        hidden: usize,
    ) -> Vec<(String, Vec<usize>)> {
        let form = BlockForm {
            width,
            hidden,
            activation: Activation::Gelu,
            norm: NormKind::Layer,
            eps: 0.0,
            norm_first: false,
            // The shapes don't depend on the number of heads.
            attention: AttentionConfig::new(width, 1),
            rates: BlockRates::default(),
        };
        self.layers().tensors(name, &form)
    }
}
