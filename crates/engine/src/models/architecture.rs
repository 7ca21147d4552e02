//! One interface for all architectures, and the list of them.
//!
//! A file of this folder describes one architecture: the fields of its
//! `config.json`, names and shapes of its tensors, and its forward pass. The
//! list at the end of this file has one line for it. Nothing else in the engine
//! asks which architecture a model has.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use candle_core::Tensor;
use serde_json::Value;

use super::{
    Input, ModelKind, classifier_head::ClassifierHead, clip, clip_vision, dinov2, efficientnet,
    gemma3, mlp, modernbert, mpnet, nomic_bert, pointnet, qwen3, resnet, siglip, siglip_vision, t5,
    text, two_towers, vit,
};
use crate::{
    Error, Result,
    image::ImageProcessor,
    onnx::{Edge, Graph, Inputs},
    ops::{Pass, Pooler},
    params::{Param, Params, RawTensor},
    random,
};

/// The shapes of one model, read from its `config.json`.
pub(crate) trait Architecture: Debug + Send + Sync {
    /// What it embeds.
    fn kind(&self) -> ModelKind;

    /// Length of the network's embeddings.
    fn dim(&self) -> usize;

    /// Name and shape of every tensor, in the order of the computation. Names
    /// are those of its own library.
    fn tensors(&self) -> Vec<(String, Vec<usize>)>;

    /// Builds the network from its weights. `pooler` says how the places of a
    /// text or a picture become one vector.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a tensor is missing or has another shape.
    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>>;

    /// The family that the Python Finetuner names in an artifact's metadata:
    /// `transformer`, `cnn`, `mlp` or `pointnet`.
    fn family(&self) -> &'static str;

    /// The longest text in tokens, for a model that reads texts.
    fn max_tokens(&self) -> Option<usize> {
        None
    }

    /// The number of tokens to which texts are filled up with padding, for a
    /// model that reads the padding too; `None` where padding counts for
    /// nothing.
    fn text_length(&self) -> Option<usize> {
        None
    }

    /// Whether places in front of a text, which are padding, change its embedding,
    /// since positions are counted from the first of them.
    fn counts_padding(&self) -> bool {
        false
    }

    /// Kinds of tokens that are told apart, such as those of the two texts of a
    /// pair; 1 where none are.
    fn token_kinds(&self) -> usize {
        1
    }

    /// Rows of the table of tokens, for a model that reads texts.
    fn vocab_size(&self) -> Option<usize> {
        None
    }

    /// Height and width of a picture in pixels, where the network takes one size
    /// alone.
    fn image_size(&self) -> Option<usize> {
        None
    }

    /// Length of the features, for a model that takes them.
    fn features(&self) -> Option<usize> {
        None
    }

    /// Points of a cloud that are used, for a model of point clouds.
    fn cloud_points(&self) -> Option<usize> {
        None
    }

    /// Prepares pictures as `preprocessor_config.json` says, or as is usual for
    /// this architecture where there is no such file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the file asks for steps that are not known.
    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let _ = file;
        Ok(None)
    }

    /// Prefixes of the names in checkpoints of this network with another top.
    fn prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether its `config.json` asks for dropout or stochastic depth in training.
    fn has_dropout(&self) -> bool {
        false
    }

    /// Other names of tensors in checkpoints, each with the name in
    /// [`Architecture::tensors`]. A tensor under its own name is preferred.
    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The name of a tensor or a layer in the classes of `transformers`, which
    /// from version 5 on may differ from the one in checkpoints.
    fn module_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Whether a tensor, though not used, is kept so that a saved model is
    /// whole.
    fn keeps(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// What stands before the number of a layer in the names of its tensors,
    /// such as `encoder.layer.`; empty for a network that is not made of layers
    /// of one kind.
    fn layer_marks(&self) -> &[&'static str] {
        &[]
    }

    /// How the places of a text or a picture become one vector where nothing
    /// else is said.
    fn default_pooler(&self) -> Pooler {
        Pooler::Mean
    }

    /// How `transformers` makes the `pooler_output` of this model: its pooling,
    /// and the name of the layer with a tanh behind it. `None` for a model
    /// without a `pooler_output`.
    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        None
    }

    /// Whether training changes a tensor of a frozen network, such as a
    /// projection on top of it.
    fn trains_frozen(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Lengths of what [`Network::encode_frozen`] makes of a text and of a
    /// picture, for a network of which training changes a part under `freeze`.
    fn frozen_dims(&self) -> Option<[usize; 2]> {
        None
    }

    /// What sequence classifiers of this network have on top of it; `None` where
    /// no library has such classifiers.
    fn classifier(&self) -> Option<ClassifierHead> {
        None
    }

    /// The name of a tensor in a saved model.
    fn saved_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Random weights of these shapes. The same seed gives the same weights.
    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        random::fresh(self.tensors(), seed).collect()
    }

    /// Whether a model without weights begins with random ones.
    fn begins_random(&self) -> bool {
        false
    }
}

