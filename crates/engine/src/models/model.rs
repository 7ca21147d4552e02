//! A network with its weights, its modules and its projection head.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Tensor};

use super::{
    adapters,
    architecture::{LOGIT_BIAS, LOGIT_SCALE, Network},
    config::ModelConfig,
    head::{self, HeadConfig},
    input::Input,
    kind::ModelKind,
};
use crate::{
    Error, Result,
    kernels::gemm::Precision,
    lora::LoraSpec,
    modules::{Activation, Layer, LayerSpec, PREFIX as MODULE_PREFIX, head_position},
    ops::{Kernels, Pass, Pooler, Runtime},
    params::{Param, Params, RawTensor},
    random,
};

/// Settings of a model besides its sizes and weights.
#[derive(Clone, Debug, Default)]
pub struct ModelSetup {
    /// Combines the tokens of a text, or the patches of an image, into one
    /// vector; the architecture's own pooling if none is given.
    pub pooler: Option<Pooler>,
    /// The modules of sentence-transformers after the pooling.
    pub modules: Vec<LayerSpec>,
    /// A projection head. It goes after all modules except a final `Normalize`.
    pub head: Option<HeadConfig>,
    /// Whether the network is frozen, so that only the head is trained.
    pub freeze: bool,
    /// Seed of a new head's weights.
    pub seed: u64,
    /// Adapters to train instead of the network's weights.
    pub lora: Option<LoraSpec>,
    /// The length in tokens to which texts are padded, if the model attends to
    /// padding and its tokenizer allows fewer tokens than its `config.json`.
    pub text_length: Option<usize>,
    /// The activation that a cross-encoder applies to its scores in inference.
    /// In training the loss applies its own.
    pub activation: Option<Activation>,
}

impl ModelSetup {
    /// Returns the dimension of the head's input: of pooled embeddings after
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
    pub(super) config: ModelConfig,
    pub(super) setup: ModelSetup,
    pub(super) params: Params,
    runtime: Runtime,
    pub(super) network: Box<dyn Network>,
    /// The modules before the head's position, and those after it.
    pub(super) modules: [Vec<Layer>; 2],
    pub(super) heads: Option<head::Heads>,
    /// Dimension of the head's input.
    body_dim: usize,
}

