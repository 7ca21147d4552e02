//! Two towers of any kind: a text model and an image model, each with a linear
//! projection into a shared embedding space.
//!
//! A `config.json` of the type `vision-text-dual-encoder` follows
//! `VisionTextDualEncoderModel` of Hugging Face's `transformers`, with its
//! tensor names and poolings: both towers return their `pooler_output`.
//!
//! The type `two-towers` is our own, for towers and poolings that
//! `transformers` does not combine. Its fields `text_pooler` and
//! `vision_pooler` name the poolings, and `text_projection_hidden` adds a
//! second layer to the text tower's projection, as open_clip does with models
//! of `transformers`. The rest equals the other type.
//!
//! `freeze` freezes the towers and trains the projections, as in LiT (Zhai et
//! al. 2022, arXiv:2111.07991).

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{Architecture, Input, ModelKind, Network, architecture::LOGIT_SCALE};
use crate::{
    Error, Result,
    image::ImageProcessor,
    onnx::{self, Edge, Graph, Inputs},
    ops::{Activation, Linear, Pass, Pooler, linear},
    params::{Param, Params, RawTensor},
    random,
};

/// The type name in `transformers`.
pub(super) const DUAL_ENCODER: &str = "vision-text-dual-encoder";
/// Our own type name.
pub(crate) const TWO_TOWERS: &str = "two-towers";

/// Prefix of the text tower's tensors.
pub(crate) const TEXT: &str = "text_model.";
/// Prefix of the image tower's tensors.
pub(crate) const VISION: &str = "vision_model.";
const TEXT_PROJECTION: &str = "text_projection";
const VISION_PROJECTION: &str = "visual_projection";
/// Initial logarithm of the logit scale in `transformers`, as in CLIP.
const CLIP_LOGIT_SCALE: f32 = 2.6592;
/// Initial logarithm of the logit scale with new projections. Over frozen
/// towers a lower start gives better retrieval (`--scale` of
/// `scripts/two_towers_torch.py`).
pub(crate) const FIRST_LOGIT_SCALE: f32 = 1.6;

/// Pooling of a tower.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Pooling {
    Mean,
    Max,
    Cls,
    /// The model's `pooler_output` in `transformers`.
    PoolerOutput,
}

#[derive(Deserialize)]
struct File {
    #[serde(default = "projection_dim")]
    projection_dim: usize,
    #[serde(default = "first_logit_scale")]
    logit_scale_init_value: f32,
    text_config: Value,
    vision_config: Value,
    text_pooler: Option<Pooling>,
    vision_pooler: Option<Pooling>,
    text_projection_hidden: Option<usize>,
}

fn projection_dim() -> usize {
    512
}

fn first_logit_scale() -> f32 {
    CLIP_LOGIT_SCALE
}

/// Returns new projections of a text tower and an image tower, from the towers'
/// dimensions to `dim`, and the scale of similarities.
pub(crate) fn new_projections(
    [text, vision]: [usize; 2],
    dim: usize,
    seed: u64,
) -> impl Iterator<Item = (String, RawTensor)> {
    let name = |projection: &str| format!("{projection}.weight");
    let shapes = vec![
        (name(TEXT_PROJECTION), vec![dim, text]),
        (name(VISION_PROJECTION), vec![dim, vision]),
    ];
    let scale = (Vec::new(), vec![FIRST_LOGIT_SCALE]);
    random::draw_weights(shapes, seed).chain([(LOGIT_SCALE.to_owned(), scale)])
}

/// Sizes of both towers and of their projections.
#[derive(Debug)]
struct Config {
    text: Tower,
    vision: Tower,
    projection_dim: usize,
    logit_scale: f32,
    layer_prefixes: Vec<&'static str>,
}

