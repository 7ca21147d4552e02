//! The models that can be trained.
//!
//! A [`Model`] is a network with its weights, and a projection head where one
//! was asked for. [`ModelConfig`] is its `config.json`, read. One file describes
//! one architecture; `architecture` has the list of them.

mod adapters;
mod alibi_bert;
mod architecture;
mod canonical;
mod classifier;
mod classifier_head;
mod clip;
mod clip_vision;
mod cnn;
mod dinov2;
mod efficientnet;
mod encoder;
mod export;
mod gemma3;
mod head;
mod input;
mod kind;
mod mlp;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod pointnet;
mod qwen3;
mod rates;
mod resnet;
mod rope;
mod siglip;
mod siglip_vision;
mod sizes;
mod t5;
mod text;
mod two_towers;
mod vision;
mod vit;

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};
use serde_json::Value;

pub(crate) use crate::modules::PREFIX as MODULE_PREFIX;
pub(crate) use adapters::{PEFT_PREFIX, SavedAdapter, is_adapter};
pub(crate) use architecture::{Architecture, Network};
pub(crate) use classifier::{describe_classifier, describe_network, is_classifier, new_head};
pub use export::{OnnxFormat, OnnxInput, TokenType};
pub(crate) use export::{no_onnx, output_name};
pub use head::HeadConfig;
pub(crate) use head::{FoldedLayer, PREFIX as HEAD_PREFIX};
pub use input::Input;
pub use kind::ModelKind;
pub use mlp::MlpConfig;
pub(crate) use two_towers::{
    FIRST_LOGIT_SCALE, TEXT as TEXT_TOWER, TWO_TOWERS, VISION as VISION_TOWER, new_projections,
};

use crate::{
    Error, Result,
    kernels::gemm::Precision,
    lora::LoraSpec,
    modules::{Activation, Layer, LayerSpec, head_place},
    ops::{Kernels, Pass, Pooler, Runtime},
    params::{Param, Params, RawTensor},
    random,
};

/// The logarithm of the factor of similarities in a loss.
const LOGIT_SCALE: &str = "logit_scale";
/// The addend of similarities in a loss.
const LOGIT_BIAS: &str = "logit_bias";

/// A network's shapes, read from its `config.json`.
#[derive(Clone, Debug)]
pub struct ModelConfig(Arc<dyn Architecture>);

impl ModelConfig {
    /// Reads a `config.json` by its `model_type`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it names no architecture that is known, or
    /// describes shapes that no model can have.
    pub fn parse(json: &Value) -> Result<Self> {
        architecture::parse(json).map(Self)
    }

    /// Returns what the model of a `config.json` takes: pairs of texts where it
    /// describes a sequence classifier.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`].
    pub(crate) fn kind_of(json: &Value) -> Result<ModelKind> {
        let parsed = Self::parse(json)?;
        let pairs = is_classifier(json) && parsed.0.classifier().is_some();
        Ok(if pairs {
            ModelKind::TextPairs
        } else {
            parsed.kind()
        })
    }

    /// Reads the `config.json` of a cross-encoder: a network of texts with a
    /// classification head. Where it describes no classifier, the head is a new
    /// one with one label.
    ///
    /// # Errors
    /// As [`ModelConfig::parse`], and where the architecture has no
    /// classification head.
    pub fn parse_classifier(json: &Value) -> Result<Self> {
        classifier::parse(json).map(Self)
    }

