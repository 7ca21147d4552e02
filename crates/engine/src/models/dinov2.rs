//! DINOv2 (Oquab et al. 2023, arXiv:2304.07193), an image encoder. Tensor names
//! and behaviour follow `Dinov2Model` of Hugging Face's `transformers`. The
//! embedding is the class token after the last norm, or the mean of the
//! patches. Images may have another size than in pretraining.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Architecture, ModelKind, Network,
    encoder::bad_config,
    rates::{Rates, rate},
    vision::{ImageSizes, VisionFields},
};
use crate::{
    Result,
    image::{ImageProcessor, ProcessorClass},
    ops::{Activation, BlockForm, BlockLayers, FinishNames, LayerName, Pooler},
    params::Params,
};

/// Sizes of a DINOv2, read from its `config.json`.
#[derive(Clone, Debug, Deserialize)]
struct Dinov2Config {
    #[serde(flatten)]
    fields: VisionFields,
    /// Width inside an MLP, relative to the width of the activations.
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    /// Whether the MLPs are gated.
    #[serde(default)]
    use_swiglu_ffn: bool,
    /// Epsilon of the layer norms.
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f32,
}

fn mlp_ratio() -> f64 {
    4.0
}

fn layer_norm_eps() -> f32 {
    1e-6
}

/// Parses a `config.json` of the type `dinov2`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut config = Dinov2Config::deserialize(json).map_err(bad_config)?;
    config.fields.check()?;
    let mut rates = Rates::bert(json, 0.0)?;
    // The blocks drop attention weights, and whole branches (stochastic depth).
    rates.blocks.halves = [0.0; 2];
    rates.blocks.path = rate(json, &["drop_path_rate"], 0.0)?;
    config.fields.rates = rates;
    if !(config.mlp_ratio > 0.0 && config.mlp_ratio < 1000.0) || config.hidden() == 0 {
        return Err(bad_config(format!(
            "`mlp_ratio` is {}; give a number between 0 and 1000",
            config.mlp_ratio
        )));
    }
    Ok(Arc::new(config))
}

impl Dinov2Config {
    /// Width inside the MLPs.
    fn hidden(&self) -> usize {
        let hidden = (self.fields.hidden_size as f64 * self.mlp_ratio) as usize;
        match self.use_swiglu_ffn {
            true => (hidden * 2 / 3).next_multiple_of(8),
            false => hidden,
        }
    }

    fn form(&self) -> BlockForm {
        let mut form = self.fields.form(self.hidden(), self.layer_norm_eps);
        if self.use_swiglu_ffn {
            form.activation = Activation::Silu;
        }
        form
    }

    fn layers(&self) -> BlockLayers {
        let attention = |name| LayerName::new(name).with_bias(self.fields.qkv_bias);
        let (fc1, gate, fc2) = match self.use_swiglu_ffn {
            true => (
                LayerName::new("mlp.weights_in").part(0, 2),
                Some(LayerName::new("mlp.weights_in").part(1, 2)),
                LayerName::new("mlp.weights_out"),
            ),
            false => (LayerName::new("mlp.fc1"), None, LayerName::new("mlp.fc2")),
        };
        BlockLayers {
            norm1: Some("norm1"),
            query: attention("attention.attention.query"),
            key: attention("attention.attention.key"),
            value: attention("attention.attention.value"),
            out: LayerName::new("attention.output.dense"),
            head_norms: None,
            norm2: "norm2",
            fc1,
            gate,
            fc2,
            finish: Some(FinishNames::Scales([
                "layer_scale1.lambda1",
                "layer_scale2.lambda1",
            ])),
        }
    }
}

impl Architecture for Dinov2Config {
    fn kind(&self) -> ModelKind {
        ModelKind::Image
    }

    fn dim(&self) -> usize {
        self.fields.hidden_size
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let usual = json!({});
        let file = file.unwrap_or(&usual);
        ImageProcessor::parse(file, ProcessorClass::Bit, None).map(Some)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["dinov2."]
    }

    fn module_name(&self, name: &str) -> String {
        super::vision::module_name(name)
    }

    fn keeps(&self, name: &str) -> bool {
        name == "embeddings.mask_token"
    }

    fn has_dropout(&self) -> bool {
        self.fields.rates.any()
    }

    fn layer_prefixes(&self) -> &[&'static str] {
        &["encoder.layer."]
    }

    fn default_pooler(&self) -> Pooler {
        Pooler::Cls
    }

    fn pooler_output(&self) -> Option<(Pooler, Option<&'static str>)> {
        Some((Pooler::Cls, None))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.fields.tensors(&self.layers(), &self.form())
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (layers, form) = (self.layers(), self.form());
        self.fields
            .build(params, &layers, &form, pooler, ImageSizes::Any)
    }
}
