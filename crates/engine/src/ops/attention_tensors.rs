//! Attention on any device. Sequences of similar lengths are padded and
//! computed together, with the padding masked. The backward pass recomputes the
//! attention weights, so they occupy memory for one block at a time.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{
    AttentionConfig, Pass, Segments,
    attention::attention_row,
    buckets::{Bucket, Buckets},
    dropout::Masks,
    node::node_of,
    tensors::{Index, NO_ROW, product, softmax},
};
use crate::{Result, kernels::gemm::Precision};

/// Added to the scores of masked positions. The sum of two is still finite.
const NEVER: f32 = -1e30;

/// Settings of an attention operation.
struct Attending {
    config: AttentionConfig,
    buckets: Arc<Buckets>,
    /// Position of the single query of each sequence, if there is only one.
    only: Option<Vec<usize>>,
    /// Dropout of the attention weights.
    masks: Option<Masks>,
    precision: Precision,
}

/// Returns the outputs for queries `[rows, heads * head]`. If `only` gives the
/// position of a single query per sequence, they are `[sequences, heads *
/// head]`.
pub(super) fn attend(
    pass: &Pass,
    config: &AttentionConfig,
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    only: Option<&[usize]>,
    masks: Option<&Masks>,
) -> Result<Tensor> {
    let attending = Attending {
        config: config.clone(),
        buckets: segments.buckets(),
        only: only.map(<[usize]>::to_vec),
        masks: masks.copied(),
        precision: pass.precision(),
    };
    let kept = [q, k, v].map(Tensor::detach);
    let y = attending.forward(&kept)?;
    node_of(pass, [q, k, v].map(Some), y, move |g, _| {
        Ok(attending.backward(&kept, g)?.map(Some))
    })
}

impl Attending {
    /// Returns the number of queries of each sequence of a bucket.
    fn queries(&self, bucket: &Bucket) -> usize {
        match self.only {
            Some(_) => 1,
            None => bucket.length,
        }
    }

