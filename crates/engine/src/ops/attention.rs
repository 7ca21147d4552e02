//! Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) over
//! sequences of different lengths, packed without padding.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Segments,
    dropout::Masks,
    position::{Distances, PositionBias, Rotary},
};
use crate::kernels::{
    gemm::{Mat, MatMut, Packed, Threads, matmul},
    simd,
};

/// Queries of a sequence that one task processes in inference.
const QUERIES_PER_TASK: usize = 96;

/// Below this number of multiplications per head for the scores, a single task
/// keeps its heads on one thread: waking another thread takes longer.
const WORTH_SHARING: usize = 1 << 15;

/// Buffers of one thread in inference: packed keys and values of a head, and
/// the attention weights of some queries.
struct Scratch {
    /// The sequence and the head whose keys and values are packed.
    packed: Option<(usize, usize)>,
    keys: Packed,
    values: Packed,
    weights: Vec<f32>,
}

/// Some queries of a sequence in inference, with all its keys and values.
#[derive(Clone, Copy)]
struct Task<'a> {
    sequence: usize,
    /// Index of the first query in the sequence.
    first: usize,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

/// Settings of an attention layer.
#[derive(Clone)]
pub(crate) struct AttentionConfig {
    /// Number of query heads.
    pub(crate) heads: usize,
    /// Number of key and value heads, each shared by the same number of query
    /// heads (grouped-query attention; Ainslie et al. 2023, arXiv:2305.13245).
    pub(crate) kv_heads: usize,
    /// Elements of a head.
    pub(crate) head: usize,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Whether each position attends only to itself and earlier positions.
    pub(crate) causal: bool,
    /// Largest distance of an attended position, in sliding-window attention
    /// (Beltagy et al. 2020, arXiv:2004.05150).
    pub(crate) reach: Option<usize>,
    /// Rotary embedding of queries and keys.
    pub(crate) rotary: Option<Rotary>,
    /// Bias of the scores.
    pub(crate) bias: Option<PositionBias>,
}

impl AttentionConfig {
    /// Returns full attention of `heads` heads that divide `width` elements.
    pub(crate) fn new(width: usize, heads: usize) -> Self {
        let head = width / heads;
        Self {
            heads,
            kv_heads: heads,
            head,
            scale: 1.0 / (head as f32).sqrt(),
            causal: false,
            reach: None,
            rotary: None,
            bias: None,
        }
    }

    /// Returns the number of elements of a query.
    pub(crate) fn width(&self) -> usize {
        self.heads * self.head
    }

    /// Returns the number of elements of a key, and of a value.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head
    }

    /// Returns the number of query heads that share a head of keys and values.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Returns the positions to which the position `position` of a sequence
    /// attends.
    pub(super) fn visible(&self, position: usize, length: usize) -> Range<usize> {
        let reach = self.reach.unwrap_or(length);
        let end = if self.causal {
            position + 1
        } else {
            length.min(position + reach + 1)
        };
        position.saturating_sub(reach)..end
    }
}

impl AttentionConfig {
    /// Turns the scores of the query at `position` into attention weights.
    fn weigh(&self, row: &mut [f32], position: usize, bias: Option<&[f32]>) {
        if let Some(bias) = bias {
            simd::add_assign(row, bias);
        }
        let visible = self.visible(position, row.len());
        let (before, row) = row.split_at_mut(visible.start);
        before.fill(0.0);
        simd::softmax_row(row, visible.len());
    }
}

/// Returns the index of a row of attention weights within a sequence.
pub(super) fn attention_row(head: usize, position: usize) -> u64 {
    ((head as u64) << 32) | position as u64
}

/// Attention over rows of `heads * head` elements. Heads are not copied apart:
/// each is a strided view.
pub(crate) struct Attention<'a> {
    pub(crate) config: &'a AttentionConfig,
    pub(crate) segments: &'a Segments,
    /// Position of the single query of each sequence, if there is only one.
    pub(crate) only: Option<&'a [usize]>,
    /// Dropout of the attention weights.
    pub(super) masks: Option<Masks>,
}

