//! Relative positions in attention: rotary embedding of queries and keys, or a
//! bias that depends on the distance.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{Pass, floats, node::node, tensors::rows_at, with_grad};
use crate::{Result, params::Param};

/// Rotary embeddings (Su et al. 2021, arXiv:2104.09864). They rotate elements
/// `i` and `i + half` of a head as a pair, as in GPT-NeoX.
#[derive(Clone)]
pub(crate) struct Rotary {
    /// Angle of each pair at position 1, in radians.
    steps: Arc<[f32]>,
}

impl Rotary {
    /// Creates embeddings of heads of `head` elements with the base `theta`, in
    /// single precision like `transformers`.
    pub(crate) fn new(theta: f32, head: usize) -> Self {
        let step = |i| 1.0 / theta.powf((2 * i) as f32 / head as f32);
        Self {
            steps: (0..head / 2).map(step).collect(),
        }
    }

    /// Returns the angle of each pair from one position to the next, in
    /// radians.
    pub(crate) fn steps(&self) -> &[f32] {
        &self.steps
    }

    /// Returns cosine and sine of all angles, `[longest, half]`.
    fn table(&self, longest: usize) -> [Vec<f32>; 2] {
        let angles = (0..longest)
            .flat_map(|position| self.steps.iter().map(move |step| position as f32 * step));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        [cos, sin]
    }