/// A network with its weights.
pub(crate) trait Network: Send + Sync {
    /// Embeddings `[batch, dim]` of one batch, not normalised; `None` where the
    /// network takes no input of that kind.
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>>;

    /// How many layers there are whose output [`Network::encode_layers`] gives
    /// beside that of the last one; 0 for a network that doesn't.
    fn earlier_layers(&self) -> usize {
        0
    }

    /// As [`Network::encode`], also for the output of some earlier layers, as if
    /// they were the last: layer 0 is that of the tables, and so on. The last
    /// layer's embeddings come last.
    fn encode_layers(
        &self,
        pass: &Pass,
        input: &Input,
        layers: &[usize],
    ) -> Result<Option<Vec<Tensor>>> {
        let _ = (pass, input, layers);
        Ok(None)
    }

    /// What `encode` computes in evaluation, as operators of ONNX; `None` where
    /// the network takes no input of that kind, or can't be written so.
    ///
    /// # Errors
    /// Where the weights can't be read.
    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let _ = (graph, inputs);
        Ok(None)
    }

    /// The output of that part of the network that training leaves as it is under
    /// `freeze`.
    fn encode_frozen(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        self.encode(pass, input)
    }

    /// Embeddings from what [`Network::encode_frozen`] made of texts, or of
    /// pictures.
    fn finish(&self, pass: &Pass, frozen: &Tensor, texts: bool) -> Result<Tensor> {
        let _ = (pass, texts);
        Ok(frozen.clone())
    }

    /// The logarithm of the scale of a text-to-image model's similarities.
    fn logit_scale(&self) -> Option<&Arc<Param>> {
        None
    }

    /// The addend of a SigLIP's similarities.
    fn logit_bias(&self) -> Option<&Arc<Param>> {
        None
    }
}

/// Reads the `config.json` of an architecture.
type Parse = fn(&Value) -> Result<Arc<dyn Architecture>>;

/// Every architecture, by the `model_type` of its `config.json`.
const ARCHITECTURES: &[(&str, Parse)] = &[
    ("bert", text::parse_bert),
    ("camembert", text::parse_roberta),
    ("clip", clip::parse),
    ("clip_vision_model", clip_vision::parse),
    ("dinov2", dinov2::parse),
    ("distilbert", text::parse_distilbert),
    ("efficientnet", efficientnet::parse),
    ("gemma3_text", gemma3::parse),
    ("mlp", mlp::parse),
    ("modernbert", modernbert::parse),
    ("mpnet", mpnet::parse),
    ("nomic_bert", nomic_bert::parse),
    ("pointnet2", pointnet::parse),
    ("qwen3", qwen3::parse),
    ("resnet", resnet::parse),
    ("roberta", text::parse_roberta),
    ("siglip", siglip::parse),
    ("siglip2", siglip::parse_naflex),
    ("siglip_vision_model", siglip_vision::parse),
    ("t5", t5::parse),
    (two_towers::TWO_TOWERS, two_towers::parse),
    (two_towers::DUAL_ENCODER, two_towers::parse),
    ("vit", vit::parse),
    ("xlm-roberta", text::parse_roberta),
];

/// Reads a `config.json` by its `model_type`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let known = || {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    };
    let Some(kind) = json.get("model_type").and_then(Value::as_str) else {
        return Err(Error::checkpoint(format!(
            "config.json has no `model_type`: add it; {} are known",
            known()
        )));
    };
    if json
        .get("quantization_config")
        .is_some_and(|how| !how.is_null())
    {
        return Err(Error::checkpoint(
            "config.json has a `quantization_config`: weights that are quantized are not read. \
             Take the model that it was made from",
        ));
    }
    match ARCHITECTURES.iter().find(|(name, _)| *name == kind) {
        Some((_, parse)) => parse(json),
        None => Err(Error::checkpoint(format!(
            "config.json describes a model of type `{kind}`; {} are known",
            known()
        ))),
    }
}