/// One tower.
#[derive(Debug)]
struct Tower {
    architecture: Arc<dyn Architecture>,
    pooler: Pooler,
    /// Name of the dense layer with tanh after the pooling.
    dense: Option<&'static str>,
    /// Prefix of its tensors.
    prefix: &'static str,
    projection: &'static str,
    /// Width between the projection's two layers, if it has two.
    hidden: Option<usize>,
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("config.json: {reason}"))
}

impl Tower {
    fn new(
        parsed: Result<Arc<dyn Architecture>>,
        pooling: Pooling,
        wanted: ModelKind,
        [prefix, projection]: [&'static str; 2],
        hidden: Option<usize>,
    ) -> Result<Self> {
        let part = match wanted {
            ModelKind::Text => "text_config",
            _ => "vision_config",
        };
        let architecture = parsed.map_err(|e| match e {
            Error::Checkpoint(reason) => {
                let reason = reason.trim_start_matches("config.json");
                bad(format!(
                    "`{part}`: {}",
                    reason.trim_start_matches([':', ' '])
                ))
            }
            other => other,
        })?;
        let kind = architecture.kind();
        if kind != wanted {
            return Err(bad(format!(
                "`{part}` describes a model of {}; give a model of {}",
                kind.inputs(),
                wanted.inputs()
            )));
        }
        let (pooler, dense) = match pooling {
            Pooling::Mean => (Pooler::Mean, None),
            Pooling::Max => (Pooler::Max, None),
            Pooling::Cls => (Pooler::Cls, None),
            Pooling::PoolerOutput => architecture.pooler_output().ok_or_else(|| {
                bad(format!(
                    "`{part}` describes a model without a `pooler_output`; use the type \
                     `{TWO_TOWERS}`, which can name another pooling"
                ))
            })?,
        };
        Ok(Self {
            architecture,
            pooler,
            dense,
            prefix,
            projection,
            hidden,
        })
    }

    fn dim(&self) -> usize {
        self.architecture.dim()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = self.architecture.tensors();
        if let Some(dense) = self.dense {
            let dim = self.dim();
            all.push((format!("{dense}.weight"), vec![dim, dim]));
            all.push((format!("{dense}.bias"), vec![dim]));
        }
        for (name, _) in &mut all {
            name.insert_str(0, self.prefix);
        }
        all
    }

    fn build(&self, params: &Params, dim: usize) -> Result<BuiltTower> {
        let own = params.under(self.prefix);
        let width = self.dim();
        let dense = self
            .dense
            .map(|name| Linear::load(&own, name, width, width, true));
        Ok(BuiltTower {
            network: self.architecture.build(&own, self.pooler)?,
            dense: dense.transpose()?,
            projection: self.layers(dim).try_fold(Vec::new(), |mut layers, layer| {
                let (name, inputs, outputs) = layer;
                layers.push(Linear::load(params, &name, inputs, outputs, false)?);
                Ok::<_, Error>(layers)
            })?,
        })
    }

    /// Returns name, input and output width of the layers of the projection to
    /// `dim`.
    fn layers(&self, dim: usize) -> impl Iterator<Item = (String, usize, usize)> {
        let (name, width) = (self.projection, self.dim());
        match self.hidden {
            None => vec![(name.to_owned(), width, dim)],
            // open_clip's numbers count the activation between the layers as
            // well.
            Some(hidden) => vec![
                (format!("{name}.0"), width, hidden),
                (format!("{name}.2"), hidden, dim),
            ],
        }
        .into_iter()
    }
}

/// Parses a `config.json` of either type. `parse_tower` parses those of the
/// towers.
pub(super) fn parse(
    json: &Value,
    parse_tower: fn(&Value) -> Result<Arc<dyn Architecture>>,
) -> Result<Arc<dyn Architecture>> {
    let ours = json["model_type"].as_str() == Some(TWO_TOWERS);
    let file = File::deserialize(json).map_err(bad)?;
    if file.projection_dim == 0 || file.projection_dim > 1 << 20 {
        return Err(bad(format!(
            "`projection_dim` is {}; give a number from 1 to 1048576",
            file.projection_dim
        )));
    }
    if file.text_projection_hidden == Some(0) || file.text_projection_hidden > Some(1 << 20) {
        return Err(bad("`text_projection_hidden` must be from 1 to 1048576"));
    }
    if !ours && file.text_projection_hidden.is_some() {
        return Err(bad(format!(
            "`text_projection_hidden` needs the type `{TWO_TOWERS}`; `{DUAL_ENCODER}` \
             has no such field"
        )));
    }
    let pooling = |name: &str, given: Option<Pooling>| match (ours, given) {
        (true, given) => Ok(given.unwrap_or(Pooling::Mean)),
        (false, None) => Ok(Pooling::PoolerOutput),
        (false, Some(_)) => Err(bad(format!(
            "`{name}` needs the type `{TWO_TOWERS}`; `{DUAL_ENCODER}` has no such field"
        ))),
    };
    let text = Tower::new(
        parse_tower(&file.text_config),
        pooling("text_pooler", file.text_pooler)?,
        ModelKind::Text,
        [TEXT, TEXT_PROJECTION],
        file.text_projection_hidden,
    )?;
    let vision = Tower::new(
        parse_tower(&file.vision_config),
        pooling("vision_pooler", file.vision_pooler)?,
        ModelKind::Image,
        [VISION, VISION_PROJECTION],
        None,
    )?;
    let towers = [&text, &vision].into_iter();
    let prefixes = towers.flat_map(|tower| tower.architecture.layer_prefixes().iter().copied());
    Ok(Arc::new(Config {
        layer_prefixes: prefixes.collect(),
        text,
        vision,
        projection_dim: file.projection_dim,
        logit_scale: file.logit_scale_init_value,
    }))
}

impl Config {
    fn towers(&self) -> [&Tower; 2] {
        [&self.text, &self.vision]
    }