    /// Returns the rows of a bucket's queries.
    fn query_rows<'a>(&self, bucket: &'a Bucket) -> &'a Index {
        match self.only {
            Some(_) => &bucket.of_sequences,
            None => &bucket.rows,
        }
    }

    /// Returns the rows of a bucket as `[sequences, heads, positions, head]`.
    fn split(
        &self,
        x: &Tensor,
        (bucket, rows): (&Bucket, &Index),
        heads: usize,
    ) -> candle_core::Result<Tensor> {
        let taken = match self.buckets.is_plain {
            true => x.clone(),
            false => rows.take(x)?,
        };
        let (count, head) = (bucket.sequences.len(), self.config.head);
        let positions = rows.rows().len() / count.max(1);
        let x = taken.reshape((count, positions, heads, head))?;
        x.transpose(1, 2)?.contiguous()
    }

    fn split_queries(&self, x: &Tensor, bucket: &Bucket) -> candle_core::Result<Tensor> {
        self.split(x, (bucket, self.query_rows(bucket)), self.config.heads)
    }

    /// Returns keys or values, with a head for each query head.
    fn split_keys(&self, x: &Tensor, bucket: &Bucket) -> candle_core::Result<Tensor> {
        let config = &self.config;
        let x = self.split(x, (bucket, &bucket.rows), config.kv_heads)?;
        if config.group() == 1 {
            return Ok(x);
        }
        let (count, kv, length, head) = x.dims4()?;
        let shape = (count, kv, config.group(), length, head);
        let x = x.unsqueeze(2)?.broadcast_as(shape)?;
        x.contiguous()?.reshape((count, config.heads, length, head))
    }

    /// Inverts [`Attending::split`] except for the order of rows: `[positions
    /// of all sequences, heads * head]`.
    fn joined(x: &Tensor) -> candle_core::Result<Tensor> {
        let (count, heads, positions, head) = x.dims4()?;
        let x = x.transpose(1, 2)?.contiguous()?;
        x.reshape((count * positions, heads * head))
    }

    /// The same for gradients of keys and values, summed over the heads of a
    /// group.
    fn joined_keys(&self, x: Tensor) -> candle_core::Result<Tensor> {
        let config = &self.config;
        if config.group() == 1 {
            return Self::joined(&x);
        }
        let (count, _, length, head) = x.dims4()?;
        let shape = (count, config.kv_heads, config.group(), length, head);
        Self::joined(&x.reshape(shape)?.sum(2)?)
    }

    /// Joins the results of all buckets, in the order of rows; results of
    /// single queries in the order of sequences.
    fn together(&self, parts: Vec<Tensor>, of_queries: bool) -> candle_core::Result<Tensor> {
        let all = Tensor::cat(&parts, 0)?;
        if self.buckets.is_plain {
            return Ok(all);
        }
        match of_queries && self.only.is_some() {
            true => self.buckets.order.take(&all),
            false => self.buckets.positions.take(&all),
        }
    }

    /// Returns the position of each query of a bucket; only those of one
    /// sequence if all sequences have the same.
    fn positions(&self, bucket: &Bucket) -> Vec<usize> {
        match &self.only {
            Some(only) => bucket.sequences.iter().map(|s| only[*s]).collect(),
            None => (0..bucket.length).collect(),
        }
    }

    /// Returns the distance from each query to each key.
    fn distances(&self, bucket: &Bucket) -> Vec<isize> {
        let keys = 0..bucket.length as isize;
        let positions = self.positions(bucket).into_iter();
        positions
            .flat_map(|position| keys.clone().map(move |key| key - position as isize))
            .collect()
    }

    /// Reshapes per-head or common values for each query and key to `[1 or
    /// sequences, heads or 1, queries, keys]`.
    fn spread(&self, x: &Tensor, bucket: &Bucket) -> candle_core::Result<Tensor> {
        let heads = x.dim(0)?;
        match self.only {
            Some(_) => {
                let shape = (heads, bucket.sequences.len(), 1, bucket.length);
                x.reshape(shape)?.transpose(0, 1)
            }
            None => x.reshape((1, heads, bucket.length, bucket.length)),
        }
    }

    /// Returns the attention weights of a bucket, `[sequences, heads, queries,
    /// keys]`.
    fn weights(&self, q: &Tensor, k: &Tensor, bucket: &Bucket) -> candle_core::Result<Tensor> {
        let (config, device) = (&self.config, q.device());
        let scores = product(self.precision, q, &k.t()?)?;
        let mut scores = scores.affine(f64::from(config.scale), 0.0)?;
        if let Some(bias) = &config.bias {
            let bias = bias.at(&self.distances(bucket), device)?;
            scores = scores.broadcast_add(&self.spread(&bias, bucket)?)?;
        }
        if config.causal || config.reach.is_some() {
            let seen = self.positions(bucket).into_iter().flat_map(|position| {
                let visible = config.visible(position, bucket.length);
                (0..bucket.length).map(move |key| match visible.contains(&key) {
                    true => 0.0,
                    false => NEVER,
                })
            });
            let seen: Vec<f32> = seen.collect();
            let count = seen.len();
            let seen = Tensor::from_vec(seen, (1, count), device)?;
            scores = scores.broadcast_add(&self.spread(&seen, bucket)?)?;
        }
        if bucket.is_padded {
            scores = scores.broadcast_add(&padding(bucket, device)?)?;
        }
        softmax(&scores)
    }

    /// Returns the dropout factors of a bucket's attention weights.
    fn factors(&self, bucket: &Bucket, device: &Device) -> candle_core::Result<Option<Tensor>> {
        let Some(masks) = &self.masks else {
            return Ok(None);
        };
        let (heads, queries, length) = (self.config.heads, self.queries(bucket), bucket.length);
        let count = bucket.sequences.len();
        let mut factors = vec![1.0; count * heads * queries * length];
        for (i, row) in factors.chunks_exact_mut(length).enumerate() {
            let sequence = bucket.sequences[i / (heads * queries)];
            let head = i / queries % heads;
            let position = match &self.only {
                Some(only) => only[sequence],
                None => i % queries,
            };
            // Elements of a row are drawn in order, so the draws for padding
            // don't affect those of the sequence.
            masks.apply(sequence, attention_row(head, position), row);
        }
        let shape = (count, heads, queries, length);
        Tensor::from_vec(factors, shape, device).map(Some)
    }

    fn forward(&self, [q, k, v]: &[Tensor; 3]) -> candle_core::Result<Tensor> {
        let mut parts = Vec::new();
        for bucket in &self.buckets.all {
            let query = self.split_queries(q, bucket)?;
            let (key, value) = (self.split_keys(k, bucket)?, self.split_keys(v, bucket)?);
            let mut weights = self.weights(&query, &key, bucket)?;
            if let Some(factors) = self.factors(bucket, q.device())? {
                weights = (weights * factors)?;
            }
            parts.push(Self::joined(&product(self.precision, &weights, &value)?)?);
        }
        self.together(parts, true)
    }

    /// Returns the gradients of queries, keys and values, and accumulates the
    /// bias's.
    fn backward(&self, [q, k, v]: &[Tensor; 3], g: &Tensor) -> candle_core::Result<[Tensor; 3]> {
        let precision = self.precision;
        let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
        for bucket in &self.buckets.all {
            let (query, g) = (
                self.split_queries(q, bucket)?,
                self.split_queries(g, bucket)?,
            );
            let (key, value) = (self.split_keys(k, bucket)?, self.split_keys(v, bucket)?);
            let weights = self.weights(&query, &key, bucket)?;
            let factors = self.factors(bucket, q.device())?;
            let dropped = match &factors {
                Some(factors) => (&weights * factors)?,
                None => weights.clone(),
            };
            let d_value = product(precision, &dropped.t()?, &g)?;
            let mut d_weights = product(precision, &g, &value.t()?)?;
            if let Some(factors) = &factors {
                d_weights = (d_weights * factors)?;
            }
            let along = (&d_weights * &weights)?.sum_keepdim(3)?;
            let d_scores = (&weights * d_weights.broadcast_sub(&along)?)?;
            self.add_bias_gradient(&d_scores, bucket)?;
            let d_scores = d_scores.affine(f64::from(self.config.scale), 0.0)?;
            dq.push(Self::joined(&product(precision, &d_scores, &key)?)?);
            let d_key = product(precision, &d_scores.t()?, &query)?;
            dk.push(self.joined_keys(d_key)?);
            dv.push(self.joined_keys(d_value)?);
        }
        Ok([
            self.together(dq, true)?,
            self.together(dk, false)?,
            self.together(dv, false)?,
        ])
    }

    fn add_bias_gradient(&self, d_scores: &Tensor, bucket: &Bucket) -> candle_core::Result<()> {
        let Some(bias) = self.config.bias.as_ref().filter(|bias| bias.is_trainable()) else {
            return Ok(());
        };
        let d_bias = match self.only {
            Some(_) => d_scores.transpose(0, 1)?.contiguous()?,
            None => d_scores.sum(0)?,
        };
        let d_bias = d_bias.reshape((self.config.heads, ()))?;
        bias.add_gradient_at(&self.distances(bucket), &d_bias)
    }
}

/// Returns the mask to add to the scores, `[sequences, 1, 1, keys]`, which
/// excludes keys that are padding.
fn padding(bucket: &Bucket, device: &Device) -> candle_core::Result<Tensor> {
    let rows = bucket.rows.rows().iter();
    let values: Vec<f32> = rows
        .map(|row| if *row == NO_ROW { NEVER } else { 0.0 })
        .collect();
    let shape = (bucket.sequences.len(), 1, 1, bucket.length);
    Tensor::from_vec(values, shape, device)
}