    /// What it embeds.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.0.kind()
    }

    /// Length of the network's embeddings.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.dim()
    }

    /// The longest text in tokens, for models that read texts.
    #[must_use]
    pub fn max_tokens(&self) -> Option<usize> {
        self.0.max_tokens()
    }

    /// Rows of the table of tokens, for models that read texts.
    #[must_use]
    pub fn vocab_size(&self) -> Option<usize> {
        self.0.vocab_size()
    }

    /// Height and width of a picture in pixels, where the network takes one
    /// size alone.
    #[must_use]
    pub fn image_size(&self) -> Option<usize> {
        self.0.image_size()
    }

    /// Name and shape of every tensor.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.0.tensors()
    }

    /// Random weights of this model's shapes: for measuring, testing, and
    /// training from nothing. The same seed gives the same weights.
    #[must_use]
    pub fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        self.0.random_weights(seed)
    }

    pub(crate) fn architecture(&self) -> &dyn Architecture {
        &*self.0
    }

    /// Tensors by the names that [`ModelConfig::tensors`] has, others left out.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] lists those that are missing or of another shape.
    pub(crate) fn canonical(
        &self,
        tensors: HashMap<String, RawTensor>,
    ) -> Result<HashMap<String, RawTensor>> {
        canonical::canonical(&*self.0, tensors)
    }

    /// The name of each tensor, by itself and by the one in `transformers`.
    pub(crate) fn module_names(&self) -> HashMap<String, String> {
        let tensors = self.tensors().into_iter();
        let names = tensors.flat_map(|(name, _)| {
            let theirs = self.0.module_name(&name);
            [(theirs, name.clone()), (name.clone(), name)]
        });
        names.collect()
    }

    /// The name of `known` behind the prefixes of a tensor's name.
    pub(crate) fn known_name<T>(&self, name: &str, known: &HashMap<String, T>) -> Option<String> {
        canonical::known_name(&*self.0, name, known)
    }
}

/// What a network is built with beside its weights.
#[derive(Clone, Debug, Default)]
pub struct ModelSetup {
    /// How a text's or a picture's places become one vector; the mean where
    /// none is given.
    pub pooler: Option<Pooler>,
    /// The modules of sentence-transformers behind the pooling.
    pub modules: Vec<LayerSpec>,
    /// A projection head. It goes before a `Normalize` at the end of the
    /// modules, and behind all others.
    pub head: Option<HeadConfig>,
    /// Whether training leaves the network as it is and changes the head
    /// alone.
    pub freeze: bool,
    /// Decides the weights of a new head.
    pub seed: u64,
    /// Adapters to train in place of the network's weights.
    pub lora: Option<LoraSpec>,
    /// The number of tokens to which texts are filled up with padding, where a
    /// model reads the padding too and its tokenizer allows fewer tokens than
    /// its `config.json`.
    pub text_length: Option<usize>,
    /// The activation of a cross-encoder's scores where they are used, which
    /// training leaves to the loss.
    pub activation: Option<Activation>,
}

impl ModelSetup {
    /// Length of the embeddings that a head takes: of the pooled ones behind
    /// the modules.
    pub(crate) fn body_dim(&self, config: &ModelConfig) -> Result<usize> {
        let width = config.dim();
        let pooled = self.pooler.map_or(width, |pooler| pooler.dim(width));
        let mut modules = self.modules.iter();
        modules.try_fold(pooled, |dim, module| module.dim(dim))
    }
}

/// A network with its weights.
pub struct Model {
    config: ModelConfig,
    setup: ModelSetup,
    params: Params,
    runtime: Runtime,
    network: Box<dyn Network>,
    /// The modules before the head, if there is one, and those behind it.
    modules: [Vec<Layer>; 2],
    heads: Option<head::Heads>,
    /// Length of the embeddings that a head takes.
    body_dim: usize,
}

impl Model {
    /// Puts a model together from the tensors of a checkpoint. A head that is
    /// not among them begins with random weights.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a tensor is missing or has another shape
    /// than `config` asks for.
    pub fn new(
        config: ModelConfig,
        mut tensors: HashMap<String, RawTensor>,
        mut setup: ModelSetup,
        device: &Device,
    ) -> Result<Self> {
        let towers = config.kind() == ModelKind::TextImage;
        let mut head_tensors = HashMap::new();
        if let Some(head) = setup.head {
            for (name, new) in random::fresh(head.tensors(towers), setup.seed) {
                let value = tensors.remove(&name).unwrap_or(new);
                head_tensors.insert(name, value);
            }
        }
        let is_module = |name: &String, _: &mut RawTensor| name.starts_with(MODULE_PREFIX);
        head_tensors.extend(tensors.extract_if(is_module));
        // What the model doesn't use stays out of the optimizer.
        let mut tensors = config.canonical(tensors)?;
        tensors.extend(head_tensors);
        if let Some(lora) = &mut setup.lora {
            adapters::whole_modules(&config, lora)?;
        }
        let mut params = Params::new(tensors, device, |name| {
            let learned = !name.contains(".running_") && !config.0.keeps(name);
            if let Some(lora) = &setup.lora {
                return learned && adapters::is_trained_whole(&config, lora, name);
            }
            // Scale and bias of a loss belong to no tower.
            let of_towers = !name.starts_with(head::PREFIX)
                && ![LOGIT_SCALE, LOGIT_BIAS].contains(&name)
                && !config.0.trains_frozen(name);
            learned && !(setup.freeze && of_towers)
        })?;
        let pooler = setup.pooler.unwrap_or(config.0.default_pooler());
        let mut network = config.0.build(&params, pooler)?;
        if let Some(lora) = &setup.lora {
            params = adapters::add(&config, lora, params, setup.seed)?;
            network = config.0.build(&params, pooler)?;
        }
        let body_dim = setup.body_dim(&config)?;
        let layers = setup.modules.iter().enumerate();
        let layers = layers.map(|(place, spec)| Layer::load(spec, place, &params));
        let mut before = layers.collect::<Result<Vec<_>>>()?;
        let behind = before.split_off(head_place(&setup.modules));
        let heads = setup
            .head
            .map(|head| head::Heads::new(head, towers, &params));
        Ok(Self {
            runtime: Runtime::new(&params)?,
            heads: heads.transpose()?,
            config,
            setup,
            params,
            network,
            modules: [before, behind],
            body_dim,
        })
    }

