//! Modules that transform pooled embeddings.

use candle_core::Tensor;
use serde_json::Value;

use super::dense::{Dense, DenseSpec, only_embeddings};
use crate::{
    Error, Result,
    onnx::{self, Edge, Graph},
    ops::{LayerNorm, Pass, Site, dropout_examples, layer_norm, normalize},
    params::Params,
};

/// Prefix of the modules' tensor names.
pub(crate) const PREFIX: &str = "modules.";
/// Epsilon of `torch.nn.LayerNorm`.
const LAYER_NORM_EPS: f32 = 1e-5;

/// A module, as its folder describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The class of sentence-transformers, as in `modules.json`.
    pub(crate) class: String,
    /// Its `config.json`, which is saved unchanged.
    pub(crate) config: Value,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dense(DenseSpec),
    LayerNorm(usize),
    Normalize,
    /// The dropout rate.
    Dropout(f32),
}

impl LayerSpec {
    /// Parses the `config.json` of a module of this class; `None` if it is none
    /// of these modules. `shown` is the file's name in errors.
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
                        "{shown}: `dimension` is {}; give a positive number",
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

    /// Returns the name of the module's folder, without its number.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Dense(_) => "Dense",
            Kind::LayerNorm(_) => "LayerNorm",
            Kind::Normalize => "Normalize",
            Kind::Dropout(_) => "Dropout",
        }
    }

    /// Returns whether the module has no weights and keeps the embedding
    /// dimension.
    fn has_no_weights(&self) -> bool {
        matches!(self.kind, Kind::Normalize | Kind::Dropout(_))
    }

    /// Returns whether the module applies dropout in training.
    pub(crate) fn has_dropout(&self) -> bool {
        matches!(self.kind, Kind::Dropout(rate) if rate > 0.0)
    }

    /// Returns the names and shapes of its tensors, as in its folder.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        match &self.kind {
            Kind::Dense(dense) => dense.tensors(),
            Kind::LayerNorm(dim) => {
                vec![("norm.weight", vec![*dim]), ("norm.bias", vec![*dim])]
            }
            Kind::Normalize | Kind::Dropout(_) => Vec::new(),
        }
    }

    /// Returns the output dimension for embeddings of dimension `inputs`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the module takes another dimension.
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
            "the module `{}` takes embeddings of dimension {wanted}, but its input has dimension \
             {inputs}: its files don't match the pooling or the preceding module",
            self.name()
        )))
    }
}

/// Returns the rate of a `Dropout`, with the default of sentence-transformers.
fn dropout_rate(config: &Value, shown: &str) -> Result<f32> {
    let value = match &config["dropout"] {
        Value::Null => return Ok(0.2),
        value => value,
    };
    let rate = value.as_f64().filter(|rate| (0.0..1.0).contains(rate));
    rate.map(|rate| rate as f32).ok_or_else(|| {
        Error::checkpoint(format!(
            "{shown}: `dropout` is {value}; give a number from 0 to below 1"
        ))
    })
}

/// Returns the position of a projection head among modules: before a final
/// `Normalize`, so that embeddings remain normalised.
pub(crate) fn head_position(specs: &[LayerSpec]) -> usize {
    let after = specs.iter().rev().take_while(|spec| spec.has_no_weights());
    specs.len() - after.count()
}

/// A module with its weights.
pub(crate) enum Layer {
    Dense(Dense),
    LayerNorm(LayerNorm),
    Normalize,
    Dropout(Site, f32),
}

impl Layer {
    /// Loads the module at `index`.
    pub(crate) fn load(spec: &LayerSpec, index: usize, params: &Params) -> Result<Self> {
        let name = |part: &str| format!("{PREFIX}{index}.{part}");
        Ok(match &spec.kind {
            Kind::Dense(dense) => Self::Dense(Dense::load(dense, name, params)?),
            Kind::LayerNorm(dim) => Self::LayerNorm(LayerNorm::load(
                params,
                &name("norm"),
                *dim,
                LAYER_NORM_EPS,
            )?),
            Kind::Normalize => Self::Normalize,
            Kind::Dropout(rate) => Self::Dropout(Site::Module(index), *rate),
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

    /// Writes [`Layer::forward`] as ONNX operators.
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
