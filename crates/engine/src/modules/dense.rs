//! `Dense` of sentence-transformers: a linear layer and an activation,
//! optionally with a residual connection.

use candle_core::Tensor;
use serde_json::Value;

use crate::{
    Error, Result,
    kernels::simd::Curve,
    onnx::{self, Attribute, Edge, Graph},
    ops::{Linear, Pass, linear},
    params::Params,
};

/// Supported activations of `torch.nn`, with their default options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Returns its input.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`
    Relu,
    /// `x * Phi(x)`
    Gelu,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x * sigmoid(x)`
    Silu,
    /// `max(x, 0)`, plus 0.01 times negative values.
    LeakyRelu,
    /// `x`, or `exp(x) - 1` for negative values.
    Elu,
}

/// Prefix of PyTorch's class paths.
pub(super) const TORCH: &str = "torch.";

const ACTIVATIONS: [(&str, Activation); 8] = [
    ("Identity", Activation::Identity),
    ("Tanh", Activation::Tanh),
    ("ReLU", Activation::Relu),
    ("GELU", Activation::Gelu),
    ("Sigmoid", Activation::Sigmoid),
    ("SiLU", Activation::Silu),
    ("LeakyReLU", Activation::LeakyRelu),
    ("ELU", Activation::Elu),
];

impl Activation {
    /// Parses the class path in a `config.json`.
    fn parse(config: &Value, shown: &str, notes: &mut Vec<String>) -> Result<Self> {
        let path = match &config["activation_function"] {
            Value::Null => return Ok(Self::Tanh),
            Value::String(path) => path,
            other => {
                return Err(Error::checkpoint(format!(
                    "{shown}: `activation_function` is {other}; give the path of a class"
                )));
            }
        };
        if !path.starts_with(TORCH) {
            notes.push(format!(
                "{shown}: the activation `{path}` is not one of PyTorch's. Tanh is used \
                 instead, as in sentence-transformers"
            ));
            return Ok(Self::Tanh);
        }
        Self::of_path(path).map_err(|reason| Error::checkpoint(format!("{shown}: {reason}")))
    }

    /// Returns the activation of a PyTorch class, such as
    /// `torch.nn.modules.activation.Sigmoid`.
    pub(crate) fn of_path(path: &str) -> Result<Self, String> {
        let name = path.rsplit('.').next().unwrap_or_default();
        let found = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        found.map(|(_, activation)| *activation).ok_or_else(|| {
            let known = ACTIVATIONS.map(|(name, _)| name).join(", ");
            format!("the activation `{path}` is not supported; supported are {known}")
        })
    }

    /// Returns the path of the activation's class in PyTorch.
    pub(crate) fn path(self) -> String {
        let found = ACTIVATIONS.iter().find(|(_, known)| *known == self);
        let name = found.map_or("Identity", |(name, _)| name);
        let module = match self {
            Self::Identity => "linear",
            _ => "activation",
        };
        format!("torch.nn.modules.{module}.{name}")
    }

    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Identity => x.clone(),
            Self::Tanh => x.tanh()?,
            Self::Relu => x.relu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::Sigmoid => (x * 0.5)?.tanh()?.affine(0.5, 0.5)?,
            Self::Silu => x.silu()?,
            Self::LeakyRelu => (x.relu()? - (x.neg()?.relu()? * 0.01)?)?,
            Self::Elu => x.elu(1.0)?,
        })
    }

    pub(crate) fn onnx(self, graph: &mut Graph, x: &Edge) -> Edge {
        let alpha = [Attribute::Float("alpha", 0.01)];
        match self {
            Self::Identity => x.clone(),
            Self::Tanh => graph.op("Tanh", &[x], &[]),
            Self::Relu => graph.op("Relu", &[x], &[]),
            Self::Gelu => onnx::gelu(graph, x),
            Self::Sigmoid => graph.op("Sigmoid", &[x], &[]),
            Self::Silu => onnx::curve(graph, x, Curve::Swish),
            Self::LeakyRelu => graph.op("LeakyRelu", &[x], &alpha),
            Self::Elu => graph.op("Elu", &[x], &[]),
        }
    }
}

/// Sizes and activation of a `Dense`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DenseSpec {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    bias: bool,
    residual: bool,
    activation: Activation,
}

impl DenseSpec {
    pub(super) fn parse(config: &Value, shown: &str, notes: &mut Vec<String>) -> Result<Self> {
        let length = |field: &str| {
            let length = config[field].as_u64().filter(|n| (1..1 << 24).contains(n));
            length.map(|n| n as usize).ok_or_else(|| {
                Error::checkpoint(format!(
                    "{shown}: `{field}` is {}; give a number from 1 to {}",
                    config[field],
                    (1 << 24) - 1
                ))
            })
        };
        let flag = |field: &str, default: bool| match &config[field] {
            Value::Null => Ok(default),
            Value::Bool(flag) => Ok(*flag),
            other => Err(Error::checkpoint(format!(
                "{shown}: `{field}` is {other}; give true or false"
            ))),
        };
        only_embeddings(config, shown)?;
        Ok(Self {
            inputs: length("in_features")?,
            outputs: length("out_features")?,
            bias: flag("bias", true)?,
            residual: flag("use_residual", false)?,
            activation: Activation::parse(config, shown, notes)?,
        })
    }

    /// Returns whether the residual connection has its own weight.
    fn projects(&self) -> bool {
        self.residual && self.inputs != self.outputs
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        let shape = vec![self.outputs, self.inputs];
        let mut all = vec![("linear.weight", shape.clone())];
        if self.bias {
            all.push(("linear.bias", vec![self.outputs]));
        }
        if self.projects() {
            all.push(("residual.weight", shape));
        }
        all
    }
}

/// A `Dense` with its weights.
pub(crate) struct Dense {
    linear: Linear,
    activation: Activation,
    residual: Residual,
}

enum Residual {
    None,
    /// The input is added unchanged.
    Input,
    Projected(Linear),
}

impl Dense {
    /// Loads the weights; `name` maps their short names to those in `params`.
    pub(super) fn load(
        spec: &DenseSpec,
        name: impl Fn(&str) -> String,
        params: &Params,
    ) -> Result<Self> {
        let (inputs, outputs) = (spec.inputs, spec.outputs);
        Ok(Self {
            linear: Linear::load(params, &name("linear"), inputs, outputs, spec.bias)?,
            activation: spec.activation,
            residual: match (spec.residual, spec.projects()) {
                (false, _) => Residual::None,
                (true, false) => Residual::Input,
                (true, true) => Residual::Projected(Linear::load(
                    params,
                    &name("residual"),
                    inputs,
                    outputs,
                    false,
                )?),
            },
        })
    }

    pub(super) fn forward(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let y = self.activation.forward(&linear(pass, x, &self.linear)?)?;
        Ok(match &self.residual {
            Residual::None => y,
            Residual::Input => (y + x)?,
            Residual::Projected(layer) => (y + linear(pass, x, layer)?)?,
        })
    }

    /// Writes [`Dense::forward`] as ONNX operators.
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Edge) -> Edge {
        let y = onnx::linear(graph, x, &self.linear);
        let y = self.activation.onnx(graph, &y);
        let residual = match &self.residual {
            Residual::None => return y,
            Residual::Input => x.clone(),
            Residual::Projected(layer) => onnx::linear(graph, x, layer),
        };
        graph.op("Add", &[&y, &residual], &[])
    }
}

/// Refuses modules whose input or output is not the pooled embedding.
pub(super) fn only_embeddings(config: &Value, shown: &str) -> Result<()> {
    for field in ["module_input_name", "module_output_name"] {
        match &config[field] {
            Value::Null => {}
            Value::String(name) if name == "sentence_embedding" => {}
            other => {
                return Err(Error::checkpoint(format!(
                    "{shown}: `{field}` is {other}; only \"sentence_embedding\" is supported"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(activation: Value) -> (Result<DenseSpec>, Vec<String>) {
        let mut notes = Vec::new();
        let mut config = json!({"in_features": 3, "out_features": 2});
        config["activation_function"] = activation;
        let spec = DenseSpec::parse(&config, "2_Dense/config.json", &mut notes);
        (spec, notes)
    }

    #[test]
    fn an_activation_is_used_replaced_as_in_python_or_refused_by_name() {
        let (spec, notes) = parse(json!("torch.nn.modules.activation.GELU"));
        assert_eq!(spec.unwrap().activation, Activation::Gelu);
        assert!(notes.is_empty());
        let (spec, notes) = parse(json!("my_code.Swish"));
        assert_eq!(spec.unwrap().activation, Activation::Tanh);
        assert!(notes[0].contains("my_code.Swish"), "{notes:?}");
        let (spec, _) = parse(json!("torch.nn.modules.activation.Hardswish"));
        let error = spec.unwrap_err().to_string();
        assert!(
            error.contains("Hardswish") && error.contains("GELU"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_length_is_refused_by_its_field() {
        let config = json!({"in_features": 0, "out_features": 2});
        let error = DenseSpec::parse(&config, "2_Dense/config.json", &mut Vec::new());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`in_features` is 0"), "{error}");
    }
}
