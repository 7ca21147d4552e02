//! A multilayer perceptron that maps feature vectors from elsewhere to
//! embeddings.

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Architecture, Input, ModelKind, Network};
use crate::{
    Error, Result,
    modules::Activation,
    onnx::{self, Edge, Graph, Inputs},
    ops::{Linear, Pass, Pooler, linear, normalize},
    params::Params,
};

/// Sizes of a multilayer perceptron.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MlpConfig {
    /// Number of input features.
    pub input_size: usize,
    /// Width of each layer. The last one is the embedding dimension.
    #[serde(default)]
    pub hidden_sizes: Vec<usize>,
    /// Whether the layers have biases.
    #[serde(default = "yes")]
    pub bias: bool,
    /// `relu`, `tanh`, `sigmoid` or none, after every layer except the last.
    #[serde(default)]
    pub activation: Option<String>,
    /// Whether embeddings are normalised to length 1.
    #[serde(default)]
    pub l2: bool,
}

fn yes() -> bool {
    true
}

/// The largest width of a layer.
const WIDEST: usize = 65_536;
/// The largest number of weights of all layers, 1 GiB.
const MOST_WEIGHTS: u64 = 1 << 28;

impl MlpConfig {
    /// Parses `model_options`, or a `config.json` of the type `mlp`.
    ///
    /// # Errors
    /// [`Error::Config`] if a field is missing or invalid.
    pub fn parse(json: &Value) -> Result<Self> {
        let bad = |reason: String| Error::config("model_options", reason);
        let config = Self::deserialize(json).map_err(|e| bad(format!("`mlp`: {e}")))?;
        let sizes = std::iter::once(&config.input_size).chain(&config.hidden_sizes);
        if let Some(size) = sizes.into_iter().find(|n| **n == 0 || **n > WIDEST) {
            return Err(bad(format!(
                "`input_size` and `hidden_sizes`: {size}; widths range from 1 to {WIDEST}"
            )));
        }
        if config.hidden_sizes.is_empty() {
            return Err(bad(
                "`hidden_sizes` is empty: give the width of at least one layer, such as [128]"
                    .to_owned(),
            ));
        }
        let weights = config
            .widths()
            .map(|(inputs, outputs)| inputs as u64 * outputs as u64);
        let weights: u64 = weights.sum();
        if weights > MOST_WEIGHTS {
            return Err(bad(format!(
                "`input_size` and `hidden_sizes`: {weights} weights; at most {MOST_WEIGHTS} are \
                 supported: give fewer or narrower layers"
            )));
        }
        match config.activation.as_deref() {
            None | Some("relu" | "tanh" | "sigmoid") => Ok(config),
            Some(other) => Err(bad(format!(
                "`activation` is `{other}`; relu, tanh and sigmoid are known"
            ))),
        }
    }

    fn widths(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let inputs = std::iter::once(&self.input_size).chain(&self.hidden_sizes);
        inputs.zip(&self.hidden_sizes).map(|(i, o)| (*i, *o))
    }
}

/// Parses a `config.json` of the type `mlp`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    Ok(Arc::new(MlpConfig::parse(json)?))
}

impl Architecture for MlpConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Features
    }

    fn dim(&self) -> usize {
        self.hidden_sizes.last().copied().unwrap_or(0)
    }

    fn family(&self) -> &'static str {
        "mlp"
    }

    fn features(&self) -> Option<usize> {
        Some(self.input_size)
    }

    fn starts_random(&self) -> bool {
        true
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(Mlp::new(self, params)?))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for (layer, (inputs, outputs)) in self.widths().enumerate() {
            all.push((format!("hidden.{layer}.weight"), vec![outputs, inputs]));
            if self.bias {
                all.push((format!("hidden.{layer}.bias"), vec![outputs]));
            }
        }
        all
    }
}

struct Mlp {
    layers: Vec<Linear>,
    activation: Option<String>,
    l2: bool,
}

impl Mlp {
    fn new(config: &MlpConfig, params: &Params) -> Result<Self> {
        let layers = config
            .widths()
            .enumerate()
            .map(|(layer, (inputs, outputs))| {
                Linear::load(
                    params,
                    &format!("hidden.{layer}"),
                    inputs,
                    outputs,
                    config.bias,
                )
            });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            activation: config.activation.clone(),
            l2: config.l2,
        })
    }

    fn encode_features(&self, pass: &Pass, features: &Tensor) -> Result<Tensor> {
        let mut x = features.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = linear(pass, &x, layer)?;
            if i + 1 < self.layers.len() {
                x = match self.activation.as_deref() {
                    Some("relu") => x.relu()?,
                    Some("tanh") => x.tanh()?,
                    Some("sigmoid") => Activation::Sigmoid.forward(&x)?,
                    _ => x,
                };
            }
        }
        if self.l2 { normalize(&x) } else { Ok(x) }
    }

    /// Writes [`Mlp::encode_features`] as ONNX operators.
    fn onnx_features(&self, graph: &mut Graph, features: &Edge) -> Edge {
        let mut x = features.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = onnx::linear(graph, &x, layer);
            let curve = self.activation.as_deref().and_then(|name| match name {
                "relu" => Some("Relu"),
                "tanh" => Some("Tanh"),
                "sigmoid" => Some("Sigmoid"),
                _ => None,
            });
            if let (true, Some(curve)) = (i + 1 < self.layers.len(), curve) {
                x = graph.op(curve, &[&x], &[]);
            }
        }
        match self.l2 {
            true => onnx::normalize(graph, &x),
            false => x,
        }
    }
}

impl Network for Mlp {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Features(features) => self.encode_features(pass, features).map(Some),
            _ => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        Ok(match inputs {
            Inputs::Features(features) => Some(self.onnx_features(graph, features)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;
    use serde_json::json;

    use super::*;
    use crate::models::{Model, ModelConfig, ModelSetup};

    #[test]
    fn too_many_weights_are_refused_before_they_are_allocated() {
        let sizes = |hidden: &[usize]| {
            MlpConfig::parse(&json!({"input_size": 65_536, "hidden_sizes": hidden})).map(drop)
        };
        sizes(&[4096]).unwrap();
        for hidden in [&[4096, 1][..], &[65_536; 50]] {
            let error = sizes(hidden).unwrap_err().to_string();
            let limit = "weights; at most 268435456 are supported: give fewer";
            assert!(error.contains(limit), "{error}");
        }
    }

    #[test]
    fn far_negative_values_have_a_finite_gradient_through_the_sigmoid() {
        let json = json!({
            "model_type": "mlp", "input_size": 1, "hidden_sizes": [1, 1], "activation": "sigmoid",
            "bias": false,
        });
        let config = ModelConfig::parse(&json).unwrap();
        let weight = |layer: usize| (format!("hidden.{layer}.weight"), (vec![1, 1], vec![1.0]));
        let tensors = HashMap::from([weight(0), weight(1)]);
        let setup = ModelSetup::default();
        let model = Model::new(config, tensors, setup, &Device::Cpu).unwrap();
        let features = Tensor::new(&[[-1000f32]], &Device::Cpu).unwrap();
        let found = model.encode(&model.training(), &Input::Features(features));
        let loss = found.unwrap().sum_all().unwrap();
        model.params().backward(&loss).unwrap();
        for param in model.params().iter() {
            assert_eq!(param.gradient().unwrap(), Some(vec![0.0]));
        }
    }
}