impl Attention<'_> {
    /// Returns the number of queries of a sequence.
    fn queries(&self, length: usize) -> usize {
        if self.only.is_some() { 1 } else { length }
    }

    /// Returns the position of a query in its sequence.
    fn position(&self, sequence: usize, query: usize) -> usize {
        self.only.map_or(query, |only| only[sequence])
    }

    /// Returns the position of each query in its sequence.
    pub(crate) fn positions(&self) -> Vec<usize> {
        match self.only {
            Some(only) => only.to_vec(),
            None => self.key_positions(),
        }
    }

    /// Returns the position of each key in its sequence.
    pub(crate) fn key_positions(&self) -> Vec<usize> {
        let lengths = self.segments.lengths().iter();
        lengths.flat_map(|length| 0..*length).collect()
    }

    fn longest(&self) -> usize {
        self.segments.lengths().iter().copied().max().unwrap_or(0)
    }

    /// Returns the number of attention weights of a sequence.
    fn weights_of(&self, length: usize) -> usize {
        self.config.heads * self.queries(length) * length
    }

    /// Returns the number of all attention weights.
    pub(crate) fn weights_len(&self) -> usize {
        let lengths = self.segments.lengths().iter();
        lengths.map(|length| self.weights_of(*length)).sum()
    }

    /// Returns a head's part of a sequence's queries.
    fn query_view<'a>(&self, sequence: &'a [f32], head: usize) -> Mat<'a> {
        self.view(sequence, head, self.config.width())
    }

    /// Returns the part of a sequence's keys or values that a query head uses.
    fn key_view<'a>(&self, sequence: &'a [f32], head: usize) -> Mat<'a> {
        self.view(sequence, head / self.config.group(), self.config.kv_width())
    }

    fn view<'a>(&self, sequence: &'a [f32], head: usize, width: usize) -> Mat<'a> {
        let size = self.config.head;
        let rows = sequence.len() / width;
        Mat::strided(&sequence[head * size..], rows, size, width)
    }

    fn view_mut<'a>(&self, sequence: &'a mut [f32], head: usize, width: usize) -> MatMut<'a> {
        let size = self.config.head;
        let rows = sequence.len() / width;
        MatMut::strided(&mut sequence[head * size..], rows, size, width)
    }

    /// Applies dropout to the attention weights of a head, or to their
    /// gradients.
    fn drop(&self, (sequence, head): (usize, usize), weights: &mut [f32], length: usize) {
        let Some(masks) = &self.masks else { return };
        for (query, row) in weights.chunks_exact_mut(length).enumerate() {
            let position = self.position(sequence, query);
            masks.apply(sequence, attention_row(head, position), row);
        }
    }

    /// Returns a head's attention weights after dropout. Uses `left` as the
    /// buffer if there is dropout.
    fn dropped<'a>(
        &self,
        head: (usize, usize),
        weights: &'a [f32],
        length: usize,
        left: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        if self.masks.is_none() {
            return weights;
        }
        left.clear();
        left.extend_from_slice(weights);
        self.drop(head, left, length);
        left
    }

    pub(crate) fn forward(
        &self,
        [q, k, v]: [&[f32]; 3],
        weights: &mut [f32],
        mixed: &mut [f32],
    ) -> candle_core::Result<()> {
        let config = self.config;
        let distances = match &config.bias {
            Some(bias) => Some(bias.distances(config.heads, self.longest())?),
            None => None,
        };
        let rows = |length| length * config.kv_width();
        let query_rows = |length| self.queries(length) * config.width();
        let s = self.segments;
        s.parts_mut(weights, |length| self.weights_of(length))
            .into_par_iter()
            .zip(s.parts_mut(mixed, query_rows))
            .zip(s.parts(q, query_rows))
            .zip(s.parts(k, rows))
            .zip(s.parts(v, rows))
            .enumerate()
            .for_each_init(
                Vec::new,
                |left, (sequence, ((((weights, mixed), q), k), v))| {
                    let length = k.len() / config.kv_width();
                    let queries = self.queries(length);
                    for (head, weights) in weights.chunks_exact_mut(queries * length).enumerate() {
                        matmul(
                            MatMut::new(weights, queries, length),
                            self.query_view(q, head),
                            self.key_view(k, head).t(),
                            config.scale,
                            false,
                            Threads::One,
                        );
                        for (query, row) in weights.chunks_exact_mut(length).enumerate() {
                            let position = self.position(sequence, query);
                            let bias = distances.as_ref().map(|d| d.row(head, position, length));
                            config.weigh(row, position, bias);
                        }
                        let weights = self.dropped((sequence, head), weights, length, left);
                        matmul(
                            self.view_mut(mixed, head, config.width()),
                            Mat::new(weights, queries, length),
                            self.key_view(v, head),
                            1.0,
                            false,
                            Threads::One,
                        );
                    }
                },
            );
        Ok(())
    }

    /// Computes attention in inference, for a few queries of a sequence at a
    /// time. Their weights stay in the cache and are not saved.
    pub(crate) fn infer(
        &self,
        [q, k, v]: [&[f32]; 3],
        mixed: &mut [f32],
    ) -> candle_core::Result<()> {
        let config = self.config;
        let distances = match &config.bias {
            Some(bias) => Some(bias.distances(config.heads, self.longest())?),
            None => None,
        };
        let (width, kv_width) = (config.width(), config.kv_width());
        let query_rows = |length| self.queries(length) * width;
        let s = self.segments;
        let sequences = s
            .parts_mut(mixed, query_rows)
            .into_iter()
            .zip(s.parts(q, query_rows))
            .zip(s.parts(k, |length| length * kv_width))
            .zip(s.parts(v, |length| length * kv_width))
            .enumerate();
        let mut tasks = Vec::with_capacity(s.count());
        for (sequence, (((mixed, q), k), v)) in sequences {
            let blocks = mixed
                .chunks_mut(QUERIES_PER_TASK * width)
                .zip(q.chunks(QUERIES_PER_TASK * width));
            for (block, (mixed, query)) in blocks.enumerate() {
                let task = Task {
                    sequence,
                    first: block * QUERIES_PER_TASK,
                    query,
                    key: k,
                    value: v,
                };
                tasks.push((task, mixed));
            }
        }
        let longest = self.longest();
        let scratch = || Scratch {
            packed: None,
            keys: Packed::default(),
            values: Packed::default(),
            weights: vec![0.0; QUERIES_PER_TASK.min(longest) * longest],
        };
        if tasks.len() > 1 {
            tasks
                .into_par_iter()
                .for_each_init(scratch, |scratch, (task, mixed)| {
                    for head in 0..config.heads {
                        let out = self.view_mut(mixed, head, width);
                        self.infer_head(scratch, task, head, distances.as_ref(), out);
                    }
                });
            return Ok(());
        }
        // A single text spreads its heads over threads if they are large
        // enough.
        for (task, mixed) in tasks {
            let queries = mixed.len() / width;
            let alone = queries * longest * config.head < WORTH_SHARING;
            let heads = (0..config.heads).into_par_iter();
            let heads = heads.with_min_len(if alone { config.heads } else { 1 });
            let parts = heads.map_init(scratch, |scratch, head| {
                let mut out = vec![0.0; queries * config.head];
                let view = MatMut::new(&mut out, queries, config.head);
                self.infer_head(scratch, task, head, distances.as_ref(), view);
                out
            });
            let parts: Vec<Vec<f32>> = parts.collect();
            for (head, part) in parts.iter().enumerate() {
                let rows = mixed.chunks_exact_mut(width);
                for (row, part) in rows.zip(part.chunks_exact(config.head)) {
                    row[head * config.head..][..config.head].copy_from_slice(part);
                }
            }
        }
        Ok(())
    }

    /// Computes one head for some queries of a sequence, in inference.
    fn infer_head(
        &self,
        scratch: &mut Scratch,
        task: Task<'_>,
        head: usize,
        distances: Option<&Distances>,
        out: MatMut<'_>,
    ) {
        let config = self.config;
        let (width, kv_width) = (config.width(), config.kv_width());
        let (queries, length) = (task.query.len() / width, task.key.len() / kv_width);
        let kv = Some((task.sequence, head / config.group()));
        if scratch.packed != kv {
            scratch.keys.pack_rows(self.key_view(task.key, head));
            scratch.values.pack(self.key_view(task.value, head));
            scratch.packed = kv;
        }
        let weights = &mut scratch.weights[..queries * length];
        let scores = MatMut::new(weights, queries, length);
        let asking = self.query_view(task.query, head);
        scratch.keys.multiply(scores, asking, config.scale);
        for (query, row) in weights.chunks_exact_mut(length).enumerate() {
            let position = self.position(task.sequence, task.first + query);
            let bias = distances.map(|d| d.row(head, position, length));
            config.weigh(row, position, bias);
        }
        let weights = Mat::new(weights, queries, length);
        scratch.values.multiply(out, weights, 1.0);
    }

    /// Writes the gradients of queries, keys and values, and accumulates the
    /// bias's.
    pub(crate) fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        weights: &[f32],
        g: &[f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) -> candle_core::Result<()> {
        let config = self.config;
        let rows = |length| length * config.kv_width();
        let query_rows = |length| self.queries(length) * config.width();
        let s = self.segments;
        let longest = self.longest();
        let inputs = s.parts(weights, |length| self.weights_of(length));
        let inputs = inputs
            .into_par_iter()
            .zip(s.parts(q, query_rows))
            .zip(s.parts(k, rows))
            .zip(s.parts(v, rows))
            .zip(s.parts(g, query_rows));
        let biases: Vec<Option<Distances>> = s
            .parts_mut(dq, query_rows)
            .into_par_iter()
            .zip(s.parts_mut(dk, rows))
            .zip(s.parts_mut(dv, rows))
            .zip(inputs)
            .enumerate()
            .map_init(
                || (vec![0.0; self.queries(longest) * longest], Vec::new()),
                |(d_weights, left), (sequence, (((dq, dk), dv), ((((weights, q), k), v), g)))| {
                    let length = k.len() / config.kv_width();
                    let queries = self.queries(length);
                    let d_weights = &mut d_weights[..queries * length];
                    let mut d_bias = config
                        .bias
                        .as_ref()
                        .filter(|bias| bias.is_trainable())
                        .map(|_| Distances::zeros(config.heads, length));
                    for (head, weights) in weights.chunks_exact(queries * length).enumerate() {
                        let product = |out: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, more: bool| {
                            matmul(out, a, b, 1.0, more, Threads::One);
                        };
                        // The gradients of a group's heads add up in keys and
                        // values.
                        let more = head % config.group() > 0;
                        let (kv, kv_width) = (head / config.group(), config.kv_width());
                        let p = self.dropped((sequence, head), weights, length, left);
                        let p = Mat::new(p, queries, length);
                        let g = self.query_view(g, head);
                        product(self.view_mut(dv, kv, kv_width), p.t(), g, more);
                        let out = MatMut::new(d_weights, queries, length);
                        product(out, g, self.key_view(v, head).t(), false);
                        self.drop((sequence, head), d_weights, length);
                        for (query, (p, d)) in weights
                            .chunks_exact(length)
                            .zip(d_weights.chunks_exact_mut(length))
                            .enumerate()
                        {
                            simd::softmax_backward_row(p, d, config.scale);
                            if let Some(d_bias) = &mut d_bias {
                                // The bias is added after scaling.
                                let position = self.position(sequence, query);
                                let sums = d_bias.row_mut(head, position, length);
                                for (sum, d) in sums.iter_mut().zip(&*d) {
                                    *sum += d / config.scale;
                                }
                            }
                        }
                        let d_scores = Mat::new(d_weights, queries, length);
                        let out = self.view_mut(dq, head, config.width());
                        product(out, d_scores, self.key_view(k, head), false);
                        let out = self.view_mut(dk, kv, kv_width);
                        product(out, d_scores.t(), self.query_view(q, head), more);
                    }
                    d_bias
                },
            )
            .collect();
        if let Some(bias) = &config.bias {
            for d_bias in biases.iter().flatten() {
                bias.backward(d_bias)?;
            }
        }
        Ok(())
    }
}