    /// Rotates each head of queries and keys by its row's position. `back`
    /// inverts the rotation, as gradients need it.
    pub(super) fn rotate(&self, rows: [(&mut [f32], &[usize], usize); 2], back: bool) {
        let half = self.steps.len();
        let positions = rows.iter().flat_map(|(_, positions, _)| positions.iter());
        let longest = positions.max().map_or(0, |position| position + 1);
        let [cos, sin] = self.table(longest);
        let sign = if back { -1.0 } else { 1.0 };
        for (rows, positions, width) in rows {
            rows.par_chunks_exact_mut(width)
                .zip(positions)
                .for_each(|(row, position)| {
                    let angles = position * half..(position + 1) * half;
                    let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                    for head in row.chunks_exact_mut(2 * half) {
                        let (a, b) = head.split_at_mut(half);
                        for (((a, b), &cos), &sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                            let sin = sin * sign;
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                });
        }
    }

    /// Rotates `[rows, heads * head]` on any device, with a position per row.
    pub(super) fn composite(&self, pass: &Pass, x: &Tensor, positions: &[usize]) -> Result<Tensor> {
        let longest = positions.iter().max().map_or(0, |position| position + 1);
        let half = self.steps.len();
        let index: Vec<u32> = positions.iter().map(|position| *position as u32).collect();
        let index = Tensor::from_vec(index, positions.len(), x.device())?;
        let tables = self.table(longest).map(|values| {
            let table = Tensor::from_vec(values, (longest, half), x.device())?;
            table.index_select(&index, 0)?.unsqueeze(1)
        });
        let [cos, sin] = tables;
        let (cos, sin) = (cos?, sin?);
        // The backward pass is the inverse rotation.
        let rotate = move |x: &Tensor, back: bool| -> candle_core::Result<Tensor> {
            let (rows, width) = x.dims2()?;
            let x = x.reshape((rows, width / (2 * half).max(1), 2 * half))?;
            let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
            let (a_sin, b_sin) = (a.broadcast_mul(&sin)?, b.broadcast_mul(&sin)?);
            let (a_cos, b_cos) = (a.broadcast_mul(&cos)?, b.broadcast_mul(&cos)?);
            let halves = match back {
                false => [(a_cos - b_sin)?, (b_cos + a_sin)?],
                true => [(a_cos + b_sin)?, (b_cos - a_sin)?],
            };
            Tensor::cat(&halves, 2)?.reshape((rows, width))
        };
        let y = rotate(&x.detach(), false)?;
        node(pass, x, y, move |g, wanted| {
            wanted.then(|| rotate(g, true)).transpose()
        })
    }
}

/// A bias of attention scores per head, by the distance from query to key.
#[derive(Clone)]
pub(crate) enum PositionBias {
    /// Minus the distance times a slope per head (ALiBi; Press et al. 2022,
    /// arXiv:2108.12409), in both directions.
    Slopes(Arc<[f32]>),
    /// A learned bias per bucket of distances (T5; Raffel et al. 2020,
    /// arXiv:1910.10683).
    Buckets {
        /// `[buckets, heads]`
        table: Arc<Param>,
        /// From this distance on, all distances share the last bucket.
        max_distance: usize,
    },
}

/// A bias per head and distance, `[heads, 2 * longest - 1]`.
pub(super) struct Distances {
    longest: usize,
    values: Vec<f32>,
}

impl Distances {
    pub(super) fn zeros(heads: usize, longest: usize) -> Self {
        Self {
            longest,
            values: vec![0.0; heads * (2 * longest).saturating_sub(1)],
        }
    }

    fn range(&self, head: usize, position: usize, length: usize) -> std::ops::Range<usize> {
        let start = head * (2 * self.longest - 1) + self.longest - 1 - position;
        start..start + length
    }

    /// Returns the biases of one query and all keys of its sequence.
    pub(super) fn row(&self, head: usize, position: usize, length: usize) -> &[f32] {
        &self.values[self.range(head, position, length)]
    }

    pub(super) fn row_mut(&mut self, head: usize, position: usize, length: usize) -> &mut [f32] {
        let range = self.range(head, position, length);
        &mut self.values[range]
    }

    /// Returns head and signed distance of each value.
    fn positions(&self) -> impl Iterator<Item = (usize, isize)> + use<> {
        let (longest, each) = (self.longest, (2 * self.longest).saturating_sub(1));
        (0..self.values.len()).map(move |i| {
            let distance = (i % each) as isize - (longest as isize - 1);
            (i / each, distance)
        })
    }
}

impl PositionBias {
    /// Returns ALiBi's slopes for this many heads. If it is a power of two,
    /// they are a geometric sequence; else they add every second slope of the
    /// next power of two to those of the previous one.
    pub(crate) fn alibi(heads: usize) -> Self {
        fn slopes(heads: usize) -> Vec<f64> {
            if heads.is_power_of_two() {
                let start = 2f64.powf(-8.0 / heads as f64);
                return (1..=heads).map(|i| start.powi(i as i32)).collect();
            }
            let below = heads.next_power_of_two() / 2;
            let more = slopes(2 * below);
            let between = more.into_iter().step_by(2).take(heads - below);
            slopes(below).into_iter().chain(between).collect()
        }
        Self::Slopes(
            slopes(heads)
                .into_iter()
                .map(|slope| slope as f32)
                .collect(),
        )
    }

    /// Returns all biases for sequences of up to `longest` positions.
    pub(super) fn distances(&self, heads: usize, longest: usize) -> candle_core::Result<Distances> {
        let mut all = Distances::zeros(heads, longest);
        let positions = all.positions();
        match self {
            Self::Slopes(slopes) => {
                for (value, (head, distance)) in all.values.iter_mut().zip(positions) {
                    *value = -slopes[head] * distance.unsigned_abs() as f32;
                }
            }
            Self::Buckets {
                table,
                max_distance,
            } => {
                let (count, heads) = table.tensor().dims2()?;
                let table = floats(table.tensor())?;
                for (value, (head, distance)) in all.values.iter_mut().zip(positions) {
                    *value = table[bucket(distance, count, *max_distance) * heads + head];
                }
            }
        }
        Ok(all)
    }

    /// Returns a row for each distance from `-max_distance` to `max_distance`,
    /// with a bias per head; empty for ALiBi.
    pub(crate) fn by_distance(&self) -> Result<Vec<f32>> {
        let Self::Buckets {
            table,
            max_distance,
        } = self
        else {
            return Ok(Vec::new());
        };
        let (count, heads) = table.tensor().dims2()?;
        let (values, limit) = (table.to_vec()?, *max_distance as isize);
        let rows = (-limit..=limit).flat_map(|distance| {
            let row = bucket(distance, count, *max_distance) * heads;
            values[row..row + heads].iter().copied()
        });
        Ok(rows.collect())
    }

    /// Returns whether training changes the bias.
    pub(super) fn is_trainable(&self) -> bool {
        matches!(self, Self::Buckets { table, .. } if table.is_trainable())
    }

    /// Adds gradients by distance to the table's gradient.
    pub(super) fn backward(&self, all: &Distances) -> candle_core::Result<()> {
        if let Self::Buckets {
            table,
            max_distance,
        } = self
        {
            let (count, heads) = table.tensor().dims2()?;
            with_grad(table, |grad| {
                for (value, (head, distance)) in all.values.iter().zip(all.positions()) {
                    grad[bucket(distance, count, *max_distance) * heads + head] += value;
                }
            });
        }
        Ok(())
    }

    /// Returns the biases of these distances on any device, `[heads,
    /// distances]`.
    pub(super) fn at(&self, distances: &[isize], device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Self::Slopes(slopes) => {
                let values = slopes.iter().flat_map(|slope| {
                    let values = distances.iter();
                    values.map(move |distance| -slope * distance.unsigned_abs() as f32)
                });
                let values: Vec<f32> = values.collect();
                Tensor::from_vec(values, (slopes.len(), distances.len()), device)
            }
            Self::Buckets {
                table,
                max_distance,
            } => {
                let count = table.tensor().dim(0)?;
                let rows = distances.iter();
                let rows: Vec<u32> = rows
                    .map(|distance| bucket(*distance, count, *max_distance) as u32)
                    .collect();
                rows_at(&table.tensor().detach(), &rows)?.t()?.contiguous()
            }
        }
    }

    /// Adds the gradients of [`PositionBias::at`] to the table's gradient.
    pub(super) fn add_gradient_at(
        &self,
        distances: &[isize],
        g: &Tensor,
    ) -> candle_core::Result<()> {
        let Self::Buckets {
            table,
            max_distance,
        } = self
        else {
            return Ok(());
        };
        let count = table.tensor().dim(0)?;
        // A one-hot row for each distance: there are few buckets.
        let mut member = vec![0f32; distances.len() * count];
        for (row, distance) in member.chunks_exact_mut(count).zip(distances) {
            row[bucket(*distance, count, *max_distance)] = 1.0;
        }
        let member = Tensor::from_vec(member, (distances.len(), count), g.device())?;
        table.add_gradient(&g.matmul(&member)?.t()?)
    }
}

/// Returns the bucket, of `count`, of a distance from query to key. Half of the
/// buckets are for later keys. In each half, the first half is for single
/// distances, and the others grow logarithmically up to `max_distance`.
fn bucket(distance: isize, count: usize, max_distance: usize) -> usize {
    let half = count / 2;
    let later = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs();
    let exact = half / 2;
    if distance < exact {
        return later + distance;
    }
    // In single precision, to round like `transformers`.
    let part = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
    let more = (part * (half - exact) as f32) as usize;
    later + (exact + more).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_at_the_distances_of_transformers() {
        // `T5Attention._relative_position_bucket` with 32 buckets up to 128.
        let starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 0..200_usize {
            let expected = starts.iter().filter(|start| **start <= distance).count() - 1;
            let signed = distance as isize;
            assert_eq!(bucket(-signed, 32, 128), expected, "-{distance}");
            let later = if distance > 0 { 16 + expected } else { 0 };
            assert_eq!(bucket(signed, 32, 128), later, "{distance}");
        }
    }

    #[test]
    fn slopes_are_those_of_the_paper_for_any_number_of_heads() {
        let slopes = |heads| match PositionBias::alibi(heads) {
            PositionBias::Slopes(slopes) => slopes.to_vec(),
            PositionBias::Buckets { .. } => unreachable!(),
        };
        let eight: Vec<f32> = (1..=8).map(|i| 0.5f32.powi(i)).collect();
        assert_eq!(slopes(8), eight);
        let twelve = slopes(12);
        assert_eq!(twelve[..8], eight);
        for (i, slope) in twelve[8..].iter().enumerate() {
            assert!((slope - 0.5f32.powf(0.5 + i as f32)).abs() < 1e-7);
        }
    }
}
