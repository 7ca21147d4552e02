//! Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) over
//! sequences of different lengths, without padding between them.

use std::sync::Arc;

use rayon::prelude::*;

use crate::kernels::{
    gemm::{Mat, MatMut, Threads, matmul},
    simd,
};

/// Where sequences begin and end among rows that follow each other without a
/// gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segments {
    lengths: Arc<[usize]>,
    left_out: usize,
}

impl Segments {
    /// Sequences of these lengths.
    pub(crate) fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self {
            lengths: lengths.into_iter().collect(),
            left_out: 0,
        }
    }

    /// The same sequences, of which pooling leaves out the first `places`: a
    /// prompt that shall not count. No sequence may be that short.
    pub(crate) fn leaving_out(self, places: usize) -> Self {
        let shortest = self.lengths.iter().min().copied().unwrap_or(1);
        Self {
            left_out: places.min(shortest.saturating_sub(1)),
            ..self
        }
    }

    /// Places at the beginning of each sequence that pooling leaves out.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// `count` sequences of one length.
    pub(crate) fn uniform(count: usize, length: usize) -> Self {
        Self::new(std::iter::repeat_n(length, count))
    }

    /// How many sequences there are.
    pub(crate) fn count(&self) -> usize {
        self.lengths.len()
    }

    pub(crate) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Rows of all sequences.
    pub(crate) fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The first row and the length of each sequence.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.lengths.iter().scan(0, |next, &length| {
            let start = *next;
            *next += length;
            Some((start, length))
        })
    }

    /// The one length of all sequences, where they have one.
    pub(crate) fn common_length(&self) -> Option<usize> {
        let first = *self.lengths.first()?;
        self.lengths
            .iter()
            .all(|length| *length == first)
            .then_some(first)
    }

    /// Cuts `data` into one part for each sequence of as many elements as
    /// `size` says for its length.
    fn parts<'a>(&self, mut data: &'a [f32], size: impl Fn(usize) -> usize) -> Vec<&'a [f32]> {
        let cut = |&length: &usize| {
            let (part, rest) = data.split_at(size(length));
            data = rest;
            part
        };
        self.lengths.iter().map(cut).collect()
    }

    fn parts_mut<'a>(
        &self,
        mut data: &'a mut [f32],
        size: impl Fn(usize) -> usize,
    ) -> Vec<&'a mut [f32]> {
        let cut = |&length: &usize| {
            let (part, rest) = std::mem::take(&mut data).split_at_mut(size(length));
            data = rest;
            part
        };
        self.lengths.iter().map(cut).collect()
    }
}

/// Attention over rows of `heads * head` values. Heads are not moved apart:
/// each is a strided view.
pub(crate) struct Attention<'a> {
    pub(crate) segments: &'a Segments,
    /// Where each sequence has one query only, its place in the sequence.
    pub(crate) only: Option<&'a [usize]>,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    /// Whether a position sees only itself and those before it.
    pub(crate) causal: bool,
}

