//! The layers of a transformer block, and how checkpoints call them.

use super::{
    Activation, AttentionConfig, Block, BlockRates, LayerNorm, Linear, NormKind,
    block_finish::Finish,
};
use crate::{Result, params::Params};

/// The layers of a block.
#[derive(Clone)]
pub(crate) struct BlockParams {
    /// Absent where another norm comes directly before the block, as before the
    /// first one of a ModernBERT.
    pub(crate) norm1: Option<LayerNorm>,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
    /// Norms of each head of the queries and of the keys, before they are
    /// turned by their places.
    pub(crate) head_norms: Option<[LayerNorm; 2]>,
    pub(crate) norm2: LayerNorm,
    pub(crate) fc1: Linear,
    /// A second layer beside `fc1`, whose output the activation's is multiplied
    /// with (Shazeer 2020, arXiv:2002.05202).
    pub(crate) gate: Option<Linear>,
    pub(crate) fc2: Linear,
    /// What is done to the output of both halves before it is added.
    pub(crate) finish: [Option<Finish>; 2],
}

/// Shapes of a block, and how it computes.
#[derive(Clone)]
pub(crate) struct BlockForm {
    /// Elements of a row.
    pub(crate) width: usize,
    /// Elements of a row inside the MLP.
    pub(crate) hidden: usize,
    pub(crate) activation: Activation,
    pub(crate) norm: NormKind,
    pub(crate) eps: f32,
    /// Whether the norms come before the halves.
    pub(crate) norm_first: bool,
    pub(crate) attention: AttentionConfig,
    /// Dropout in training.
    pub(crate) rates: BlockRates,
}

/// The name of a linear layer in a checkpoint, below the block's.
#[derive(Clone, Copy)]
pub(crate) struct LayerName {
    name: &'static str,
    bias: bool,
    /// Its number among the equal layers that share the tensor, and how many
    /// they are.
    part: (usize, usize),
}

impl LayerName {
    /// A layer with a bias.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            bias: true,
            part: (0, 1),
        }
    }

    /// The same with a bias or without.
    pub(crate) const fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// The part `part` of a tensor that holds `parts` layers.
    pub(crate) const fn part(self, part: usize, parts: usize) -> Self {
        Self {
            part: (part, parts),
            ..self
        }
    }

    /// The tensors of this layer; of a shared tensor the first layer has them.
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

/// The names of all layers of a block in a checkpoint; see [`BlockParams`].
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

/// The names of the operations that finish both halves; see [`Finish`].
#[derive(Clone, Copy)]
pub(crate) enum FinishNames {
    /// Tensors of a factor for each element, as in DINOv2.
    Scales([&'static str; 2]),
    /// Norms.
    Norms([&'static str; 2]),
}

impl BlockLayers {
    /// Name, outputs and inputs of each linear layer.
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

    /// Name and shape of each tensor of the block `name`.
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

    /// Takes the layers of the block `name`.
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

/// How a block whose layers all have biases calls them: both norms, query, key,
/// value, the attention's output, and the two layers of the MLP.
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
    /// The same as the names of single layers.
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

    /// Name and shape of each tensor of the block `name`.
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
