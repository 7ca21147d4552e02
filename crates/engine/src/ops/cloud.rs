//! Operations on groups of points (PointNet++; Qi et al. 2017,
//! arXiv:1706.02413): selection of group centres and members, and the maximum
//! over each group. Selection always runs on the CPU.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{FusedOp, Pass, largest::first_largest, rows::take_rows};
use crate::Result;

/// A point in space.
pub(crate) type Point = [f32; 3];

/// Chooses `count` points by farthest point sampling: first the first point,
/// then always the one farthest from all chosen ones. Of equally distant points
/// it takes the first. After all points are chosen, it repeats the first.
pub(crate) fn farthest_points(points: &[Point], count: usize) -> Vec<usize> {
    let mut nearest = vec![f32::INFINITY; points.len()];
    let mut next = 0;
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count && next < points.len() {
        chosen.push(next);
        let centre = points[next];
        let mut farthest = f32::NEG_INFINITY;
        for (i, (point, nearest)) in points.iter().zip(&mut nearest).enumerate() {
            *nearest = nearest.min(squared_distance(*point, centre));
            if *nearest > farthest {
                (farthest, next) = (*nearest, i);
            }
        }
    }
    chosen
}

/// Appends the indices of the first `count` points within `radius` of `centre`.
/// If there are fewer, the first of them fills the rest.
pub(crate) fn points_within(
    points: &[Point],
    centre: Point,
    radius: f64,
    count: usize,
    found: &mut Vec<usize>,
) {
    let (begin, end) = (found.len(), found.len() + count);
    let limit = (radius * radius) as f32;
    let inside = points
        .iter()
        .enumerate()
        .filter(|(_, point)| squared_distance(**point, centre) <= limit);
    found.extend(inside.map(|(i, _)| i).take(count));
    let first = found.get(begin).copied().unwrap_or(0);
    found.resize(end, first);
}

/// Appends the indices of the `count` points nearest to `centre`. If there are
/// fewer points, the nearest fills the rest.
pub(crate) fn nearest(points: &[Point], centre: Point, count: usize, found: &mut Vec<usize>) {
    let end = found.len() + count;
    let distances = points.iter().map(|point| squared_distance(*point, centre));
    let mut all: Vec<(f32, usize)> = distances.zip(0..).collect();
    let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    let first = all.iter().copied().min_by(order).map_or(0, |(_, i)| i);
    found.extend(all.into_iter().map(|(_, i)| i));
    found.resize(end, first);
}

fn squared_distance(a: Point, b: Point) -> f32 {
    let [x, y, z] = [0, 1, 2].map(|i| (a[i] - b[i]) * (a[i] - b[i]));
    x + y + z
}

/// Groups of points, of the same size in every cloud of a batch.
pub(crate) struct Groups {
    /// `[clouds, groups, points of a group]`
    pub(crate) shape: [usize; 3],
    /// Coordinates of each point, usually relative to its group's centre.
    pub(crate) coordinates: Vec<Point>,
    /// The feature row of each point. Rows of one cloud are contiguous.
    pub(crate) rows: Vec<usize>,
    /// Whether coordinates come before features.
    pub(crate) coordinates_first: bool,
}

/// Concatenates coordinates and features of grouped points, to `[clouds,
/// groups, points, 3 + width]`. Features are `[rows, width]`, with the same
/// number of rows for each cloud.
pub(crate) fn concatenate_groups(
    pass: &Pass,
    features: Option<&Tensor>,
    groups: Groups,
) -> Result<Tensor> {
    let features = match features {
        Some(features) if pass.is_fused() => return pass.apply(features, Group(groups)),
        features => features,
    };
    let [clouds, count, points] = groups.shape;
    let values: Vec<f32> = groups.coordinates.into_iter().flatten().collect();
    let shape = (clouds, count, points, 3);
    let coordinates = Tensor::from_vec(values, shape, pass.anchor.device())?;
    let Some(features) = features else {
        return Ok(coordinates);
    };
    let rows = groups.rows.iter().map(|row| *row as u32).collect();
    let features = take_rows(pass, features, rows)?;
    let features = features.reshape((clouds, count, points, ()))?;
    let parts = match groups.coordinates_first {
        true => [coordinates, features],
        false => [features, coordinates],
    };
    Ok(Tensor::cat(&parts, 3)?)
}

struct Group(Groups);

