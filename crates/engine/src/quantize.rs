//! Smaller embeddings: fewer dimensions, 8 bits per value, or one bit per
//! value.
//!
//! Values equal those of `quantize_embeddings` and of search with rescoring in
//! sentence-transformers, so that an index can be built here and used there.

use rayon::prelude::*;

use crate::{
    Error, Result,
    evaluation::{Match, Ranking, largest_first, smallest_first},
    infer::{Embeddings, check_truncation},
};

/// The minimum and maximum of each dimension, which 256 quantisation levels
/// span.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranges {
    lows: Vec<f32>,
    highs: Vec<f32>,
}

impl Ranges {
    /// Computes the ranges of these embeddings. There should be many (100 or
    /// more), similar to those to quantise; values outside the ranges are
    /// clipped.
    ///
    /// # Errors
    /// [`Error::Data`] for fewer than two embeddings, or if a value is not
    /// finite.
    pub fn calibrate(embeddings: &Embeddings) -> Result<Self> {
        if embeddings.len() < 2 {
            return Err(Error::data(format!(
                "ranges can't be computed from {} embeddings; give 2 or more, better 100",
                embeddings.len()
            )));
        }
        let mut lows = vec![f32::INFINITY; embeddings.dim];
        let mut highs = vec![f32::NEG_INFINITY; embeddings.dim];
        for (number, row) in embeddings.iter().enumerate() {
            for ((low, high), x) in lows.iter_mut().zip(&mut highs).zip(row) {
                if !x.is_finite() {
                    return Err(Error::data(format!(
                        "embedding {number} has the value {x}, which is not finite"
                    )));
                }
                (*low, *high) = (low.min(*x), high.max(*x));
            }
        }
        Ok(Self { lows, highs })
    }

    /// Creates ranges from known minima and maxima per dimension.
    ///
    /// # Errors
    /// [`Error::Data`] if the lengths differ, or if a minimum is above its
    /// maximum or not finite.
    pub fn new(lows: Vec<f32>, highs: Vec<f32>) -> Result<Self> {
        if lows.len() != highs.len() {
            return Err(Error::data(format!(
                "{} low values for {} high ones",
                lows.len(),
                highs.len()
            )));
        }
        for (dimension, (low, high)) in lows.iter().zip(&highs).enumerate() {
            if !(low.is_finite() && high.is_finite() && low <= high) {
                return Err(Error::data(format!(
                    "the range of dimension {dimension} goes from {low} to {high}"
                )));
            }
        }
        Ok(Self { lows, highs })
    }

    /// Returns the minimum of each dimension.
    #[must_use]
    pub fn lows(&self) -> &[f32] {
        &self.lows
    }

    /// Returns the maximum of each dimension.
    #[must_use]
    pub fn highs(&self) -> &[f32] {
        &self.highs
    }

    /// Returns the distance of quantisation levels in each dimension.
    fn steps(&self) -> Vec<f32> {
        let ranges = self.lows.iter().zip(&self.highs);
        let steps = ranges.map(|(low, high)| (high - low) / 255.0);
        steps.map(|s| if s == 0.0 { 1.0 } else { s }).collect()
    }

    /// Quantises embeddings to unsigned 8-bit integers, with 0 for the minimum.
    ///
    /// # Errors
    /// [`Error::Data`] if the embeddings have another dimension.
    pub fn to_uint8(&self, embeddings: &Embeddings) -> Result<Vec<u8>> {
        same_dim(embeddings.dim, self.lows.len())?;
        let steps = self.steps();
        let round = |row: &[f32], out: &mut [u8]| {
            let ranges = self.lows.iter().zip(&steps);
            for ((out, x), (low, step)) in out.iter_mut().zip(row).zip(ranges) {
                *out = ((x - low) / step).floor().clamp(0.0, 255.0) as u8;
            }
        };
        let dim = embeddings.dim.max(1);
        let mut values = vec![0; embeddings.values.len()];
        values
            .par_chunks_exact_mut(dim)
            .zip(embeddings.values.par_chunks_exact(dim))
            .for_each(|(out, row)| round(row, out));
        Ok(values)
    }

    /// Quantises embeddings to signed 8-bit integers, with -128 for the
    /// minimum.
    ///
    /// # Errors
    /// [`Error::Data`] if the embeddings have another dimension.
    pub fn to_int8(&self, embeddings: &Embeddings) -> Result<Int8Embeddings> {
        let values = self.to_uint8(embeddings)?;
        Ok(Int8Embeddings {
            ranges: self.clone(),
            values: values.into_iter().map(|q| (q ^ 128) as i8).collect(),
        })
    }
}

