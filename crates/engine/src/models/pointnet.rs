//! PointNet++ (Qi et al. 2017, arXiv:1706.02413), an encoder of point clouds,
//! with single-scale (`ssg`) or multi-scale (`msg`) grouping.
//!
//! Sizes and tensor names follow the common PyTorch code (`pointnet2_cls_ssg`
//! and `pointnet2_cls_msg`) without its classifier. Fields of `config.json`
//! select the differences of the Python Finetuner's network: a group holds the
//! nearest points instead of those within a radius, the points of the last
//! level are centred, and a two-layer perceptron follows.

mod network;

use std::{collections::HashMap, sync::Arc};

use network::{
    BuiltLevel, BuiltScale, EPS, Grouping, Kind, PROJECTOR, PROJECTOR_GROWTH, PointNet, Projector,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, ModelKind, Network,
    encoder::{bad_config, check_sizes},
};
use crate::{
    Result,
    kernels::simd::Curve,
    ops::{BatchNorm, ConvKind, ConvNorm, Padding, Pooler},
    params::{Params, RawTensor},
    random,
};

/// Number of coordinates of a point.
const COORDINATES: usize = 3;
/// The largest size in a network.
const LARGEST: usize = 1 << 16;

/// The fields of `config.json`.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    density_adaptive_type: Kind,
    #[serde(default = "hidden_dim")]
    hidden_dim: usize,
    embed_dim: Option<usize>,
    #[serde(default = "num_points")]
    num_points: usize,
    #[serde(default)]
    dropout_rate: f32,
    #[serde(default)]
    normal_channel: bool,
    #[serde(default)]
    grouping: Grouping,
    #[serde(default)]
    center_last: bool,
    set_abstraction: Option<Vec<FileLevel>>,
    #[serde(default = "last_mlp")]
    last_mlp: Vec<usize>,
}

#[derive(Deserialize)]
struct FileLevel {
    npoint: usize,
    #[serde(default)]
    radius_list: Vec<f64>,
    nsample_list: Vec<usize>,
    mlp_list: Vec<Vec<usize>>,
}

fn hidden_dim() -> usize {
    1024
}

fn num_points() -> usize {
    2048
}

fn last_mlp() -> Vec<usize> {
    vec![256, 512]
}

/// Sizes of a network.
#[derive(Debug)]
struct Config {
    kind: Kind,
    grouping: Grouping,
    /// Whether the points of the last level are centred at their mean.
    center_last: bool,
    levels: Vec<Level>,
    /// Widths of the layers that summarise the whole cloud.
    last: Vec<usize>,
    embed_dim: Option<usize>,
    num_points: usize,
    dropout: f32,
}

/// One set abstraction level.
#[derive(Debug)]
struct Level {
    centres: usize,
    scales: Vec<Scale>,
}

/// A grouping scale of a level: the size of groups, and the layers over them.
#[derive(Debug)]
struct Scale {
    radius: f64,
    points: usize,
    /// Widths of the layers that are applied to every point.
    widths: Vec<usize>,
}

impl Kind {
    /// Returns the levels of the paper's classifiers.
    fn levels(self) -> Vec<Level> {
        let level = |centres, scales: &[(f64, usize, [usize; 3])]| Level {
            centres,
            scales: scales
                .iter()
                .map(|(radius, points, widths)| Scale {
                    radius: *radius,
                    points: *points,
                    widths: widths.to_vec(),
                })
                .collect(),
        };
        match self {
            Self::Ssg => vec![
                level(512, &[(0.2, 32, [64, 64, 128])]),
                level(128, &[(0.4, 64, [128, 128, 256])]),
            ],
            Self::Msg => vec![
                level(
                    512,
                    &[
                        (0.1, 16, [32, 32, 64]),
                        (0.2, 32, [64, 64, 128]),
                        (0.4, 128, [64, 96, 128]),
                    ],
                ),
                level(
                    128,
                    &[
                        (0.2, 32, [64, 64, 128]),
                        (0.4, 64, [128, 128, 256]),
                        (0.8, 128, [128, 128, 256]),
                    ],
                ),
            ],
        }
    }
}