    fn projections(&self) -> Vec<(String, Vec<usize>)> {
        let towers = self.towers().into_iter();
        let layers = towers.flat_map(|tower| tower.layers(self.projection_dim));
        layers
            .map(|(name, inputs, outputs)| (format!("{name}.weight"), vec![outputs, inputs]))
            .collect()
    }
}

impl Architecture for Config {
    fn kind(&self) -> ModelKind {
        ModelKind::TextImage
    }

    fn dim(&self) -> usize {
        self.projection_dim
    }

    fn family(&self) -> &'static str {
        "transformer"
    }

    fn max_tokens(&self) -> Option<usize> {
        self.text.architecture.max_tokens()
    }

    fn counts_padding(&self) -> bool {
        self.text.architecture.counts_padding()
    }

    fn vocab_size(&self) -> Option<usize> {
        self.text.architecture.vocab_size()
    }

    fn image_size(&self) -> Option<usize> {
        self.vision.architecture.image_size()
    }

    fn processor(&self, file: Option<&Value>) -> Result<Option<ImageProcessor>> {
        self.vision.architecture.processor(file)
    }

    /// Towers that come from a CLIP or SigLIP have the prefix twice.
    fn prefixes(&self) -> &'static [&'static str] {
        &[TEXT, VISION]
    }

    fn has_dropout(&self) -> bool {
        let mut towers = self.towers().into_iter();
        towers.any(|tower| tower.architecture.has_dropout())
    }

    fn layer_prefixes(&self) -> &[&'static str] {
        &self.layer_prefixes
    }

    fn keeps(&self, name: &str) -> bool {
        let mut towers = self.towers().into_iter();
        towers.any(|tower| {
            let own = name.strip_prefix(tower.prefix);
            let used = |name: &str| tower.dense.is_some_and(|dense| name.starts_with(dense));
            own.is_some_and(|name| tower.architecture.keeps(name) && !used(name))
        })
    }

    fn module_name(&self, name: &str) -> String {
        let mut towers = self.towers().into_iter();
        let own = towers.find_map(|tower| {
            let own = name.strip_prefix(tower.prefix)?;
            Some(format!(
                "{}{}",
                tower.prefix,
                tower.architecture.module_name(own)
            ))
        });
        own.unwrap_or_else(|| name.to_owned())
    }

    fn trains_frozen(&self, name: &str) -> bool {
        self.projections().iter().any(|(own, _)| own == name)
    }

    fn frozen_dims(&self) -> Option<[usize; 2]> {
        Some(self.towers().map(Tower::dim))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![(LOGIT_SCALE.to_owned(), vec![])];
        all.extend(self.text.tensors());
        all.extend(self.vision.tensors());
        all.extend(self.projections());
        all
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        Ok(Box::new(TwoTowers {
            text: self.text.build(params, self.projection_dim)?,
            vision: self.vision.build(params, self.projection_dim)?,
            logit_scale: params.get(LOGIT_SCALE, &[])?,
        }))
    }

    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        let mut all: HashMap<_, _> = random::draw_weights(self.tensors(), seed).collect();
        all.insert(LOGIT_SCALE.to_owned(), (Vec::new(), vec![self.logit_scale]));
        for tower in self.towers() {
            let own = tower.architecture.random_weights(seed).into_iter();
            all.extend(own.map(|(name, value)| (format!("{}{name}", tower.prefix), value)));
        }
        all
    }
}