/// Embeddings with 8 bits per dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Embeddings {
    ranges: Ranges,
    values: Vec<i8>,
}

impl Int8Embeddings {
    /// Creates embeddings from quantised values and their ranges.
    ///
    /// # Errors
    /// [`Error::Data`] if the number of values is not a multiple of the
    /// dimension.
    pub fn new(ranges: Ranges, values: Vec<i8>) -> Result<Self> {
        whole_rows(values.len(), ranges.lows.len(), "values")?;
        Ok(Self { ranges, values })
    }

    /// Returns all values, embedding by embedding.
    #[must_use]
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// Returns the number of embeddings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dim()).unwrap_or(0)
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the dimension of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.ranges.lows.len()
    }

    /// Finds the `limit` embeddings with the largest inner product with each
    /// query, best first. First searches `multiplier` times as many candidates
    /// with the query quantised to 8 bits, then rescores these with the
    /// original query.
    ///
    /// # Errors
    /// [`Error::Data`] if the queries have another dimension.
    pub fn search(
        &self,
        queries: &Embeddings,
        limit: usize,
        multiplier: usize,
    ) -> Result<Vec<Vec<Found>>> {
        same_dim(queries.dim, self.dim())?;
        let (dim, steps) = (self.dim().max(1), self.ranges.steps());
        let candidates = limit.saturating_mul(multiplier.max(1));
        let found = queries.values.par_chunks_exact(dim).map(|query| {
            let rounded = round_weights(query, &steps);
            let product = |row: &[i8]| -> i64 {
                let pairs = row.iter().zip(&rounded);
                pairs.map(|(a, b)| i64::from(*a) * i64::from(*b)).sum()
            };
            let rows = self.values.chunks_exact(dim);
            let coarse = rows.map(|row| -product(row) as f32);
            let score = |index: usize| {
                let row = &self.values[index * dim..][..dim];
                let ranges = self.ranges.lows.iter().zip(&steps);
                let values = row.iter().zip(ranges);
                values
                    .zip(query)
                    .map(|((q, (low, step)), x)| {
                        let value = (f64::from(*q) + 128.0) * f64::from(*step);
                        (value + f64::from(*low)) * f64::from(*x)
                    })
                    .sum::<f64>() as f32
            };
            rescore(nearest(coarse, candidates), score, limit)
        });
        Ok(found.collect())
    }
}

/// Embeddings with one bit per dimension: whether the value is positive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryEmbeddings {
    dim: usize,
    bytes: Vec<u8>,
}

impl BinaryEmbeddings {
    /// Creates embeddings from packed bits, eight dimensions per byte, the
    /// first in the highest bit.
    ///
    /// # Errors
    /// [`Error::Data`] if the number of bytes is not a multiple of an
    /// embedding's.
    pub fn new(dim: usize, bytes: Vec<u8>) -> Result<Self> {
        whole_rows(bytes.len(), dim.div_ceil(8), "bytes")?;
        Ok(Self { dim, bytes })
    }

    /// Returns the packed bits: `ubinary` in sentence-transformers.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the packed bits, with 128 subtracted from each byte: `binary` in
    /// sentence-transformers.
    #[must_use]
    pub fn signed(&self) -> Vec<i8> {
        self.bytes.iter().map(|byte| (byte ^ 128) as i8).collect()
    }

    /// Returns the number of embeddings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len().checked_div(self.row()).unwrap_or(0)
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the dimension of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Returns the number of bytes of an embedding.
    fn row(&self) -> usize {
        self.dim.div_ceil(8)
    }

    /// Returns the `limit` nearest embeddings of each query by Hamming
    /// distance.
    ///
    /// # Errors
    /// [`Error::Data`] if the queries have another dimension.
    pub fn nearest(&self, queries: &Self, limit: usize) -> Result<Vec<Ranking>> {
        same_dim(queries.dim, self.dim)?;
        let row = self.row().max(1);
        let rankings = queries.bytes.par_chunks_exact(row).map(|query| {
            let rows = self.bytes.chunks_exact(row);
            nearest(rows.map(|row| differing_bits(row, query) as f32), limit)
        });
        Ok(rankings.collect())
    }