impl Attention<'_> {
    fn head(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head() as f32).sqrt()
    }

    /// Queries of a sequence of this length.
    fn queries(&self, length: usize) -> usize {
        if self.only.is_some() { 1 } else { length }
    }

    /// Elements that all attention weights of a sequence take.
    fn weights_of(&self, length: usize) -> usize {
        self.heads * self.queries(length) * length
    }

    /// Elements that all attention weights take.
    pub(crate) fn weights_len(&self) -> usize {
        let lengths = self.segments.lengths().iter();
        lengths.map(|length| self.weights_of(*length)).sum()
    }

    /// The part of one sequence's `[length, width]` that belongs to a head.
    fn view<'a>(&self, sequence: &'a [f32], head: usize) -> Mat<'a> {
        let rows = sequence.len() / self.width;
        Mat::strided(
            &sequence[head * self.head()..],
            rows,
            self.head(),
            self.width,
        )
    }

    fn view_mut<'a>(&self, sequence: &'a mut [f32], head: usize) -> MatMut<'a> {
        let rows = sequence.len() / self.width;
        let part = &mut sequence[head * self.head()..];
        MatMut::strided(part, rows, self.head(), self.width)
    }

    /// Places of a sequence that its query number `query` sees.
    fn visible(&self, sequence: usize, query: usize, length: usize) -> usize {
        match (self.causal, self.only) {
            (false, _) => length,
            (true, None) => query + 1,
            (true, Some(only)) => only[sequence] + 1,
        }
    }

    pub(crate) fn forward(&self, [q, k, v]: [&[f32]; 3], weights: &mut [f32], mixed: &mut [f32]) {
        let rows = |length| length * self.width;
        let query_rows = |length| self.queries(length) * self.width;
        let s = self.segments;
        s.parts_mut(weights, |length| self.weights_of(length))
            .into_par_iter()
            .zip(s.parts_mut(mixed, query_rows))
            .zip(s.parts(q, query_rows))
            .zip(s.parts(k, rows))
            .zip(s.parts(v, rows))
            .enumerate()
            .for_each(|(sequence, ((((weights, mixed), q), k), v))| {
                let length = k.len() / self.width;
                let queries = self.queries(length);
                for (head, weights) in weights.chunks_exact_mut(queries * length).enumerate() {
                    matmul(
                        MatMut::new(weights, queries, length),
                        self.view(q, head),
                        self.view(k, head).t(),
                        self.scale(),
                        false,
                        Threads::One,
                    );
                    for (query, row) in weights.chunks_exact_mut(length).enumerate() {
                        simd::softmax_row(row, self.visible(sequence, query, length));
                    }
                    matmul(
                        self.view_mut(mixed, head),
                        Mat::new(weights, queries, length),
                        self.view(v, head),
                        1.0,
                        false,
                        Threads::One,
                    );
                }
            });
    }

    pub(crate) fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        weights: &[f32],
        g: &[f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let rows = |length| length * self.width;
        let query_rows = |length| self.queries(length) * self.width;
        let s = self.segments;
        let longest = s.lengths().iter().copied().max().unwrap_or(0);
        let inputs = s.parts(weights, |length| self.weights_of(length));
        let inputs = inputs
            .into_par_iter()
            .zip(s.parts(q, query_rows))
            .zip(s.parts(k, rows))
            .zip(s.parts(v, rows))
            .zip(s.parts(g, query_rows));
        s.parts_mut(dq, query_rows)
            .into_par_iter()
            .zip(s.parts_mut(dk, rows))
            .zip(s.parts_mut(dv, rows))
            .zip(inputs)
            .for_each_init(
                || vec![0.0; self.queries(longest) * longest],
                |d_weights, (((dq, dk), dv), ((((weights, q), k), v), g))| {
                    let length = k.len() / self.width;
                    let queries = self.queries(length);
                    let d_weights = &mut d_weights[..queries * length];
                    for (head, weights) in weights.chunks_exact(queries * length).enumerate() {
                        let product = |out: MatMut<'_>, a: Mat<'_>, b: Mat<'_>| {
                            matmul(out, a, b, 1.0, false, Threads::One);
                        };
                        let p = Mat::new(weights, queries, length);
                        let g = self.view(g, head);
                        product(self.view_mut(dv, head), p.t(), g);
                        let out = MatMut::new(d_weights, queries, length);
                        product(out, g, self.view(v, head).t());
                        for (p, d) in weights
                            .chunks_exact(length)
                            .zip(d_weights.chunks_exact_mut(length))
                        {
                            simd::softmax_backward_row(p, d, self.scale());
                        }
                        let d_scores = Mat::new(d_weights, queries, length);
                        product(self.view_mut(dq, head), d_scores, self.view(k, head));
                        product(self.view_mut(dk, head), d_scores.t(), self.view(q, head));
                    }
                },
            );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_know_where_they_lie() {
        let segments = Segments::new([3, 1, 2]);
        let places: Vec<_> = segments.iter().collect();
        assert_eq!(places, [(0, 3), (3, 1), (4, 2)]);
        assert_eq!((segments.count(), segments.rows()), (3, 6));
        assert_eq!(segments.common_length(), None);
        assert_eq!(Segments::uniform(4, 5).common_length(), Some(5));
    }
}