/// Both towers, and the logit scale.
struct TwoTowers {
    text: BuiltTower,
    vision: BuiltTower,
    logit_scale: Arc<Param>,
}

struct BuiltTower {
    network: Box<dyn Network>,
    dense: Option<Linear>,
    /// One layer, or two with an activation between them.
    projection: Vec<Linear>,
}

impl BuiltTower {
    fn project(&self, pass: &Pass, pooled: &Tensor) -> Result<Tensor> {
        let mut x = pooled.clone();
        for (index, layer) in self.projection.iter().enumerate() {
            if index > 0 {
                x = Activation::Gelu.composite(&x)?;
            }
            x = linear(pass, &x, layer)?;
        }
        Ok(x)
    }

    /// Returns the pooled output, before the projection.
    fn pooled(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        let x = self.network.encode(pass, input)?;
        match (x, &self.dense) {
            (Some(x), Some(dense)) => Ok(Some(linear(pass, &x, dense)?.tanh()?)),
            (x, _) => Ok(x),
        }
    }
}

impl BuiltTower {
    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let Some(mut x) = self.network.onnx(graph, inputs)? else {
            return Ok(None);
        };
        if let Some(dense) = &self.dense {
            let before = onnx::linear(graph, &x, dense);
            x = graph.op("Tanh", &[&before], &[]);
        }
        for (index, layer) in self.projection.iter().enumerate() {
            if index > 0 {
                x = onnx::gelu(graph, &x);
            }
            x = onnx::linear(graph, &x, layer);
        }
        Ok(Some(x))
    }
}

impl Network for TwoTowers {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        let texts = matches!(input, Input::Texts(_));
        let pooled = self.encode_frozen(pass, input)?;
        pooled.map(|x| self.finish(pass, &x, texts)).transpose()
    }

    fn encode_frozen(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Texts(_) => self.text.pooled(pass, input),
            Input::Images(_) => self.vision.pooled(pass, input),
            Input::Features(_) | Input::PointClouds(_) => Ok(None),
        }
    }

    fn finish(&self, pass: &Pass, pooled: &Tensor, texts: bool) -> Result<Tensor> {
        let tower = if texts { &self.text } else { &self.vision };
        tower.project(pass, pooled)
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        match inputs {
            Inputs::Texts(_) => self.text.onnx(graph, inputs),
            Inputs::Images(..) => self.vision.onnx(graph, inputs),
            Inputs::Features(_) => Ok(None),
        }
    }

    fn logit_scale(&self) -> Option<&Arc<Param>> {
        Some(&self.logit_scale)
    }
}
