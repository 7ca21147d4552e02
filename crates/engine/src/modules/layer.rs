//! A module that works on pooled embeddings.

use candle_core::Tensor;
use serde_json::Value;

use super::dense::{Dense, DenseSpec, only_embeddings};
use crate::{
    Error, Result,
    onnx::{self, Edge, Graph},
    ops::{LayerNorm, Pass, Site, dropout_examples, layer_norm, normalize},
    params::Params,
};

/// The names of the modules' tensors begin with this.
pub(crate) const PREFIX: &str = "modules.";
/// Under the root of `torch.nn.LayerNorm`.
const LAYER_NORM_EPS: f32 = 1e-5;

/// A module as its folder describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The class of sentence-transformers, as `modules.json` has it.
    pub(crate) class: String,
    /// Its `config.json`, which is written again as it is.
    pub(crate) config: Value,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dense(DenseSpec),
    LayerNorm(usize),
    Normalize,
    /// The share of elements that training drops.
    Dropout(f32),
}

impl LayerSpec {
    /// Reads the `config.json` of a module of this class, which `shown` names
    /// in errors; `None` where the class is none of these modules.
    pub(crate) fn parse(
        class: &str,
        config: Value,
        shown: &str,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>> {
        let kind = match class.rsplit('.').next().unwrap_or_default() {
            "Dense" => Kind::Dense(DenseSpec::parse(&config, shown, notes)?),
            "LayerNorm" => {
                let dim = config["dimension"].as_u64().filter(|n| *n > 0);
                Kind::LayerNorm(dim.ok_or_else(|| {
                    Error::checkpoint(format!(
                        "{shown}: `dimension` is {}; a positive number is wanted",
                        config["dimension"]
                    ))
                })? as usize)
            }
            "Normalize" => {
                only_embeddings(&config, shown)?;
                Kind::Normalize
            }
            "Dropout" => Kind::Dropout(dropout_rate(&config, shown)?),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            class: class.to_owned(),
            config,
            kind,
        }))
    }

    /// The folder's name, after its number.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Dense(_) => "Dense",
            Kind::LayerNorm(_) => "LayerNorm",
            Kind::Normalize => "Normalize",
            Kind::Dropout(_) => "Dropout",
        }
    }

    /// Whether it changes nothing that training could learn, and keeps the
    /// length of embeddings.
    fn has_no_weights(&self) -> bool {
        matches!(self.kind, Kind::Normalize | Kind::Dropout(_))
    }

    /// Whether it drops elements in training.
    pub(crate) fn has_dropout(&self) -> bool {
        matches!(self.kind, Kind::Dropout(rate) if rate > 0.0)
    }

    /// Name and shape of its tensors, as its folder has them.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        match &self.kind {
            Kind::Dense(dense) => dense.tensors(),
            Kind::LayerNorm(dim) => {
                vec![("norm.weight", vec![*dim]), ("norm.bias", vec![*dim])]
            }
            Kind::Normalize | Kind::Dropout(_) => Vec::new(),
        }
    }

    /// Length of the embeddings that it gives for those of length `inputs`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it takes another length.
    pub(crate) fn dim(&self, inputs: usize) -> Result<usize> {
        let (wanted, given) = match &self.kind {
            Kind::Dense(dense) => (dense.inputs, dense.outputs),
            Kind::LayerNorm(dim) => (*dim, *dim),
            Kind::Normalize | Kind::Dropout(_) => return Ok(inputs),
        };
        if wanted == inputs {
            return Ok(given);
        }
        Err(Error::checkpoint(format!(
            "the module `{}` takes embeddings of length {wanted}; those before it have length \
             {inputs}. Its length and the pooling must fit each other",
            self.name()
        )))
    }
}

/// The rate of a `Dropout`, with the default of sentence-transformers.
fn dropout_rate(config: &Value, shown: &str) -> Result<f32> {
    let value = match &config["dropout"] {
        Value::Null => return Ok(0.2),
        value => value,
    };
    let rate = value.as_f64().filter(|rate| (0.0..1.0).contains(rate));
    rate.map(|rate| rate as f32).ok_or_else(|| {
        Error::checkpoint(format!(
            "{shown}: `dropout` is {value}; from 0 to below 1 is possible"
        ))
    })
}

/// The place among modules at which a projection head goes: before a
/// `Normalize` at their end, so that embeddings stay as long as they were.
pub(crate) fn head_place(specs: &[LayerSpec]) -> usize {
    let behind = specs.iter().rev().take_while(|spec| spec.has_no_weights());
    specs.len() - behind.count()
}

/// A module with its weights.
pub(crate) enum Layer {
    Dense(Dense),
    LayerNorm(LayerNorm),
    Normalize,
    Dropout(Site, f32),
}

impl Layer {
    /// Takes the weights of the module at `place`.
    pub(crate) fn load(spec: &LayerSpec, place: usize, params: &Params) -> Result<Self> {
        let name = |part: &str| format!("{PREFIX}{place}.{part}");
        Ok(match &spec.kind {
            Kind::Dense(dense) => Self::Dense(Dense::load(dense, name, params)?),
            Kind::LayerNorm(dim) => Self::LayerNorm(LayerNorm::load(
                params,
                &name("norm"),
                *dim,
                LAYER_NORM_EPS,
            )?),
            Kind::Normalize => Self::Normalize,
            Kind::Dropout(rate) => Self::Dropout(Site::Module(place), *rate),
        })
    }

    pub(crate) fn forward(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.forward(pass, x),
            Self::LayerNorm(norm) => layer_norm(pass, x, norm),
            Self::Normalize => normalize(x),
            Self::Dropout(site, rate) => dropout_examples(pass, x, (*site, *rate)),
        }
    }

    /// As [`Layer::forward`], in a graph.
    pub(crate) fn onnx(&self, graph: &mut Graph, x: &Edge) -> Edge {
        match self {
            Self::Dense(dense) => dense.onnx(graph, x),
            Self::LayerNorm(norm) => onnx::layer_norm(graph, x, norm),
            Self::Normalize => onnx::normalize(graph, x),
            Self::Dropout(..) => x.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modules_that_work_on_tokens_are_refused_by_field() {
        let mut notes = Vec::new();
        let class = "sentence_transformers.models.Normalize";
        let config = json!({"module_input_name": "token_embeddings"});
        let error = LayerSpec::parse(class, config, "2_Normalize/config.json", &mut notes)
            .unwrap_err()
            .to_string();
        for part in [
            "2_Normalize/config.json",
            "module_input_name",
            "token_embeddings",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
