//! Sequence classifiers: a text network with a classification head, which
//! returns a score per label instead of an embedding. Cross-encoders are such
//! models: they read a pair of texts as one sequence.
//!
//! [`Architecture::classifier`] describes the head of an architecture's
//! classifiers. Names and behaviour follow the `...ForSequenceClassification`
//! classes of Hugging Face's `transformers`.

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use serde_json::{Value, json};

use super::{
    Architecture, Input, ModelKind, Network,
    classifier_head::{ClassifierHead, HeadLayer},
    encoder::bad_config,
    registry,
};
use crate::{
    Result,
    modules::Activation,
    onnx::{self, Edge, Graph, Inputs},
    ops::{LayerNorm, Linear, Pass, Pooler, layer_norm, linear},
    params::{Params, RawTensor},
    random::normal_weights,
};

/// Suffix of the names of classifier classes.
const CLASS: &str = "ForSequenceClassification";
/// Prefixes of the class names, by the `model_type` of a `config.json`.
const CLASSES: [(&str, &str); 7] = [
    ("bert", "Bert"),
    ("camembert", "Camembert"),
    ("distilbert", "DistilBert"),
    ("modernbert", "ModernBert"),
    ("mpnet", "MPNet"),
    ("roberta", "Roberta"),
    ("xlm-roberta", "XLMRoberta"),
];
/// Number of labels if `config.json` has neither `id2label` nor `num_labels`.
const DEFAULT_LABELS: usize = 2;
/// Largest number of labels.
const MOST_LABELS: usize = 1 << 16;
/// Standard deviation of a new head's weights, as in `transformers`.
const SPREAD: f64 = 0.02;

/// Returns whether a `config.json` describes a sequence classifier.
pub(crate) fn is_classifier(json: &Value) -> bool {
    let class = json["architectures"][0].as_str();
    class.is_some_and(|class| class.ends_with(CLASS))
}

/// Returns the number of labels in a `config.json`, as `transformers` reads it;
/// 1 for a new head.
fn labels(json: &Value) -> Result<usize> {
    if !is_classifier(json) {
        return Ok(1);
    }
    let labels = match (&json["id2label"], &json["num_labels"]) {
        (Value::Object(names), _) => names.len(),
        (_, Value::Null) => DEFAULT_LABELS,
        (_, count) => count.as_u64().map_or(0, |count| count as usize),
    };
    match (1..=MOST_LABELS).contains(&labels) {
        true => Ok(labels),
        false => Err(bad_config(format!(
            "`id2label` or `num_labels` gives {labels} labels; 1 to {MOST_LABELS} are allowed"
        ))),
    }
}

/// Parses the `config.json` of a classifier.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let body = registry::parse(json)?;
    let head = body.classifier().ok_or_else(|| {
        let known: Vec<&str> = CLASSES.iter().map(|(kind, _)| *kind).collect();
        bad_config(format!(
            "a model of the type {} has no classification head; cross-encoders can have the \
             types {}",
            json["model_type"],
            known.join(", ")
        ))
    })?;
    let labels = labels(json)?;
    Ok(Arc::new(Classifier { body, head, labels }))
}

/// Changes a `config.json` so that it describes a classifier with a new head of
/// one label.
pub(crate) fn describe_classifier(config: &mut Value) {
    let kind = config["model_type"].as_str().unwrap_or_default();
    if let Some((_, class)) = CLASSES.iter().find(|(known, _)| *known == kind) {
        config["architectures"] = json!([format!("{class}{CLASS}")]);
    }
    config["id2label"] = json!({"0": "LABEL_0"});
    config["label2id"] = json!({"LABEL_0": 0});
    if let Some(fields) = config.as_object_mut() {
        fields.remove("num_labels");
    }
}

/// Changes the `config.json` of a classifier so that it describes only the
/// network, for a model that is saved without its classification head.
pub(crate) fn describe_network(config: &mut Value) {
    let class = config["architectures"][0].as_str();
    let network = class.and_then(|class| class.strip_suffix(CLASS));
    let known = |network: &&str| CLASSES.iter().any(|(_, known)| known == network);
    let renamed = network
        .filter(known)
        .map(|network| format!("{network}Model"));
    if let Some(class) = renamed {
        config["architectures"] = json!([class]);
    }
}

/// Adds new weights for head layers that a checkpoint lacks, and returns their
/// names.
pub(crate) fn new_head(
    architecture: &dyn Architecture,
    tensors: &mut HashMap<String, RawTensor>,
    seed: u64,
) -> Vec<String> {
    let mut added = Vec::new();
    for (index, (name, shape)) in architecture.tensors().into_iter().enumerate() {
        let saved = architecture.saved_name(&name);
        let is_there = tensors.contains_key(&name) || tensors.contains_key(&saved);
        if !architecture.trains_frozen(&name) || is_there {
            continue;
        }
        let count = shape.iter().product();
        let values = match (shape.len(), name.ends_with(".weight")) {
            (1, true) => vec![1.0; count],
            (1, false) => vec![0.0; count],
            _ => normal_weights(seed.wrapping_add(index as u64), count, SPREAD),
        };
        tensors.insert(name.clone(), (shape, values));
        added.push(name);
    }
    added
}

#[derive(Debug)]
struct Classifier {
    body: Arc<dyn Architecture>,
    head: ClassifierHead,
    labels: usize,
}

