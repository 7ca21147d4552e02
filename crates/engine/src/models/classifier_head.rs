//! Classification heads, as architectures describe them.

use serde::Deserialize;

use crate::{
    modules::Activation,
    ops::{NormKind, Pooler},
};

/// The layers of a classifier on top of its network.
#[derive(Clone, Debug)]
pub(crate) struct ClassifierHead {
    /// The prefix of the names of the network's own tensors in a saved
    /// classifier.
    pub(super) prefix: &'static str,
    /// How the places of a text become one vector.
    pub(super) pooler: Pooler,
    /// In their order; the last one gives the scores.
    pub(super) layers: Vec<HeadLayer>,
}

/// A layer of a classification head.
#[derive(Clone, Debug)]
pub(crate) enum HeadLayer {
    /// A linear map and an activation, as wide as the network.
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
    /// A linear map to a score for each label.
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
    /// The head of a RoBERTa and its relatives.
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

/// An activation as a `config.json` names it.
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
