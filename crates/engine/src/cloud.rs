//! Point clouds: batches, sampling and normalisation.

use std::ops::Range;

use rand_chacha::rand_core::Rng;

use crate::{
    Error, Result,
    draw::{Draw, draw_normal, sample},
};

/// Standard deviation of the random shift of points in training.
///
/// It applies to clouds of radius 1.
const JITTER: f64 = 0.02;

/// A batch of point clouds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CloudBatch {
    /// The points of all clouds, concatenated.
    pub points: Vec<[f32; 3]>,
    /// Number of points in each cloud.
    pub lengths: Vec<usize>,
}

impl CloudBatch {
    /// Concatenates clouds.
    pub(crate) fn of(clouds: Vec<Vec<[f32; 3]>>) -> Self {
        Self {
            lengths: clouds.iter().map(Vec::len).collect(),
            points: clouds.concat(),
        }
    }

    /// Returns the clouds at these indices.
    pub(crate) fn slice(&self, places: Range<usize>) -> Self {
        let before: usize = self.lengths[..places.start].iter().sum();
        let lengths = self.lengths[places].to_vec();
        let count: usize = lengths.iter().sum();
        Self {
            points: self.points[before..before + count].to_vec(),
            lengths,
        }
    }

    /// Returns the points of each cloud.
    pub(crate) fn clouds(&self) -> impl Iterator<Item = &[[f32; 3]]> {
        let mut rest = &self.points[..];
        self.lengths.iter().map(move |length| {
            let (own, others) = rest.split_at((*length).min(rest.len()));
            rest = others;
            own
        })
    }
}

/// Draws points from a cloud and scales them to the unit sphere.
///
/// This equals the preprocessing of the Python Finetuner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloudSampler {
    /// Maximum number of points to draw from a cloud.
    pub points: usize,
}

impl CloudSampler {
    /// Draws points in random order, and scales them to the unit sphere.
    ///
    /// The points are centred, and the farthest is scaled to a distance of 1. Without
    /// `draw`, the order is always the same; training draws a new order in each epoch.
    /// If `draw` asks for augmentation, the cloud is rotated around the y axis and each
    /// point is shifted by a small random amount.
    ///
    /// # Errors
    /// [`Error::Data`] for a cloud without extent, or with values that are not finite.
    pub fn sample(&self, cloud: &[[f32; 3]], draw: Option<&Draw>) -> Result<Vec<[f32; 3]>> {
        check_cloud(cloud).map_err(|reason| Error::data(format!("the point cloud {reason}")))?;
        let still = Draw {
            seed: 0,
            epoch: 0,
            example: 0,
            augment: false,
        };
        let draw = draw.unwrap_or(&still);
        let mut random = draw.random(0);
        let mut points = cloud.to_vec();
        sample(&mut points, self.points, &mut random);
        normalize(&mut points);
        if draw.augment {
            let angle = f64::from(random.next_u32()) / f64::from(u32::MAX);
            let (sin, cos) = (angle * std::f64::consts::TAU).sin_cos();
            let (sin, cos) = (sin as f32, cos as f32);
            for point in &mut points {
                let [x, y, z] = *point;
                *point = [x * cos + z * sin, y, z * cos - x * sin]
                    .map(|x| x + draw_normal(&mut random, JITTER));
            }
        }
        Ok(points)
    }
}

/// Centres points and scales the farthest to a distance of 1.
fn normalize(points: &mut [[f32; 3]]) {
    let count = points.len() as f64;
    let mean = [0, 1, 2].map(|i| points.iter().map(|p| f64::from(p[i])).sum::<f64>() / count);
    let centred = |p: &[f32; 3]| [0, 1, 2].map(|i| f64::from(p[i]) - mean[i]);
    let length = |p: [f64; 3]| p.iter().map(|x| x * x).sum::<f64>().sqrt();
    let radius = points.iter().map(|p| length(centred(p)));
    let radius = radius.fold(0.0, f64::max);
    // All points drawn from a cloud may be equal.
    let scale = if radius > 0.0 { radius } else { 1.0 };
    for point in points {
        *point = centred(point).map(|x| (x / scale) as f32);
    }
}

/// Returns why a cloud can't be embedded.
pub(crate) fn check_cloud(points: &[[f32; 3]]) -> Result<(), String> {
    let Some(first) = points.first() else {
        return Err("has no points".to_owned());
    };
    if let Some(value) = points.as_flattened().iter().find(|x| !x.is_finite()) {
        return Err(format!("holds {value}"));
    }
    if points.iter().all(|point| point == first) {
        return Err("has no extent: all its points are the same".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corners of a box.
    fn corners() -> Vec<[f32; 3]> {
        let corner = |i: usize| [i & 1, i >> 1 & 1, i >> 2].map(|bit| 5.0 + 2.0 * bit as f32);
        (0..8).map(corner).collect()
    }

    fn draw(epoch: usize, augment: bool) -> Draw {
        Draw {
            seed: 3,
            epoch,
            example: 1,
            augment,
        }
    }

    fn sorted(mut points: Vec<[f32; 3]>) -> Vec<[f32; 3]> {
        points.sort_by(|a, b| a.partial_cmp(b).unwrap());
        points
    }

    #[test]
    fn clouds_are_scaled_to_the_unit_sphere() {
        let found = CloudSampler { points: 100 }
            .sample(&corners(), None)
            .unwrap();
        let side = 1.0 / 3f32.sqrt();
        for point in &found {
            assert!(
                point.iter().all(|x| (x.abs() - side).abs() < 1e-6),
                "{point:?}"
            );
        }
        let signs = sorted(found.iter().map(|p| p.map(f32::signum)).collect());
        let cube = sorted(corners().iter().map(|p| p.map(|x| x - 6.0)).collect());
        assert_eq!(signs, cube);
    }

    #[test]
    fn each_epoch_draws_new_points_and_inference_the_same_ones() {
        let sampler = CloudSampler { points: 4 };
        let sample = |draw: Option<Draw>| sampler.sample(&corners(), draw.as_ref()).unwrap();
        assert_eq!(sample(None), sample(None));
        assert_eq!(sample(Some(draw(1, false))), sample(Some(draw(1, false))));
        let epochs: Vec<_> = (0..5)
            .map(|epoch| sample(Some(draw(epoch, false))))
            .collect();
        assert!(epochs.windows(2).any(|pair| pair[0] != pair[1]));
        assert!(epochs.iter().all(|points| points.len() == 4));
    }

    #[test]
    fn rotated_clouds_keep_their_height_and_radius() {
        let sampler = CloudSampler { points: 8 };
        let still = sampler.sample(&corners(), Some(&draw(2, false))).unwrap();
        let turned = sampler.sample(&corners(), Some(&draw(2, true))).unwrap();
        assert_ne!(still, turned);
        let around = |p: &[f32; 3]| (p[0] * p[0] + p[2] * p[2]).sqrt();
        for (a, b) in still.iter().zip(&turned) {
            assert!((a[1] - b[1]).abs() < 0.12 && (around(a) - around(b)).abs() < 0.12);
        }
    }

    #[test]
    fn clouds_without_extent_are_rejected() {
        let refused = |points: &[[f32; 3]]| {
            let error = CloudSampler { points: 8 }.sample(points, None);
            error.unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("no points"));
        assert!(refused(&[[1.0; 3]; 4]).contains("all its points are the same"));
        assert!(refused(&[[1.0; 3], [f32::NAN; 3]]).contains("holds NaN"));
    }
}