    /// Finds `limit` embeddings for each query, best first. First searches
    /// `multiplier` times as many candidates by Hamming distance, then rescores
    /// these by the sum of the query's values at set bits.
    ///
    /// # Errors
    /// [`Error::Data`] if the queries have another dimension.
    pub fn search(
        &self,
        queries: &Embeddings,
        limit: usize,
        multiplier: usize,
    ) -> Result<Vec<Vec<Found>>> {
        let rankings = self.nearest(
            &queries.to_binary(),
            limit.saturating_mul(multiplier.max(1)),
        )?;
        let found = rankings
            .into_par_iter()
            .enumerate()
            .map(|(number, ranking)| {
                let query = queries.get(number);
                let score = |index: usize| {
                    let bytes = &self.bytes[index * self.row()..][..self.row()];
                    let bits = bytes.iter().zip(query.chunks(8));
                    bits.flat_map(|(byte, values)| {
                        let set = move |i: usize| byte >> (7 - i) & 1 == 1;
                        let values = values.iter().enumerate();
                        values.filter(move |(i, _)| set(*i)).map(|(_, x)| *x)
                    })
                    .sum()
                };
                rescore(ranking, score, limit)
            });
        Ok(found.collect())
    }
}

/// An embedding found by a search with rescoring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its position in the index.
    pub index: usize,
    /// Inner product with the query: higher is better.
    pub score: f32,
}

impl Embeddings {
    /// Quantises to one bit per dimension: whether the value is positive.
    #[must_use]
    pub fn to_binary(&self) -> BinaryEmbeddings {
        let pack = |values: &[f32]| {
            let bits = values.iter().enumerate();
            bits.fold(0, |byte, (i, x)| byte | u8::from(*x > 0.0) << (7 - i))
        };
        BinaryEmbeddings {
            dim: self.dim,
            bytes: self
                .iter()
                .flat_map(|row| row.chunks(8).map(pack))
                .collect(),
        }
    }

    /// Returns the first `dim` dimensions, normalised to length 1, for models
    /// trained with Matryoshka loss (Kusupati et al. 2022, arXiv:2205.13147).
    ///
    /// # Errors
    /// [`Error::Data`] if `dim` is 0 or above the dimension of the embeddings.
    pub fn truncated(&self, dim: usize) -> Result<Self> {
        check_truncation(dim, self.dim)?;
        let mut values = Vec::with_capacity(self.len() * dim);
        for row in self.iter() {
            let row = &row[..dim];
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            values.extend(row.iter().map(|x| x * scale));
        }
        Ok(Self { dim, values })
    }
}

/// Returns a query's weights per quantisation level of each dimension, in 8
/// bits. The minima of the ranges add the same constant to all products.
fn round_weights(query: &[f32], steps: &[f32]) -> Vec<i8> {
    let weights: Vec<f32> = query.iter().zip(steps).map(|(x, step)| x * step).collect();
    let largest = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let rounded = weights.iter().map(|w| (w * scale).round() as i8);
    rounded.collect()
}

fn same_dim(found: usize, expected: usize) -> Result<()> {
    if found != expected {
        return Err(Error::data(format!(
            "the embeddings have {found} dimensions, but those of the index or ranges {expected}"
        )));
    }
    Ok(())
}

fn whole_rows(values: usize, row: usize, what: &str) -> Result<()> {
    if row == 0 || !values.is_multiple_of(row) {
        return Err(Error::data(format!(
            "{values} {what} are not a multiple of the {row} of an embedding"
        )));
    }
    Ok(())
}

/// Returns the Hamming distance.
fn differing_bits(a: &[u8], b: &[u8]) -> u32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let words = a.iter().zip(b).map(|(a, b)| {
        let differing = u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
        differing.count_ones()
    });
    let rest = a_rest.iter().zip(b_rest);
    words.sum::<u32>() + rest.map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
}

/// Returns the `limit` smallest distances; of equal ones, the earlier first.
fn nearest(distances: impl Iterator<Item = f32>, limit: usize) -> Ranking {
    let matches = distances.enumerate();
    let mut matches: Ranking = matches
        .map(|(index, distance)| Match { index, distance })
        .collect();
    let order =
        |a: &Match, b: &Match| smallest_first(a.distance, b.distance).then(a.index.cmp(&b.index));
    if limit == 0 {
        matches.clear();
    } else if limit < matches.len() {
        matches.select_nth_unstable_by(limit - 1, order);
        matches.truncate(limit);
    }
    matches.sort_unstable_by(order);
    matches
}

/// Returns the `limit` candidates with the highest scores.
fn rescore(candidates: Ranking, score: impl Fn(usize) -> f32, limit: usize) -> Vec<Found> {
    let mut found: Vec<Found> = candidates
        .into_iter()
        .map(|Match { index, .. }| Found {
            index,
            score: score(index),
        })
        .collect();
    found.sort_by(|a, b| largest_first(a.score, b.score));
    found.truncate(limit);
    found
}