impl Model {
    /// Builds a model from the tensors of a checkpoint. A head that the
    /// checkpoint lacks starts with random weights.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing or has another shape than
    /// `config` requires.
    pub fn new(
        config: ModelConfig,
        mut tensors: HashMap<String, RawTensor>,
        mut setup: ModelSetup,
        device: &Device,
    ) -> Result<Self> {
        let towers = config.kind() == ModelKind::TextImage;
        let mut head_tensors = HashMap::new();
        if let Some(head) = setup.head {
            for (name, new) in random::draw_weights(head.tensors(towers), setup.seed) {
                let value = tensors.remove(&name).unwrap_or(new);
                head_tensors.insert(name, value);
            }
        }
        let is_module = |name: &String, _: &mut RawTensor| name.starts_with(MODULE_PREFIX);
        head_tensors.extend(tensors.extract_if(is_module));
        // Tensors that the model doesn't use must not reach the optimizer.
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
            // Scale and bias of a loss are trained although the towers are
            // frozen.
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
        let layers = layers.map(|(index, spec)| Layer::load(spec, index, &params));
        let mut before = layers.collect::<Result<Vec<_>>>()?;
        let after = before.split_off(head_position(&setup.modules));
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
            modules: [before, after],
            body_dim,
        })
    }

    /// Returns the network's sizes.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns the settings that the model was built with.
    #[must_use]
    pub fn setup(&self) -> &ModelSetup {
        &self.setup
    }

    /// Returns the kind of data that the model embeds.
    #[must_use]
    pub fn kind(&self) -> ModelKind {
        self.config.kind()
    }

    /// Returns the embedding dimension.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.setup.head.map_or(self.body_dim, |head| head.outputs)
    }

    /// Returns the model's parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Returns the logarithm of the factor that the CLIP loss multiplies
    /// similarities with, if the model has one.
    #[must_use]
    pub fn logit_scale(&self) -> Option<&Arc<Param>> {
        self.network.logit_scale()
    }

    /// Returns the bias that the SigLIP loss adds to similarities, if the model has
    /// one.
    #[must_use]
    pub fn logit_bias(&self) -> Option<&Arc<Param>> {
        self.network.logit_bias()
    }

    /// Chooses between fused and composite operations. The CPU uses fused ones
    /// by default; other devices have only composite ones.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        if self.params.device().is_cpu() {
            self.runtime.kernels = kernels;
        }
    }

    /// Uses the code path of other devices on the CPU: composite operations,
    /// gradients as tensors, and optimizer steps on tensors. For tests on machines
    /// without a GPU.
    pub fn compute_as_on_a_device(&mut self) {
        self.set_kernels(Kernels::Composite);
        self.params.keep_gradients_as_tensors();
    }

    /// Sets the precision of matrix products in training steps;
    /// [`Precision::Float32`] by default.
    pub fn set_precision(&mut self, precision: Precision) {
        self.runtime.precision = precision;
        #[cfg(feature = "cuda")]
        if self.params.device().is_cuda() {
            // The setting is global: it applies to all models of the process.
            candle_core::cuda::set_gemm_reduced_precision_f32(precision == Precision::Tf32);
        }
    }

    /// Turns gradient checkpointing on or off. With it, training keeps only the
    /// inputs of transformer blocks and recomputes each block in the backward
    /// pass, which saves memory for a third more time. Fused operations ignore
    /// this setting.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.runtime.checkpointing = on;
    }

    /// Returns a pass for a training step.
    #[must_use]
    pub fn training(&self) -> Pass {
        self.runtime.training()
    }

    /// Returns a pass without gradients.
    #[must_use]
    pub fn inference(&self) -> Pass {
        self.runtime.inference()
    }

    /// Returns embeddings `[batch, dim]`. They are normalised if the model's
    /// own modules end with a `Normalize`.
    ///
    /// # Errors
    /// If the model takes another kind or size of input.
    pub fn encode(&self, pass: &Pass, input: &Input) -> Result<Tensor> {
        self.encode_member(pass, input, 0)
    }

    /// Returns embeddings of one member of each example of a batch. Cached
    /// outputs of a frozen CLIP belong to texts if they are the first member,
    /// and to images otherwise.
    pub(crate) fn encode_member(
        &self,
        pass: &Pass,
        input: &Input,
        member: usize,
    ) -> Result<Tensor> {
        let x = self.encode_trunk(pass, input)?;
        self.encode_top(pass, &x, input.is_texts(member))
    }

    /// The first part of [`Model::encode_member`]: the network, and the modules
    /// before the head. It computes each row independently, unless
    /// [`Model::trunk_compares_rows`].
    pub(crate) fn encode_trunk(&self, pass: &Pass, input: &Input) -> Result<Tensor> {
        match (self.setup.freeze, input) {
            // Cached output of the frozen network.
            (true, Input::Features(known)) if self.kind() != ModelKind::Features => {
                Ok(known.clone())
            }
            // A frozen network needs no backward pass, and its running
            // statistics stay fixed.
            (true, _) => self.encode_frozen(input),
            (false, _) => self.encode_body(pass, input),
        }
    }

    /// The second part of [`Model::encode_member`]: the trained part of a
    /// frozen network, the head, and the modules after it.
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

    /// Returns the number of layers before the last whose outputs can be
    /// embedded: the embedding layer and all blocks but one. 0 if the network
    /// has no such blocks, or is frozen.
    #[must_use]
    pub fn earlier_layers(&self) -> usize {
        match self.setup.freeze {
            true => 0,
            false => self.network.earlier_layers(),
        }
    }

    /// Returns embeddings of some earlier layers, as if each were the last,
    /// followed by those of the last layer. Layer 0 is the embedding layer.
    ///
    /// # Errors
    /// As [`Model::encode`], and if the network has no such layers.
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

    /// Returns whether a trained part of the model has dropout, according to
    /// its files.
    pub(crate) fn has_dropout(&self) -> bool {
        let in_modules = self.setup.modules.iter().any(LayerSpec::has_dropout);
        self.trains_trunk() && (self.config.0.has_dropout() || in_modules)
    }

    /// Returns whether training changes a part of [`Model::encode_trunk`].
    pub(crate) fn trains_trunk(&self) -> bool {
        !self.setup.freeze
    }

    /// Returns whether a training step's result for a row of
    /// [`Model::encode_trunk`] depends on other rows: the network has batch
    /// normalisation and is not frozen.
    pub(crate) fn trunk_compares_rows(&self) -> bool {
        let moments = |name: &str| name.contains(".running_") && !name.starts_with(head::PREFIX);
        self.trains_trunk() && self.params.iter().any(|param| moments(param.name()))
    }

    /// Encodes an input with the network and the modules before the head.
    fn encode_body(&self, pass: &Pass, input: &Input) -> Result<Tensor> {
        let x = self.network.encode(pass, input)?;
        let x = x.ok_or_else(|| self.refused(input))?;
        apply(&self.modules[0], pass, x)
    }

    /// Returns the output of the frozen part of the model.
    pub(crate) fn encode_frozen(&self, input: &Input) -> Result<Tensor> {
        let pass = self.inference();
        let x = self.network.encode_frozen(&pass, input)?;
        let x = x.ok_or_else(|| self.refused(input))?;
        apply(&self.modules[0], &pass, x)
    }

    /// Returns the dimensions of [`Model::encode_frozen`] for texts and for
    /// other inputs.
    pub(crate) fn frozen_dims(&self) -> [usize; 2] {
        let own = self.config.0.frozen_dims();
        own.unwrap_or([self.body_dim; 2])
    }

    fn refused(&self, input: &Input) -> Error {
        let kind = match input {
            Input::Texts(_) => "texts",
            Input::Images(_) => "images",
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
