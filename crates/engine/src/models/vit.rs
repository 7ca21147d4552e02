//! ViT (Dosovitskiy et al. 2021, arXiv:2010.11929), an image encoder. Tensor
//! names and behaviour follow `ViTModel` of Hugging Face's `transformers` in
//! evaluation. The embedding is the class token after the last norm, or the
//! mean of the patches.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Architecture, ModelKind, Network,
    encoder::{bad_config, check_sizes},
    rates::Rates,
    vision::{self, ImageSizes, VisionFields},
};
use crate::{
    Result,
    image::{ImageProcessor, ProcessorClass},
    ops::{BlockForm, BlockLayers, LayerName, Pooler},
    params::Params,
};

/// Sizes of a ViT, read from its `config.json`.
#[derive(Clone, Debug, Deserialize)]
struct VitConfig {
    #[serde(flatten)]
    fields: VisionFields,
    /// Width inside the MLPs.
    #[serde(default = "intermediate_size")]
    intermediate_size: usize,
    /// Epsilon of the layer norms.
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f32,
    /// The pooler's activation; only `tanh` is supported.
    #[serde(default)]
    pooler_act: Option<String>,
}

fn intermediate_size() -> usize {
    3072
}

fn layer_norm_eps() -> f32 {
    1e-12
}

/// Parses a `config.json` of the type `vit`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let mut config = VitConfig::deserialize(json).map_err(bad_config)?;
    config.fields.check()?;
    config.fields.rates = Rates::bert(json, 0.0)?;
    check_sizes(&[("intermediate_size", config.intermediate_size)])?;
    Ok(Arc::new(config))
}

impl VitConfig {
    fn form(&self) -> BlockForm {
        self.fields
            .form(self.intermediate_size, self.layer_norm_eps)
    }

    fn layers(&self) -> BlockLayers {
        let attention = |name| LayerName::new(name).with_bias(self.fields.qkv_bias);
        BlockLayers {
            norm1: Some("layernorm_before"),
            query: attention("attention.attention.query"),
            key: attention("attention.attention.key"),
            value: attention("attention.attention.value"),
            out: LayerName::new("attention.output.dense"),
            head_norms: None,
            norm2: "layernorm_after",
            fc1: LayerName::new("intermediate.dense"),
            gate: None,
            fc2: LayerName::new("output.dense"),
            finish: None,
        }
    }
}

impl Architecture for VitConfig {
    fn kind(&self) -> ModelKind {
        ModelKind::Image
    }

    fn dim(&self) -> usize {
        self.fields.hidden_size
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn image_size(&self) -> Option<usize> {
        Some(self.fields.image_size)
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        let side = self.fields.image_size;
        let usual = json!({"size": {"height": side, "width": side}});
        let sides = Some([side as u32; 2]);
        let file = file.unwrap_or(&usual);
        ImageProcessor::parse(file, ProcessorClass::Vit, sides).map(Some)
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["vit."]
    }

    fn module_name(&self, name: &str) -> String {
        vision::module_name(&name.replacen("encoder.layer.", "layers.", 1))
    }

    fn keeps(&self, name: &str) -> bool {
        name.starts_with("pooler.dense.")
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
        let known = self.pooler_act.as_deref().unwrap_or("tanh") == "tanh";
        known.then_some((Pooler::Cls, Some("pooler.dense")))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.fields.tensors(&self.layers(), &self.form())
    }

    fn build(&self, params: &Params, pooler: Pooler) -> Result<Box<dyn Network>> {
        let (layers, form) = (self.layers(), self.form());
        self.fields
            .build(params, &layers, &form, pooler, ImageSizes::Own)
    }
}
