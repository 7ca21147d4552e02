//! Exhaustive search: compares every query with every document of the index.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::{Error, Result, kernels::gemm};

/// Distance between two embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// 1 minus the cosine similarity.
    Cosine,
    /// Euclidean distance.
    Euclidean,
    /// Squared Euclidean distance.
    SqEuclidean,
}

impl Distance {
    /// Parses the name that the Python Finetuner uses.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "cosine" => Ok(Self::Cosine),
            "euclidean" => Ok(Self::Euclidean),
            "sqeuclidean" => Ok(Self::SqEuclidean),
            _ => Err(Error::config(
                "callbacks.EvaluationCallback.distance",
                format!("`{name}` is not one of cosine, euclidean, sqeuclidean"),
            )),
        }
    }
}

/// A search result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// Index of the document.
    pub index: usize,
    /// Distance from the query.
    pub distance: f32,
}

/// Results of one query, nearest first.
pub type Ranking = Vec<Match>;

/// Number of queries per matrix product, which bounds the memory.
const BLOCK: usize = 256;

/// Returns the `limit` nearest documents of each query.
///
/// `queries` and `index` hold rows of `dim` values. Of equally distant documents, the
/// earlier one comes first.
#[must_use]
pub fn rank(
    queries: &[f32],
    index: &[f32],
    dim: usize,
    limit: usize,
    distance: Distance,
) -> Vec<Ranking> {
    if dim == 0 || queries.is_empty() {
        return Vec::new();
    }
    let documents = index.len() / dim;
    if documents == 0 {
        return vec![Ranking::new(); queries.len() / dim];
    }
    let squares = |rows: &[f32]| -> Vec<f32> {
        rows.chunks_exact(dim)
            .map(|row| row.iter().map(|x| x * x).sum())
            .collect()
    };
    let index_squares = squares(index);
    let mut dots = vec![0.0; BLOCK * documents];
    let mut all = Vec::with_capacity(queries.len() / dim);
    for block in queries.chunks(BLOCK * dim) {
        let rows = block.len() / dim;
        let dots = &mut dots[..rows * documents];
        gemm::matmul(
            gemm::MatMut::new(dots, rows, documents),
            gemm::Mat::new(block, rows, dim),
            gemm::Mat::new(index, documents, dim).t(),
            1.0,
            false,
            gemm::Threads::All,
        );
        let query_squares = squares(block);
        let rankings: Vec<Ranking> = dots
            .par_chunks(documents)
            .zip(&query_squares)
            .map(|(dots, &query_square)| {
                let ranking = dots.iter().zip(&index_squares).enumerate().map(
                    |(index, (&dot, &index_square))| Match {
                        index,
                        distance: between(distance, dot, query_square, index_square),
                    },
                );
                nearest(ranking.collect(), limit)
            })
            .collect();
        all.extend(rankings);
    }
    all
}

fn between(distance: Distance, dot: f32, a: f32, b: f32) -> f32 {
    let squared = || (a + b - 2.0 * dot).max(0.0);
    match distance {
        // The angle to a zero vector is undefined; use the distance of orthogonal
        // vectors.
        Distance::Cosine if a == 0.0 || b == 0.0 => 1.0,
        Distance::Cosine => {
            // The product of the squares of very short or long vectors is not a
            // normal number.
            let product = a * b;
            let lengths = match product.is_normal() {
                true => product.sqrt(),
                false => a.sqrt() * b.sqrt(),
            };
            1.0 - dot / lengths
        }
        Distance::Euclidean => squared().sqrt(),
        Distance::SqEuclidean => squared(),
    }
}

/// Returns the cosine similarity of two embeddings; 0 if one of them is zero.
#[must_use]
pub fn cos_sim(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    1.0 - between(Distance::Cosine, dot(a, b), dot(a, a), dot(b, b))
}

/// Orders distances, the smallest first. NaN of either sign comes last.
pub(crate) fn smallest_first(a: f32, b: f32) -> Ordering {
    let by_nan = a.is_nan().cmp(&b.is_nan());
    by_nan.then(a.total_cmp(&b))
}

