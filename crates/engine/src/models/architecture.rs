//! The interface of all architectures.
//!
//! Each architecture has a file in this folder. It describes the fields of its
//! `config.json`, the names and shapes of its tensors, and its forward pass.
//! `registry` lists them. Nothing else in the engine depends on which
//! architecture a model has.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use candle_core::Tensor;
use serde_json::Value;

use super::{Input, ModelKind, classifier_head::ClassifierHead};
use crate::{
    Result,
    image::ImageProcessor,
    onnx::{Edge, Graph, Inputs},
    ops::{Pass, Pooler},
    params::{Param, Params, RawTensor},
    random,
};

/// Name of the logarithm of the scale of a loss's similarities.
pub(super) const LOGIT_SCALE: &str = "logit_scale";
/// Name of the bias of a loss's similarities.
pub(super) const LOGIT_BIAS: &str = "logit_bias";

/// An architecture with its sizes, read from a `config.json`.
pub(crate) trait Architecture: Debug + Send + Sync {
    /// Returns the kind of input that the model embeds.
    fn kind(&self) -> ModelKind;

    /// Returns the dimension of the network's embeddings.
    fn dim(&self) -> usize;

    /// Returns the name and shape of every tensor, in order of computation,
    /// with the names of the architecture's own library.
    fn tensors(&self) -> Vec<(String, Vec<usize>)>;

    /// Builds the network from its weights. `pooler` combines the token or
    /// patch vectors of one input into one vector.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or has another shape.
    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>>;

    /// Returns the family that the Python Finetuner writes into an artifact's
    /// metadata: `transformer`, `cnn`, `mlp` or `pointnet`.
    fn family(&self) -> &'static str;

    /// Returns the longest text in tokens, if the model reads texts.
    fn max_tokens(&self) -> Option<usize> {
        None
    }

    /// Returns the length in tokens to which texts are padded, if the model
    /// attends to the padding. `None` if padding has no effect.
    fn text_length(&self) -> Option<usize> {
        None
    }

    /// Returns whether padding before a text changes its embedding. It does if
    /// positions are counted from the first padding token.
    fn counts_padding(&self) -> bool {
        false
    }

    /// Returns the number of token types, such as 2 for pairs of texts; 1 if
    /// the model has none.
    fn token_types(&self) -> usize {
        1
    }

    /// Returns the vocabulary size, if the model reads texts.
    fn vocab_size(&self) -> Option<usize> {
        None
    }

    /// Returns the height and width of images in pixels, if the network takes
    /// only one size.
    fn image_size(&self) -> Option<usize> {
        None
    }

    /// Returns the number of features, if the model takes feature vectors.
    fn features(&self) -> Option<usize> {
        None
    }

    /// Returns the number of points used of each cloud, if the model takes
    /// point clouds.
    fn cloud_points(&self) -> Option<usize> {
        None
    }

    /// Returns the image processor of a `preprocessor_config.json`, or the
    /// architecture's default if there is no such file.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if the file asks for unknown steps.
    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let _ = file;
        Ok(None)
    }

    /// Returns the name prefixes in checkpoints that hold this network under
    /// another head.
    fn prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns whether `config.json` asks for dropout or stochastic depth in
    /// training.
    fn has_dropout(&self) -> bool {
        false
    }

    /// Returns other names of tensors in checkpoints, each with its name in
    /// [`Architecture::tensors`]. If a checkpoint has both names, the latter
    /// wins.
    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Returns the name of a tensor or layer in the classes of `transformers`.
    /// From version 5 on it may differ from the name in checkpoints.
    fn module_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Returns whether an unused tensor is kept, so that a saved model is
    /// complete.
    fn keeps(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Returns the prefixes before a layer number in tensor names, such as
    /// `encoder.layer.`. Empty if the network has no uniform layers.
    fn layer_prefixes(&self) -> &[&'static str] {
        &[]
    }

    /// Returns the pooling to use if neither the model's files nor the user
    /// chooses one.
    fn default_pooler(&self) -> Pooler {
        Pooler::Mean
    }

    /// Returns how `transformers` computes the model's `pooler_output`: the
    /// pooling, and the name of the dense layer with tanh after it. `None` if
    /// the model has no `pooler_output`.
    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        None
    }

    /// Returns whether training changes this tensor although the network is
    /// frozen, for example a projection on top of it.
    fn trains_frozen(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Returns the dimensions of [`Network::encode_frozen`] for texts and for
    /// images. `None` if `freeze` freezes the whole network.
    fn frozen_dims(&self) -> Option<[usize; 2]> {
        None
    }

    /// Returns the head that sequence classifiers put on this network, or
    /// `None` if no library has such classifiers.
    fn classifier(&self) -> Option<ClassifierHead> {
        None
    }

    /// Returns the name of a tensor in a saved model.
    fn saved_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Returns random weights of these shapes. The same seed gives the same
    /// weights.
    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        random::draw_weights(self.tensors(), seed).collect()
    }

    /// Returns whether a model without weights starts with random ones.
    fn starts_random(&self) -> bool {
        false
    }
}

/// A network with its weights.
pub(crate) trait Network: Send + Sync {
    /// Returns unnormalised embeddings `[batch, dim]` of one batch, or `None`
    /// if the network does not take this kind of input.
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>>;

    /// Returns the number of layers before the last whose outputs
    /// [`Network::encode_layers`] can return; 0 if it can return none.
    fn earlier_layers(&self) -> usize {
        0
    }

    /// Like [`Network::encode`], but also returns embeddings of earlier layers,
    /// as if each were the last. Layer 0 is the embedding layer. The last
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

    /// Writes the evaluation form of `encode` as ONNX operators. Returns `None`
    /// if the network does not take this kind of input or has no ONNX form.
    ///
    /// # Errors
    /// If the weights can't be read.
    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let _ = (graph, inputs);
        Ok(None)
    }

    /// Returns the output of the part of the network that `freeze` freezes.
    fn encode_frozen(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        self.encode(pass, input)
    }

    /// Returns embeddings from the output of [`Network::encode_frozen`] for
    /// texts or images.
    fn finish(&self, pass: &Pass, frozen: &Tensor, texts: bool) -> Result<Tensor> {
        let _ = (pass, texts);
        Ok(frozen.clone())
    }

    /// Returns the logarithm of the scale of a text-to-image model's
    /// similarities.
    fn logit_scale(&self) -> Option<&Arc<Param>> {
        None
    }

    /// Returns the bias that SigLIP adds to similarities.
    fn logit_bias(&self) -> Option<&Arc<Param>> {
        None
    }
}