impl FusedOp for Group {
    const NAME: &'static str = "group-points";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [_, width] = *shape else {
            candle_core::bail!("grouping takes [rows, width]")
        };
        let Groups {
            shape: [clouds, count, points],
            coordinates,
            rows,
            coordinates_first,
        } = &self.0;
        let mut y = vec![0.0; rows.len() * (3 + width)];
        y.par_chunks_exact_mut(3 + width)
            .zip(coordinates)
            .zip(rows)
            .for_each(|((y, coordinates), row)| {
                let features = &x[row * width..(row + 1) * width];
                if *coordinates_first {
                    y[..3].copy_from_slice(coordinates);
                    y[3..].copy_from_slice(features);
                } else {
                    y[..width].copy_from_slice(features);
                    y[width..].copy_from_slice(coordinates);
                }
            });
        Ok((y, vec![*clouds, *count, *points, 3 + width]))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        let [clouds, count, points] = self.0.shape;
        if !wanted || clouds == 0 {
            return Ok(None);
        }
        let width = shape[1];
        let start = if self.0.coordinates_first { 3 } else { 0 };
        let (own, grouped) = (x.len() / clouds, count * points);
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_mut(own.max(1))
            .zip(g.par_chunks(grouped * (3 + width)))
            .zip(self.0.rows.par_chunks(grouped))
            .enumerate()
            .for_each(|(cloud, ((dx, g), rows))| {
                let first = cloud * own / width.max(1);
                for (row, g) in rows.iter().zip(g.chunks_exact(3 + width)) {
                    let at = (row - first) * width;
                    let g = &g[start..start + width];
                    dx[at..at + width]
                        .iter_mut()
                        .zip(g)
                        .for_each(|(dx, g)| *dx += g);
                }
            });
        Ok(Some(dx))
    }
}

/// Returns the maximum over each group: `[clouds * groups, width]` for
/// `[clouds, groups, points, width]`.
pub(crate) fn max_of_groups(pass: &Pass, x: &Tensor) -> Result<Tensor> {
    if !pass.is_fused() {
        let (clouds, groups, points, width) = x.dims4()?;
        return first_largest(pass, &x.reshape((clouds * groups, points, width))?);
    }
    pass.apply(x, MaxOfGroups::default())
}

#[derive(Default)]
struct MaxOfGroups {
    /// The point of its group that each element came from.
    chosen: Mutex<Vec<u32>>,
}