impl FileLevel {
    fn read(mut self, kind: Kind, grouping: Grouping) -> Result<Level> {
        let count = self.nsample_list.len();
        if grouping == Grouping::Nearest {
            // Nearest points need no radius.
            self.radius_list = vec![1.0; count];
        }
        if count == 0 || self.radius_list.len() != count || self.mlp_list.len() != count {
            return Err(bad_config(
                "`set_abstraction`: `radius_list`, `nsample_list` and `mlp_list` must have one value \
                 per scale",
            ));
        }
        if kind == Kind::Ssg && count > 1 {
            let reason = format!("`set_abstraction`: {count} scales; `ssg` has one, `msg` several");
            return Err(bad_config(reason));
        }
        let given = self.radius_list.into_iter().zip(self.nsample_list);
        let scales = given.zip(self.mlp_list);
        let scales = scales.map(|((radius, points), widths)| {
            if !(radius > 0.0 && radius.is_finite()) {
                return Err(bad_config(format!(
                    "`radius_list`: {radius}; give a positive number"
                )));
            }
            check_sizes(&[("nsample_list", points), ("mlp_list", widths.len())])?;
            check_widths("mlp_list", &widths)?;
            Ok(Scale {
                radius,
                points,
                widths,
            })
        });
        check_widths("npoint", &[self.npoint])?;
        Ok(Level {
            centres: self.npoint,
            scales: scales.collect::<Result<_>>()?,
        })
    }
}

fn check_widths(name: &str, widths: &[usize]) -> Result<()> {
    match widths.iter().find(|n| **n == 0 || **n > LARGEST) {
        Some(n) => Err(bad_config(format!(
            "`{name}`: {n}; sizes range from 1 to {LARGEST}"
        ))),
        None => Ok(()),
    }
}

/// Parses a `config.json` of the type `pointnet2`.
pub(super) fn parse(json: &Value) -> Result<Arc<dyn Architecture>> {
    let file = File::deserialize(json).map_err(bad_config)?;
    if file.normal_channel {
        return Err(bad_config(
            "`normal_channel` is true: networks that take normals besides coordinates are not \
             supported; clouds have three numbers per point",
        ));
    }
    if !(0.0..1.0).contains(&file.dropout_rate) {
        return Err(bad_config(format!(
            "`dropout_rate` is {}; give a number from 0 to below 1",
            file.dropout_rate
        )));
    }
    let kind = file.density_adaptive_type;
    check_widths("hidden_dim", &[file.hidden_dim])?;
    check_widths("embed_dim", &[file.embed_dim.unwrap_or(1)])?;
    check_widths("num_points", &[file.num_points])?;
    check_widths("last_mlp", &file.last_mlp)?;
    let levels = match file.set_abstraction {
        None => kind.levels(),
        Some(levels) if levels.is_empty() => {
            return Err(bad_config(
                "`set_abstraction` is empty: at least one level is needed",
            ));
        }
        Some(levels) => {
            let levels = levels
                .into_iter()
                .map(|level| level.read(kind, file.grouping));
            levels.collect::<Result<_>>()?
        }
    };
    Ok(Arc::new(Config {
        kind,
        grouping: file.grouping,
        center_last: file.center_last,
        levels,
        last: [file.last_mlp, vec![file.hidden_dim]].concat(),
        embed_dim: file.embed_dim,
        num_points: file.num_points,
        dropout: file.dropout_rate,
    }))
}

/// Names and widths of the layers that are applied to every point of a group.
struct Layers {
    /// Per layer: names of the convolution and of the normalisation, input and
    /// output width.
    layers: Vec<(String, String, usize, usize)>,
}

impl Layers {
    fn named(convolutions: &str, norms: &str, inputs: usize, widths: &[usize]) -> Self {
        let mut inputs = inputs;
        let layers = widths.iter().enumerate().map(|(number, outputs)| {
            let own = (
                format!("{convolutions}.{number}"),
                format!("{norms}.{number}"),
                inputs,
                *outputs,
            );
            inputs = *outputs;
            own
        });
        Self {
            layers: layers.collect(),
        }
    }

    fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        self.layers
            .iter()
            .flat_map(|(convolution, norm, inputs, outputs)| {
                let own = [
                    (
                        format!("{convolution}.weight"),
                        vec![*outputs, *inputs, 1, 1],
                    ),
                    (format!("{convolution}.bias"), vec![*outputs]),
                ];
                own.into_iter().chain(BatchNorm::tensors(norm, *outputs))
            })
    }

    fn load(&self, params: &Params) -> Result<Vec<ConvNorm>> {
        let layers = self.layers.iter();
        layers
            .map(|(convolution, norm, inputs, outputs)| {
                let weight =
                    params.get(&format!("{convolution}.weight"), &[*outputs, *inputs, 1, 1])?;
                let bias = params.get(&format!("{convolution}.bias"), &[*outputs])?;
                let norm = BatchNorm::load(params, norm, *outputs, EPS)?;
                Ok(ConvNorm {
                    kind: ConvKind::Full,
                    weight: Some(weight),
                    inputs: *inputs,
                    outputs: *outputs,
                    kernel: 1,
                    stride: 1,
                    padding: Padding::Both(0),
                    norm: norm.after_bias(bias),
                    curve: Curve::Relu,
                })
            })
            .collect()
    }
}