    /// The network's shapes.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the network was built with.
    #[must_use]
    pub fn setup(&self) -> &ModelSetup {
        &self.setup
    }

    /// What it embeds.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.config.kind()
    }

    /// Length of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.setup.head.map_or(self.body_dim, |head| head.outputs)
    }

    /// The model's parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The logarithm of what similarities are multiplied with in a CLIP's loss.
    #[must_use]
    pub fn logit_scale(&self) -> Option<&Arc<Param>> {
        self.network.logit_scale()
    }

    /// The addend of similarities in SigLIP's loss, for a model that has one.
    #[must_use]
    pub fn logit_bias(&self) -> Option<&Arc<Param>> {
        self.network.logit_bias()
    }

    /// Chooses between fused and composite operations. On the CPU the fused
    /// ones are the default; other devices have only the composite ones.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        if self.params.device().is_cpu() {
            self.runtime.kernels = kernels;
        }
    }

    /// Computes on the CPU as on another device: composite operations, and
    /// gradients as tensors, so that steps of optimizers are those of tensors too.
    /// It is for tests of what runs on devices that are not at hand.
    pub fn compute_as_on_a_device(&mut self) {
        self.set_kernels(Kernels::Composite);
        self.params.keep_gradients_as_tensors();
    }

    /// Chooses how exact the products of training steps are;
    /// [`Precision::Float32`] by default.
    pub fn set_precision(&mut self, precision: Precision) {
        self.runtime.precision = precision;
        #[cfg(feature = "cuda")]
        if self.params.device().is_cuda() {
            // One setting for the process: its other models train so too.
            candle_core::cuda::set_gemm_reduced_precision_f32(precision == Precision::Tf32);
        }
    }

    /// Keeps the inputs of the blocks of a transformer alone in training, and runs
    /// each block again on the way back (gradient checkpointing): less memory for
    /// a third more time. Fused operations keep what they need in any case.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.runtime.remakes = on;
    }

    /// A pass for a training step.
    #[must_use]
    pub fn training(&self) -> Pass {
        self.runtime.training()
    }

    /// A pass that only computes.
    #[must_use]
    pub fn inference(&self) -> Pass {
        self.runtime.inference()
    }

    /// Embeddings, `[batch, dim]`. They are normalised where the model's own
    /// modules end with a `Normalize`.
    ///
    /// # Errors
    /// Where the input is of another kind or size than the model's.
    pub fn encode(&self, pass: &Pass, input: &Input) -> Result<Tensor> {
        self.encode_member(pass, input, 0)
    }

    /// Embeddings of one member of each example of a batch. What a frozen CLIP
    /// made of its inputs before belongs to texts where it is the first member,
    /// and else to pictures.
    pub(crate) fn encode_member(
        &self,
        pass: &Pass,
        input: &Input,
        member: usize,
    ) -> Result<Tensor> {
        let x = self.encode_trunk(pass, input)?;
        self.encode_top(pass, &x, input.is_texts(member))
    }

    /// The first part of [`Model::encode_member`]: the network and the modules
    /// before the head. It treats each row by itself, unless
    /// [`Model::trunk_compares_rows`].
    pub(crate) fn encode_trunk(&self, pass: &Pass, input: &Input) -> Result<Tensor> {
        match (self.setup.freeze, input) {
            // What the frozen network made of it before.
            (true, Input::Features(known)) if self.kind() != ModelKind::Features => {
                Ok(known.clone())
            }
            // What is frozen needs no way back, and keeps its running moments.
            (true, _) => self.encode_frozen(input),
            (false, _) => self.encode_body(pass, input),
        }
    }

    /// The second part of [`Model::encode_member`]: what training changes of a
    /// frozen model, and the head with the modules behind it.
    pub(crate) fn encode_top(&self, pass: &Pass, x: &Tensor, texts: bool) -> Result<Tensor> {
        let x = match self.setup.freeze {
            true => self.network.finish(pass, x, texts)?,
            false => x.clone(),
        };
        let x = match &self.heads {
            Some(heads) => heads.of(texts).forward(pass, &x)?,
            None => x,
        };
        apply(&self.modules[1], pass, x)
    }

    /// How many layers there are before the last one whose output can be
    /// embedded: the tables and all blocks but one. 0 for a network that is not
    /// made of such blocks.
    #[must_use]
    pub fn earlier_layers(&self) -> usize {
        match self.setup.freeze {
            true => 0,
            false => self.network.earlier_layers(),
        }
    }

    /// Embeddings of some earlier layers, as if they were the last, and those of
    /// the last layer behind them. Layer 0 is the output of the tables.
    ///
    /// # Errors
    /// As [`Model::encode`]; and where the network has no such layers.
    pub fn encode_layers(
        &self,
        pass: &Pass,
        input: &Input,
        layers: &[usize],
    ) -> Result<Vec<Tensor>> {
        let found = self.network.encode_layers(pass, input, layers)?;
        let found = found.ok_or_else(|| self.refused(input))?.into_iter();
        let finished = found.map(|x| {
            let x = apply(&self.modules[0], pass, x)?;
            self.encode_top(pass, &x, true)
        });
        finished.collect()
    }

    /// Whether a part that is trained drops elements in training, as its files
    /// say.
    pub(crate) fn has_dropout(&self) -> bool {
        let in_modules = self.setup.modules.iter().any(LayerSpec::has_dropout);
        self.trains_trunk() && (self.config.0.has_dropout() || in_modules)
    }

    /// Whether training changes a part of [`Model::encode_trunk`].
    pub(crate) fn trains_trunk(&self) -> bool {
        !self.setup.freeze
    }

    /// Whether training embeds a row of [`Model::encode_trunk`] differently among
    /// other rows: the network has batch normalisation and is not frozen.
    pub(crate) fn trunk_compares_rows(&self) -> bool {
        let moments = |name: &str| name.contains(".running_") && !name.starts_with(head::PREFIX);
        self.trains_trunk() && self.params.iter().any(|param| moments(param.name()))
    }

    /// Embeds an input with the network and the modules before the head.
    fn encode_body(&self, pass: &Pass, input: &Input) -> Result<Tensor> {
        let x = self.network.encode(pass, input)?;
        let x = x.ok_or_else(|| self.refused(input))?;
        apply(&self.modules[0], pass, x)
    }

    /// The output of the part of the model that `freeze` leaves as it is.
    pub(crate) fn encode_frozen(&self, input: &Input) -> Result<Tensor> {
        let pass = self.inference();
        let x = self.network.encode_frozen(&pass, input)?;
        let x = x.ok_or_else(|| self.refused(input))?;
        apply(&self.modules[0], &pass, x)
    }

    /// Lengths of what [`Model::encode_frozen`] makes of a text and of a picture,
    /// or of anything else.
    pub(crate) fn frozen_dims(&self) -> [usize; 2] {
        let own = self.config.0.frozen_dims();
        own.unwrap_or([self.body_dim; 2])
    }

    fn refused(&self, input: &Input) -> Error {
        let kind = match input {
            Input::Texts(_) => "texts",
            Input::Images(_) => "pictures",
            Input::Features(_) => "features",
            Input::PointClouds(_) => "point clouds",
        };
        Error::data(format!(
            "this model takes {}, not {kind}",
            self.kind().inputs()
        ))
    }
}

fn apply(layers: &[Layer], pass: &Pass, x: Tensor) -> Result<Tensor> {
    let mut layers = layers.iter();
    layers.try_fold(x, |x, layer| layer.forward(pass, &x))
}
