//! The forward pass of a PointNet++.

use candle_core::Tensor;
use rayon::prelude::*;
use serde::Deserialize;

use crate::{
    Result,
    cloud::CloudBatch,
    kernels::simd::Curve,
    models::{Input, Network},
    ops::{
        BatchNorm, ConvKind, ConvNorm, Groups, Linear, Padding, Pass, Point, Shortcut, Site,
        concatenate_groups, dropout_examples, farthest_points, linear, max_of_groups, nearest,
        points_within, run_layers,
    },
    params::Params,
};

/// Epsilon of the normalisations, PyTorch's default.
pub(super) const EPS: f32 = 1e-5;
/// Width of the perceptron's hidden layer, relative to its input.
pub(super) const PROJECTOR_GROWTH: usize = 4;
/// Names of the perceptron's first layer, normalisation and second layer.
pub(super) const PROJECTOR: [&str; 3] = [
    "_projector.model.0",
    "_projector.model.1",
    "_projector.model.3",
];

/// Whether points are grouped at one scale (`ssg`) or several (`msg`).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    #[default]
    Ssg,
    Msg,
}

/// The points that belong to a group.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grouping {
    /// Points within a radius.
    #[default]
    Ball,
    /// The nearest points.
    Nearest,
}

/// A network with its weights.
pub(super) struct PointNet {
    pub(super) kind: Kind,
    pub(super) grouping: Grouping,
    pub(super) center_last: bool,
    pub(super) levels: Vec<BuiltLevel>,
    pub(super) last: Vec<ConvNorm>,
    pub(super) projector: Option<Projector>,
    pub(super) dropout: f32,
}

/// A set abstraction level with its weights.
pub(super) struct BuiltLevel {
    pub(super) centres: usize,
    pub(super) scales: Vec<BuiltScale>,
}

/// A grouping scale of a level, with its weights.
pub(super) struct BuiltScale {
    pub(super) radius: f64,
    pub(super) points: usize,
    pub(super) layers: Vec<ConvNorm>,
}

/// Applies `layers` to every point and takes the maximum over each group.
fn pooled(pass: &Pass, x: &Tensor, layers: &[ConvNorm]) -> Result<Tensor> {
    let x = match layers.split_last() {
        Some((last, inner)) => run_layers(pass, x, inner, last, Shortcut::None)?,
        None => x.clone(),
    };
    max_of_groups(pass, &x)
}

impl PointNet {
    fn encode_clouds(&self, pass: &Pass, batch: &CloudBatch) -> Result<Tensor> {
        let mut clouds: Vec<Vec<Point>> = batch.clouds().map(<[Point]>::to_vec).collect();
        let mut features: Option<Tensor> = None;
        for level in &self.levels {
            // In a smaller cloud some centres repeat, so that all clouds have
            // the same count. With `Ball` that does not change the maximum.
            let most = clouds.iter().map(Vec::len).max().unwrap_or(0);
            let centres = match self.grouping {
                Grouping::Ball => level.centres.min(most),
                Grouping::Nearest => level.centres,
            };
            let chosen = clouds.par_iter().map(|cloud| {
                let chosen = farthest_points(cloud, centres).into_iter();
                chosen.map(|index| cloud[index]).collect()
            });
            let chosen: Vec<Vec<Point>> = chosen.collect();
            let scales = level.scales.iter().map(|scale| {
                let groups = self.groups(scale, &clouds, &chosen, centres);
                let x = concatenate_groups(pass, features.as_ref(), groups)?;
                pooled(pass, &x, &scale.layers)
            });
            let found = scales.collect::<Result<Vec<_>>>()?;
            features = Some(match &found[..] {
                [one] => one.clone(),
                several => Tensor::cat(several, 1)?,
            });
            clouds = chosen;
        }
        if self.center_last {
            clouds.iter_mut().for_each(|cloud| center(cloud));
        }
        let rows: usize = clouds.iter().map(Vec::len).sum();
        let groups = Groups {
            shape: [clouds.len(), 1, rows / clouds.len().max(1)],
            coordinates: clouds.concat(),
            rows: (0..rows).collect(),
            coordinates_first: true,
        };
        let x = concatenate_groups(pass, features.as_ref(), groups)?;
        let x = pooled(pass, &x, &self.last)?;
        let x = dropout_examples(pass, &x, (Site::Output, self.dropout))?;
        match &self.projector {
            Some(projector) => projector.forward(pass, &x),
            None => Ok(x),
        }
    }
}

/// Moves points so that their mean is the origin.
fn center(points: &mut [Point]) {
    let count = points.len() as f32;
    let mean = [0, 1, 2].map(|i| points.iter().map(|point| point[i]).sum::<f32>() / count);
    for point in points {
        *point = [0, 1, 2].map(|i| point[i] - mean[i]);
    }
}

impl PointNet {
    /// Returns the groups around `count` centres of each cloud.
    fn groups(
        &self,
        scale: &BuiltScale,
        clouds: &[Vec<Point>],
        centres: &[Vec<Point>],
        count: usize,
    ) -> Groups {
        let size = scale.points;
        let mut first = 0;
        let firsts: Vec<usize> = clouds
            .iter()
            .map(|cloud| {
                let own = first;
                first += cloud.len();
                own
            })
            .collect();
        let found: Vec<(Vec<usize>, Vec<Point>)> = clouds
            .par_iter()
            .zip(centres)
            .zip(firsts)
            .map(|((cloud, centres), first)| {
                let mut indices = Vec::with_capacity(centres.len() * size);
                for centre in centres {
                    match self.grouping {
                        Grouping::Ball => {
                            points_within(cloud, *centre, scale.radius, size, &mut indices)
                        }
                        Grouping::Nearest => nearest(cloud, *centre, size, &mut indices),
                    }
                }
                let around = indices.chunks_exact(size).zip(centres);
                let coordinates = around.flat_map(|(indices, centre)| {
                    let own = indices.iter().map(|index| cloud[*index]);
                    own.map(|point| [0, 1, 2].map(|i| point[i] - centre[i]))
                });
                let coordinates = coordinates.collect();
                indices.iter_mut().for_each(|index| *index += first);
                (indices, coordinates)
            })
            .collect();
        let (rows, coordinates): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Groups {
            shape: [clouds.len(), count, size],
            coordinates: coordinates.concat(),
            rows: rows.concat(),
            coordinates_first: self.kind == Kind::Ssg,
        }
    }
}

impl Network for PointNet {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::PointClouds(batch) => self.encode_clouds(pass, batch).map(Some),
            _ => Ok(None),
        }
    }
}

/// `second(relu(norm(first(x))))`
pub(super) struct Projector {
    first: Linear,
    norm: ConvNorm,
    second: Linear,
}

impl Projector {
    pub(super) fn load(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let hidden = inputs * PROJECTOR_GROWTH;
        let [first, norm, second] = PROJECTOR;
        Ok(Self {
            first: Linear::load(params, first, inputs, hidden, false)?,
            norm: ConvNorm {
                kind: ConvKind::None,
                weight: None,
                inputs: hidden,
                outputs: hidden,
                kernel: 1,
                stride: 1,
                padding: Padding::Both(0),
                norm: BatchNorm::load(params, norm, hidden, EPS)?,
                curve: Curve::Relu,
            },
            second: Linear::load(params, second, hidden, outputs, true)?,
        })
    }

    fn forward(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let x = linear(pass, x, &self.first)?;
        let (rows, width) = x.dims2()?;
        let x = self
            .norm
            .forward(pass, &x.reshape((rows, 1, 1, width))?, None)?;
        linear(pass, &x.reshape((rows, width))?, &self.second)
    }
}