impl Classifier {
    /// Returns whether a tensor or layer is outside the network. BERT's pooler
    /// is part of its network.
    fn is_head(&self, name: &str) -> bool {
        let mut own = self.head_tensors().map(|(own, _)| own);
        let is_own = own.any(|own| own == name || own.strip_suffix(".weight") == Some(name));
        is_own && !name.starts_with("pooler.")
    }

    fn head_tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let width = self.head.pooler.dim(self.body.dim());
        let layers = self.head.layers.iter();
        layers.flat_map(move |layer| layer.tensors(width, self.labels))
    }
}

impl Architecture for Classifier {
    fn kind(&self) -> ModelKind {
        ModelKind::TextPairs
    }

    fn dim(&self) -> usize {
        self.labels
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = self.body.tensors();
        all.extend(self.head_tensors());
        all
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        let width = self.head.pooler.dim(self.body.dim());
        let load = |layer: &HeadLayer| {
            Ok(match layer {
                HeadLayer::Dense {
                    name,
                    bias,
                    activation,
                } => {
                    let linear = Linear::load(params, name, width, width, *bias)?;
                    Layer::Dense(linear, *activation)
                }
                HeadLayer::Norm { name, kind, eps } => {
                    Layer::Norm(LayerNorm::load_kind(params, name, width, *eps, *kind)?)
                }
                HeadLayer::Scores { name } => {
                    let linear = Linear::load(params, name, width, self.labels, true)?;
                    Layer::Dense(linear, Activation::Identity)
                }
            })
        };
        let layers = self.head.layers.iter().map(load);
        Ok(Box::new(ClassifierNetwork {
            layers: layers.collect::<Result<_>>()?,
            body: self.body.build(params, self.head.pooler)?,
        }))
    }

    fn family(&self) -> &'static str {
        self.body.family()
    }

    fn max_tokens(&self) -> Option<usize> {
        self.body.max_tokens()
    }

    fn counts_padding(&self) -> bool {
        self.body.counts_padding()
    }

    fn token_types(&self) -> usize {
        self.body.token_types()
    }

    fn vocab_size(&self) -> Option<usize> {
        self.body.vocab_size()
    }

    fn prefixes(&self) -> &'static [&'static str] {
        self.body.prefixes()
    }

    fn has_dropout(&self) -> bool {
        self.body.has_dropout()
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        self.body.aliases()
    }

    fn layer_prefixes(&self) -> &[&'static str] {
        self.body.layer_prefixes()
    }

    /// `freeze` leaves only the head trainable.
    fn trains_frozen(&self, name: &str) -> bool {
        self.head_tensors().any(|(own, _)| own == name)
    }

    fn frozen_dims(&self) -> Option<[usize; 2]> {
        Some([self.head.pooler.dim(self.body.dim()); 2])
    }

    fn module_name(&self, name: &str) -> String {
        match self.is_head(name) {
            true => name.to_owned(),
            false => format!("{}{}", self.head.prefix, self.body.module_name(name)),
        }
    }

    /// The network's tensors have the head's prefix.
    fn saved_name(&self, name: &str) -> String {
        match self.is_head(name) {
            true => name.to_owned(),
            false => format!("{}{name}", self.head.prefix),
        }
    }
}

enum Layer {
    Dense(Linear, Activation),
    Norm(LayerNorm),
}

struct ClassifierNetwork {
    body: Box<dyn Network>,
    layers: Vec<Layer>,
}

impl ClassifierNetwork {
    fn head(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let mut layers = self.layers.iter();
        layers.try_fold(x.clone(), |x, layer| match layer {
            Layer::Dense(dense, activation) => activation.forward(&linear(pass, &x, dense)?),
            Layer::Norm(norm) => layer_norm(pass, &x, norm),
        })
    }
}

impl Network for ClassifierNetwork {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        let x = self.body.encode(pass, input)?;
        x.map(|x| self.head(pass, &x)).transpose()
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let Some(mut x) = self.body.onnx(graph, inputs)? else {
            return Ok(None);
        };
        for layer in &self.layers {
            x = match layer {
                Layer::Dense(dense, activation) => {
                    let y = onnx::linear(graph, &x, dense);
                    activation.onnx(graph, &y)
                }
                Layer::Norm(norm) => onnx::layer_norm(graph, &x, norm),
            };
        }
        Ok(Some(x))
    }

    fn encode_frozen(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        self.body.encode(pass, input)
    }

    fn finish(&self, pass: &Pass, frozen: &Tensor, _: bool) -> Result<Tensor> {
        self.head(pass, frozen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_a_classifier_is_named_without_its_head() {
        for (class, wanted) in [
            ("XLMRobertaForSequenceClassification", "XLMRobertaModel"),
            ("BertModel", "BertModel"),
            (
                "Qwen3ForSequenceClassification",
                "Qwen3ForSequenceClassification",
            ),
        ] {
            let mut config = json!({"architectures": [class]});
            describe_network(&mut config);
            assert_eq!(config["architectures"], json!([wanted]));
        }
        let mut nothing = json!({"model_type": "bert"});
        describe_network(&mut nothing);
        assert_eq!(nothing, json!({"model_type": "bert"}));
    }

    #[test]
    fn layers_have_the_names_of_the_class() {
        let config = json!({"model_type": "bert"});
        let architecture = parse(&config).unwrap();
        for (own, theirs) in [
            (
                "encoder.layer.0.output.dense",
                "bert.encoder.layer.0.output.dense",
            ),
            ("pooler.dense.weight", "bert.pooler.dense.weight"),
            ("classifier", "classifier"),
            ("classifier.bias", "classifier.bias"),
        ] {
            assert_eq!(architecture.module_name(own), theirs);
        }
    }
}