/// Orders scores, the largest first. NaN of either sign comes last.
pub(crate) fn largest_first(a: f32, b: f32) -> Ordering {
    let by_nan = a.is_nan().cmp(&b.is_nan());
    by_nan.then(b.total_cmp(&a))
}

fn nearest(mut matches: Ranking, limit: usize) -> Ranking {
    let order =
        |a: &Match, b: &Match| smallest_first(a.distance, b.distance).then(a.index.cmp(&b.index));
    if limit < matches.len() && limit > 0 {
        matches.select_nth_unstable_by(limit - 1, order);
    }
    matches.truncate(limit);
    matches.sort_unstable_by(order);
    matches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_in_order_by_each_distance() {
        // Four points in the plane and one query. The cosine ignores lengths.
        let index = [1.0, 0.0, 0.0, 2.0, 3.0, 3.0, 1.0, 0.1];
        let query = [2.0, 0.2];
        let order = |distance, limit| -> Vec<usize> {
            rank(&query, &index, 2, limit, distance)[0]
                .iter()
                .map(|m| m.index)
                .collect()
        };
        assert_eq!(order(Distance::Cosine, 4), [3, 0, 2, 1]);
        assert_eq!(order(Distance::Cosine, 2), [3, 0]);
        assert_eq!(order(Distance::Euclidean, 4), [3, 0, 1, 2]);
        assert_eq!(order(Distance::SqEuclidean, 9), [3, 0, 1, 2]);
        let found = &rank(&query, &index, 2, 4, Distance::Euclidean)[0];
        assert!((found[1].distance - 1.04f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn ties_keep_the_order_of_the_index_and_zero_vectors_come_last() {
        let index = [1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0];
        let found: Vec<usize> = rank(&[1.0, 0.0], &index, 2, 4, Distance::Cosine)[0]
            .iter()
            .map(|m| m.index)
            .collect();
        assert_eq!(found, [0, 1, 3, 2]);
    }

    #[test]
    fn cosines_of_very_short_and_long_vectors_are_exact() {
        for length in [1e-15, 1e-12, 1e-10, 1.0, 1e10, 1e15] {
            let cosine = cos_sim(&[length, 0.0], &[length, length]);
            assert!((cosine - 0.5f32.sqrt()).abs() < 1e-6, "{length}: {cosine}");
        }
    }

    #[test]
    fn distances_that_are_not_numbers_come_last() {
        let distances = [-f32::NAN, 0.5, f32::NAN, 0.25, f32::INFINITY];
        let matches = distances.into_iter().enumerate();
        let matches: Ranking = matches
            .map(|(index, distance)| Match { index, distance })
            .collect();
        let places = |limit| -> Vec<usize> {
            let found = nearest(matches.clone(), limit);
            found.iter().map(|m| m.index).collect()
        };
        assert_eq!(places(2), [3, 1]);
        assert_eq!(places(3), [3, 1, 4]);
        assert_eq!(places(5)[..3], [3, 1, 4]);
    }

    #[test]
    fn scores_that_are_not_numbers_come_last() {
        let mut scores = [f32::NAN, 0.5, -f32::NAN, f32::NEG_INFINITY, 0.75];
        scores.sort_by(|a, b| largest_first(*a, *b));
        assert_eq!(scores[..3], [0.75, 0.5, f32::NEG_INFINITY]);
    }

    #[test]
    fn searches_more_queries_than_one_block_and_an_empty_index() {
        let index: Vec<f32> = (0..40).map(|i| i as f32 + 1.0).collect();
        let queries: Vec<f32> = (0..(BLOCK + 3) * 4).map(|i| (i % 7) as f32 + 1.0).collect();
        let all = rank(&queries, &index, 4, 3, Distance::Euclidean);
        assert_eq!(all.len(), BLOCK + 3);
        let alone = rank(&queries[BLOCK * 4..], &index, 4, 3, Distance::Euclidean);
        assert_eq!(all[BLOCK..], alone);
        assert_eq!(rank(&queries, &[], 4, 3, Distance::Cosine)[0], []);
    }
}