impl Config {
    /// Returns the layers of each scale of each level, and those over whole
    /// clouds.
    fn layers(&self) -> (Vec<Vec<Layers>>, Layers) {
        let mut width = 0;
        let levels = self.levels.iter().enumerate().map(|(number, level)| {
            let inputs = COORDINATES + width;
            let own = level.scales.iter().enumerate().map(|(scale, found)| {
                let prefix = format!("sa{}", number + 1);
                let (convolutions, norms) = match self.kind {
                    Kind::Ssg => (format!("{prefix}.mlp_convs"), format!("{prefix}.mlp_bns")),
                    Kind::Msg => (
                        format!("{prefix}.conv_blocks.{scale}"),
                        format!("{prefix}.bn_blocks.{scale}"),
                    ),
                };
                Layers::named(&convolutions, &norms, inputs, &found.widths)
            });
            let own = own.collect();
            let widths = level.scales.iter().filter_map(|scale| scale.widths.last());
            width = widths.sum();
            own
        });
        let levels = levels.collect();
        let prefix = format!("sa{}", self.levels.len() + 1);
        let (convolutions, norms) = (format!("{prefix}.mlp_convs"), format!("{prefix}.mlp_bns"));
        let last = Layers::named(&convolutions, &norms, COORDINATES + width, &self.last);
        (levels, last)
    }

    fn hidden_dim(&self) -> usize {
        self.last.last().copied().unwrap_or(0)
    }
}

impl Architecture for Config {
    fn kind(&self) -> ModelKind {
        ModelKind::PointCloud
    }

    fn dim(&self) -> usize {
        self.embed_dim.unwrap_or(self.hidden_dim())
    }

    fn family(&self) -> &'static str {
        "pointnet"
    }

    fn has_dropout(&self) -> bool {
        self.dropout > 0.0
    }

    fn cloud_points(&self) -> Option<usize> {
        Some(self.num_points)
    }

    fn starts_random(&self) -> bool {
        true
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["_point_encoder.", "module."]
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (levels, last) = self.layers();
        let mut all: Vec<_> = levels.iter().flatten().flat_map(Layers::tensors).collect();
        all.extend(last.tensors());
        if let Some(outputs) = self.embed_dim {
            let inputs = self.hidden_dim();
            let [first, norm, second] = PROJECTOR;
            let hidden = inputs * PROJECTOR_GROWTH;
            all.push((format!("{first}.weight"), vec![hidden, inputs]));
            all.extend(BatchNorm::tensors(norm, hidden));
            all.push((format!("{second}.weight"), vec![outputs, hidden]));
            all.push((format!("{second}.bias"), vec![outputs]));
        }
        all
    }

    fn random_weights(&self, seed: u64) -> HashMap<String, RawTensor> {
        let mut all: HashMap<_, _> = random::draw_weights(self.tensors(), seed).collect();
        // Biases of normalisations start at zero.
        for (name, (_, values)) in &mut all {
            if name.ends_with(".bias") && (name.contains("_bns.") || name.contains("bn_blocks.")) {
                values.fill(0.0);
            }
        }
        if let Some((_, values)) = all.get_mut(&format!("{}.bias", PROJECTOR[1])) {
            values.fill(0.0);
        }
        all
    }

    fn build(&self, params: &Params, _: Pooler) -> Result<Box<dyn Network>> {
        let (layers, last) = self.layers();
        let levels = self.levels.iter().zip(layers).map(|(level, layers)| {
            let scales = level.scales.iter().zip(layers).map(|(scale, layers)| {
                Ok(BuiltScale {
                    radius: scale.radius,
                    points: scale.points,
                    layers: layers.load(params)?,
                })
            });
            Ok(BuiltLevel {
                centres: level.centres,
                scales: scales.collect::<Result<_>>()?,
            })
        });
        let projector = self.embed_dim.map(|outputs| {
            let inputs = self.hidden_dim();
            Projector::load(params, inputs, outputs)
        });
        Ok(Box::new(PointNet {
            kind: self.kind,
            grouping: self.grouping,
            center_last: self.center_last,
            levels: levels.collect::<Result<_>>()?,
            last: last.load(params)?,
            projector: projector.transpose()?,
            dropout: self.dropout,
        }))
    }
}
