//! Descriptions of classification heads, for architectures to return.

use serde::Deserialize;

use crate::{
    modules::Activation,
    ops::{NormKind, Pooler},
};

/// The layers of a classifier on top of its network.
#[derive(Clone, Debug)]
pub(crate) struct ClassifierHead {
    /// Prefix of the network's own tensors in a saved classifier.
    pub(super) prefix: &'static str,
    /// Combines the tokens of a text into one vector.
    pub(super) pooler: Pooler,
    /// In order of computation; the last one returns the scores.
    pub(super) layers: Vec<HeadLayer>,
}

/// A layer of a classification head.
#[derive(Clone, Debug)]
pub(crate) enum HeadLayer {
    /// A linear layer with the network's width, and an activation.
    Dense {
        name: &'static str,
        bias: bool,
        activation: Activation,
    },
    /// A normalisation.
    Norm {
        name: &'static str,
        kind: NormKind,
        eps: f32,
    },
    /// A linear layer with one output per label.
    Scores { name: &'static str },
}

impl HeadLayer {
    pub(super) fn dense(name: &'static str, activation: Activation) -> Self {
        Self::Dense {
            name,
            bias: true,
            activation,
        }
    }

    pub(super) fn scores(name: &'static str) -> Self {
        Self::Scores { name }
    }

    pub(super) fn tensors(&self, width: usize, labels: usize) -> Vec<(String, Vec<usize>)> {
        let (name, outputs, bias) = match self {
            Self::Norm { name, kind, .. } => return kind.tensors(name, width),
            Self::Dense { name, bias, .. } => (name, width, *bias),
            Self::Scores { name } => (name, labels, true),
        };
        let mut all = vec![(format!("{name}.weight"), vec![outputs, width])];
        if bias {
            all.push((format!("{name}.bias"), vec![outputs]));
        }
        all
    }
}

impl ClassifierHead {
    /// Returns the head of RoBERTa and its relatives.
    pub(super) fn of_roberta(prefix: &'static str) -> Self {
        Self {
            prefix,
            pooler: Pooler::Cls,
            layers: vec![
                HeadLayer::dense("classifier.dense", Activation::Tanh),
                HeadLayer::scores("classifier.out_proj"),
            ],
        }
    }
}

/// An activation, by its name in a `config.json`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct HeadActivation(pub(super) Activation);

impl TryFrom<String> for HeadActivation {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(Self(match name.as_str() {
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            other => {
                return Err(format!(
                    "`classifier_activation` is `{other}`; gelu, relu, silu, swish and tanh are \
                     known"
                ));
            }
        }))
    }
}