impl FusedOp for MaxOfGroups {
    const NAME: &'static str = "max-of-groups";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [clouds, groups, points, width] = *shape else {
            candle_core::bail!("groups are [clouds, groups, points, width]")
        };
        let mut y = vec![f32::NEG_INFINITY; clouds * groups * width];
        let mut chosen = vec![0u32; y.len()];
        y.par_chunks_exact_mut(width)
            .zip(chosen.par_chunks_exact_mut(width))
            .zip(x.par_chunks_exact(points * width))
            .for_each(|((y, chosen), x)| {
                for (point, x) in x.chunks_exact(width).enumerate() {
                    for ((y, chosen), x) in y.iter_mut().zip(&mut *chosen).zip(x) {
                        if *x > *y {
                            (*y, *chosen) = (*x, point as u32);
                        }
                    }
                }
            });
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
        Ok((y, vec![clouds * groups, width]))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        if !wanted {
            return Ok(None);
        }
        let [.., points, width] = *shape else {
            candle_core::bail!("groups are [clouds, groups, points, width]")
        };
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_exact_mut(points * width)
            .zip(g.par_chunks_exact(width))
            .zip(chosen.par_chunks_exact(width))
            .for_each(|((dx, g), chosen)| {
                for (element, (g, point)) in g.iter().zip(chosen).enumerate() {
                    dx[*point as usize * width + element] += g;
                }
            });
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::{
        Kernels, Runtime,
        testing::{assert_close, noise, params},
    };

    /// A runtime with fused operations, and one with composite ones.
    fn both() -> [Runtime; 2] {
        [Kernels::Fused, Kernels::Composite].map(|kernels| {
            let mut runtime = Runtime::new(&params(&[], &[])).unwrap();
            runtime.kernels = kernels;
            runtime
        })
    }

    const LINE: [Point; 5] = [
        [0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0],
        [2.0, 0.0, 0.0],
        [10.0, 0.0, 0.0],
        [4.0, 0.0, 0.0],
    ];

    #[test]
    fn centres_are_far_from_each_other() {
        assert_eq!(farthest_points(&LINE, 3), [0, 3, 4]);
        assert_eq!(farthest_points(&LINE, 5), [0, 3, 4, 2, 1]);
        // All points are chosen.
        assert_eq!(farthest_points(&LINE[..2], 4), [0, 1, 0, 0]);
        assert!(farthest_points(&[], 4).is_empty());
    }

    #[test]
    fn a_ball_holds_the_first_points_within_its_radius() {
        let find = |count| {
            let mut found = vec![7];
            points_within(&LINE, LINE[2], 2.0, count, &mut found);
            found
        };
        assert_eq!(find(2), [7, 0, 1]);
        // The border belongs to the ball, and the first point fills the rest.
        assert_eq!(find(6), [7, 0, 1, 2, 4, 0, 0]);
    }

    #[test]
    fn the_nearest_points_are_found_at_any_position() {
        let find = |count| {
            let mut found = vec![7];
            nearest(&LINE, [3.4, 0.0, 0.0], count, &mut found);
            found[1..].sort_unstable();
            found
        };
        assert_eq!(find(2), [7, 2, 4]);
        assert_eq!(find(7), [7, 0, 1, 2, 3, 4, 4, 4]);
    }

    #[test]
    fn groups_equal_indexing_and_have_gradients() {
        let (width, clouds) = (4, 2);
        let rows = vec![0, 2, 2, 1, 4, 4, 3, 5];
        let coordinates: Vec<Point> = noise(1, 3 * rows.len())
            .chunks_exact(3)
            .map(|p| [p[0], p[1], p[2]])
            .collect();
        let x = Var::from_vec(noise(2, 6 * width), (6, width), &Device::Cpu).unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (runtime, coordinates_first) in both()
            .into_iter()
            .flat_map(|runtime| [true, false].map(|first| (runtime.clone(), first)))
        {
            let input = (x.as_tensor() * 1.0).unwrap();
            let indices: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
            let indices = Tensor::from_vec(indices, rows.len(), &Device::Cpu).unwrap();
            let plain = input.index_select(&indices, 0).unwrap();
            let values: Vec<f32> = coordinates.iter().flatten().copied().collect();
            let given = Tensor::from_vec(values, (rows.len(), 3), &Device::Cpu).unwrap();
            let parts = match coordinates_first {
                true => [&given, &plain],
                false => [&plain, &given],
            };
            let plain = Tensor::cat(&parts, 1).unwrap();
            let plain = plain.reshape((clouds, 2, 2, 3 + width)).unwrap();
            let groups = Groups {
                shape: [clouds, 2, 2],
                coordinates: coordinates.clone(),
                rows: rows.clone(),
                coordinates_first,
            };
            let found = concatenate_groups(&runtime.training(), Some(&input), groups).unwrap();
            assert_eq!(flat(&found), flat(&plain));
            let weights = noise(3, found.elem_count());
            let weights = Tensor::from_vec(weights, found.shape(), found.device()).unwrap();
            let of = |y: &Tensor| {
                let loss = (y * &weights).unwrap().sum_all().unwrap();
                flat(loss.backward().unwrap().get(&x).unwrap())
            };
            assert_close(&of(&found), &of(&plain), "features");
        }
    }

    #[test]
    fn the_largest_of_a_group_gets_the_gradient_once() {
        // Two groups of two points of two elements; 5 occurs twice.
        let values = vec![5.0f32, 1.0, 5.0, 2.0, -3.0, 8.0, -1.0, 7.0];
        for runtime in both() {
            let x = Var::from_vec(values.clone(), (1, 2, 2, 2), &Device::Cpu).unwrap();
            let input = (x.as_tensor() * 1.0).unwrap();
            let y = max_of_groups(&runtime.training(), &input).unwrap();
            assert_eq!(y.to_vec2::<f32>().unwrap(), [[5.0, 2.0], [-1.0, 8.0]]);
            let g = Tensor::from_vec(vec![1f32, 2.0, 4.0, 8.0], (2, 2), &Device::Cpu).unwrap();
            let grads = (y * g).unwrap().sum_all().unwrap().backward().unwrap();
            let found = grads.get(&x).unwrap().flatten_all().unwrap();
            assert_eq!(
                found.to_vec1::<f32>().unwrap(),
                [1.0, 0.0, 0.0, 2.0, 0.0, 8.0, 4.0, 0.0]
            );
        }
    }
}
