//! One block of a transformer (Vaswani et al. 2017, arXiv:1706.03762), with the
//! norms before each half as in GPT-2 and CLIP, or behind it as in BERT:
//!
//! ```text
//! before   h = x + out(attention(n))       with n = norm1(x)
//!          y = h + fc2(act(fc1(norm2(h))))
//! behind   h = norm1(x + out(attention(x)))
//!          y = norm2(h + fc2(act(fc1(h))))
//! ```
//!
//! Fused, the block is a single node of the graph. It keeps what would be
//! dear to make again (queries, keys, values, attention weights, the sums that
//! the norms work on, the input of the activation) and makes the rest again on
//! the way back: norms and activation cost one pass over memory each.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::{Attention, BlockParams, FusedOp, Linear, Pass, Segments, layer_norm};
use crate::{
    Result, kernels,
    kernels::{
        gemm::Precision,
        pool::{Buffer, Pool},
        simd,
    },
};

/// The activation between the two layers of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * sigmoid(1.702 x)`
    QuickGelu,
    /// `x * Phi(x)`
    Gelu,
}

impl Activation {
    /// The name used in a Hugging Face `config.json`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu" => Some(Self::Gelu),
            _ => None,
        }
    }

    fn forward(self, x: &[f32], y: &mut [f32]) {
        kernels::map(
            x,
            y,
            match self {
                Self::QuickGelu => simd::quick_gelu,
                Self::Gelu => simd::gelu,
            },
        );
    }

    /// `g *= act'(x)` and `x = act(x)`.
    fn backward(self, x: &mut [f32], g: &mut [f32]) {
        let kernel = match self {
            Self::QuickGelu => simd::quick_gelu_backward,
            Self::Gelu => simd::gelu_backward,
        };
        const CHUNK: usize = 16 * 1024;
        x.par_chunks_mut(CHUNK)
            .zip(g.par_chunks_mut(CHUNK))
            .for_each(|(x, g)| kernel(x, g));
    }

    fn composite(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            // sigmoid(z) = 1 / (1 + exp(-z)); candle's own sigmoid is in candle-nn.
            Self::QuickGelu => x / ((x * -1.702)?.exp()? + 1.0)?,
            Self::Gelu => x.gelu_erf(),
        }
    }
}

/// A transformer block over the rows of several sequences, `[rows, width]`.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) params: BlockParams,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    /// Whether a position sees only itself and those before it.
    pub(crate) causal: bool,
    /// Whether the norms come before the halves.
    pub(crate) norm_first: bool,
}

impl Block {
    /// Runs the block, to `[rows, width]`; where `only` says a place of each
    /// sequence, to the outputs of these places, `[sequences, width]`. For
    /// those the other places count as keys and values alone, which saves most
    /// of a block.
    pub(crate) fn forward(
        &self,
        pass: &Pass,
        x: &Tensor,
        segments: &Segments,
        only: Option<&[usize]>,
    ) -> Result<Tensor> {
        if !pass.is_fused() {
            let y = self.composite(pass, x, segments)?;
            return match only {
                None => Ok(y),
                Some(only) => select_places(&y, segments, only),
            };
        }
        let op = FusedBlock {
            block: self.clone(),
            segments: segments.clone(),
            only: only.map(<[usize]>::to_vec),
            precision: pass.precision(),
            pool: pass.pool().clone(),
            keep: pass.training,
            saved: Mutex::new(None),
        };
        pass.apply(x, op)
    }

    fn composite(&self, pass: &Pass, x: &Tensor, segments: &Segments) -> Result<Tensor> {
        let p = &self.params;
        let attended = |x: &Tensor| -> Result<Tensor> {
            let mixed = self.composite_attention(pass, x, segments)?;
            p.out.composite(pass, &mixed)
        };
        let mlp = |x: &Tensor| -> Result<Tensor> {
            let active = self.activation.composite(&p.fc1.composite(pass, x)?)?;
            p.fc2.composite(pass, &active)
        };
        if self.norm_first {
            let h = (x + attended(&layer_norm(pass, x, &p.norm1)?)?)?;
            Ok((&h + mlp(&layer_norm(pass, &h, &p.norm2)?)?)?)
        } else {
            let h = layer_norm(pass, &(x + attended(x)?)?, &p.norm1)?;
            layer_norm(pass, &(&h + mlp(&h)?)?, &p.norm2)
        }
    }

    fn composite_attention(&self, pass: &Pass, x: &Tensor, segments: &Segments) -> Result<Tensor> {
        let width = x.dim(1)?;
        let head = width / self.heads;
        let p = &self.params;
        let (q, k, v) = (
            p.query.composite(pass, x)?,
            p.key.composite(pass, x)?,
            p.value.composite(pass, x)?,
        );
        // Sequences of one length at once, others one by one.
        let groups: Vec<(usize, usize, usize)> = match segments.common_length() {
            Some(length) => vec![(0, segments.count(), length)],
            None => segments.iter().map(|(start, n)| (start, 1, n)).collect(),
        };
        let mut mixed = Vec::with_capacity(groups.len());
        for (start, count, length) in groups {
            let split = |rows: &Tensor| -> Result<Tensor> {
                Ok(rows
                    .narrow(0, start, count * length)?
                    .reshape((count, length, self.heads, head))?
                    .transpose(1, 2)?
                    .contiguous()?)
            };
            let (q, k, v) = (split(&q)?, split(&k)?, split(&v)?);
            let mut scores = (q.matmul(&k.transpose(2, 3)?)? / (head as f64).sqrt())?;
            if self.causal {
                let mask: Vec<f32> = (0..length * length)
                    .map(|i| {
                        if i % length > i / length {
                            f32::MIN
                        } else {
                            0.0
                        }
                    })
                    .collect();
                let mask = Tensor::from_vec(mask, (1, 1, length, length), x.device())?;
                scores = scores.broadcast_add(&mask)?;
            }
            let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
            let exp = shifted.exp()?;
            let weights = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
            let rows = weights.matmul(&v)?.transpose(1, 2)?;
            mixed.push(rows.reshape((count * length, width))?);
        }
        Ok(Tensor::cat(&mixed, 0)?)
    }
}

/// Runs `blocks` one after the other; where `only` says a place of each
/// sequence, the last gives the outputs of these places.
pub(crate) fn run_blocks(
    blocks: &[Block],
    pass: &Pass,
    x: &Tensor,
    segments: &Segments,
    only: Option<&[usize]>,
) -> Result<Tensor> {
    let Some((last, others)) = blocks.split_last() else {
        return match only {
            None => Ok(x.clone()),
            Some(only) => select_places(x, segments, only),
        };
    };
    let mut x = x.clone();
    for block in others {
        x = block.forward(pass, &x, segments, None)?;
    }
    last.forward(pass, &x, segments, only)
}

/// The row of one place of each sequence.
pub(super) fn select_places(x: &Tensor, segments: &Segments, only: &[usize]) -> Result<Tensor> {
    let rows: Vec<u32> = rows_of(segments, only).map(|row| row as u32).collect();
    Ok(x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?)
}

/// Where the rows of these places are.
fn rows_of(segments: &Segments, only: &[usize]) -> impl Iterator<Item = usize> {
    let starts = segments.iter().map(|(start, _)| start);
    starts.zip(only).map(|(start, place)| start + place)
}

/// What the way back needs of the way there.
struct Saved {
    query: Buffer,
    key: Buffer,
    value: Buffer,
    /// Attention weights, `[heads, length, length]` of each sequence.
    weights: Buffer,
    mixed: Buffer,
    /// The input with the attention's output added.
    attended: Buffer,
    /// What goes into the activation.
    hidden: Buffer,
    /// What the last norm works on, where that comes behind.
    last: Option<Buffer>,
}

struct FusedBlock {
    block: Block,
    segments: Segments,
    /// The one place of each sequence whose output is wanted, where not all
    /// are.
    only: Option<Vec<usize>>,
    precision: Precision,
    pool: Pool,
    keep: bool,
    saved: Mutex<Option<Saved>>,
}

impl FusedBlock {
    fn attention(&self, width: usize) -> Attention<'_> {
        Attention {
            segments: &self.segments,
            only: self.only.as_deref(),
            width,
            heads: self.block.heads,
            causal: self.block.causal,
        }
    }

    /// How many rows come out.
    fn rows_out(&self) -> usize {
        match &self.only {
            Some(only) => only.len(),
            None => self.segments.rows(),
        }
    }

    /// The rows whose outputs are wanted, where not all are.
    fn chosen(&self, x: &[f32], width: usize) -> Option<Buffer> {
        let only = self.only.as_deref()?;
        let mut chosen = self.pool.take(only.len() * width);
        for (to, row) in chosen
            .chunks_exact_mut(width)
            .zip(rows_of(&self.segments, only))
        {
            to.copy_from_slice(&x[row * width..][..width]);
        }
        Some(chosen)
    }

    /// A gradient of the rows whose outputs are wanted as one of all rows.
    fn spread(&self, g: Buffer, width: usize) -> Buffer {
        let Some(only) = &self.only else { return g };
        let mut all = self.pool.take(self.segments.rows() * width);
        all.fill(0.0);
        for (g, row) in g.chunks_exact(width).zip(rows_of(&self.segments, only)) {
            all[row * width..][..width].copy_from_slice(g);
        }
        all
    }
}

impl FusedOp for FusedBlock {
    const NAME: &'static str = "transformer-block";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [rows, width] = *shape else {
            candle_core::bail!("a block takes [rows, width], not {shape:?}")
        };
        if rows != self.segments.rows() {
            candle_core::bail!("{rows} rows for sequences of {}", self.segments.rows())
        }
        let (p, pool, precision) = (&self.block.params, &self.pool, self.precision);
        let norm_first = self.block.norm_first;
        let rows_out = self.rows_out();
        let len_out = rows_out * width;

        let mut normed = pool.take(x.len());
        let attend_to = if norm_first {
            p.norm1.forward(x, &mut normed)?;
            &normed
        } else {
            x
        };
        let project = |layer: &Linear, from: &[f32]| {
            let mut out = pool.take(from.len());
            layer
                .forward(precision, pool, from, None, &mut out)
                .map(|()| out)
        };
        let asking = self.chosen(attend_to, width);
        let query = project(&p.query, asking.as_deref().unwrap_or(attend_to))?;
        drop(asking);
        let (key, value) = (project(&p.key, attend_to)?, project(&p.value, attend_to)?);
        let attention = self.attention(width);
        let mut weights = pool.take(attention.weights_len());
        let mut mixed = pool.take(len_out);
        attention.forward([&query, &key, &value], &mut weights, &mut mixed);
        let mut attended = pool.take(len_out);
        let chosen = self.chosen(x, width);
        let residual = chosen.as_deref().unwrap_or(x);
        p.out
            .forward(precision, pool, &mixed, Some(residual), &mut attended)?;
        let mut normed = if self.only.is_some() {
            pool.take(len_out)
        } else {
            normed
        };

        // What the MLP works on, and what its output is added to.
        let norm = if norm_first { &p.norm2 } else { &p.norm1 };
        norm.forward(&attended, &mut normed)?;
        let base = if norm_first { &attended } else { &normed };
        let mut hidden = pool.take(rows_out * p.fc1.outputs);
        p.fc1.forward(precision, pool, &normed, None, &mut hidden)?;
        let mut active = pool.take(hidden.len());
        self.block.activation.forward(&hidden, &mut active);
        let mut y = vec![0.0; len_out];
        let last = if norm_first {
            p.fc2
                .forward(precision, pool, &active, Some(base), &mut y)?;
            None
        } else {
            let mut last = pool.take(len_out);
            p.fc2
                .forward(precision, pool, &active, Some(base), &mut last)?;
            p.norm2.forward(&last, &mut y)?;
            Some(last)
        };
        if self.keep {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved {
                query,
                key,
                value,
                weights,
                mixed,
                attended,
                hidden,
                last,
            });
        }
        Ok((y, vec![rows_out, width]))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        let [_, width] = *shape else {
            candle_core::bail!("a block takes [rows, width], not {shape:?}")
        };
        let saved = self
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(saved) = saved else {
            candle_core::bail!("a block goes back once for each time it went forward")
        };
        let (p, pool, precision) = (&self.block.params, &self.pool, self.precision);
        let norm_first = self.block.norm_first;

        // The MLP, from its end. `dh` is the gradient of what its output is
        // added to.
        let mut dh = pool.take(g.len());
        match &saved.last {
            None => dh.copy_from_slice(g),
            Some(last) => {
                dh.fill(0.0);
                p.norm2.backward(last, g, &mut dh)?;
            }
        }
        let mut hidden = saved.hidden;
        let mut d_hidden = pool.take(hidden.len());
        p.fc2.backward_input(precision, &dh, &mut d_hidden, false)?;
        self.block.activation.backward(&mut hidden, &mut d_hidden);
        let active = hidden;
        p.fc2.backward_params(precision, &active, &dh);
        drop(active);
        let norm = if norm_first { &p.norm2 } else { &p.norm1 };
        let mut normed = pool.take(g.len());
        norm.forward(&saved.attended, &mut normed)?;
        p.fc1.backward_params(precision, &normed, &d_hidden);
        let mut d_normed = pool.take(g.len());
        if norm_first {
            p.fc1
                .backward_input(precision, &d_hidden, &mut d_normed, false)?;
            drop(d_hidden);
            norm.backward(&saved.attended, &d_normed, &mut dh)?;
        } else {
            p.fc1.backward_input(precision, &d_hidden, &mut dh, true)?;
            drop(d_hidden);
            d_normed.fill(0.0);
            norm.backward(&saved.attended, &dh, &mut d_normed)?;
            std::mem::swap(&mut dh, &mut d_normed);
        }

        // Attention. `dh` is now the gradient of input and attention together.
        p.out.backward_params(precision, &saved.mixed, &dh);
        let mut d_mixed = d_normed;
        p.out.backward_input(precision, &dh, &mut d_mixed, false)?;
        let mut dq = pool.take(g.len());
        let (mut dk, mut dv) = (pool.take(x.len()), pool.take(x.len()));
        self.attention(width).backward(
            [&saved.query, &saved.key, &saved.value],
            &saved.weights,
            &d_mixed,
            [&mut dq, &mut dk, &mut dv],
        );
        let normed = if norm_first {
            drop(normed);
            let mut normed = pool.take(x.len());
            p.norm1.forward(x, &mut normed)?;
            Some(normed)
        } else {
            None
        };
        let attend_to = normed.as_deref().unwrap_or(x);
        let asking = self.chosen(attend_to, width);
        let asking = asking.as_deref().unwrap_or(attend_to);
        p.query.backward_params(precision, asking, &dq);
        p.key.backward_params(precision, attend_to, &dk);
        p.value.backward_params(precision, attend_to, &dv);
        // The norm's own parameters want theirs where the input wants none.
        if !norm_first && !wanted {
            return Ok(None);
        }
        let into_projections = |mut d: Buffer, accumulate| {
            p.query.backward_input(precision, &dq, &mut d, accumulate)?;
            let mut d = self.spread(d, width);
            p.key.backward_input(precision, &dk, &mut d, true)?;
            p.value.backward_input(precision, &dv, &mut d, true)?;
            Ok::<_, candle_core::Error>(d)
        };
        let dx = if norm_first {
            let d_normed = into_projections(d_mixed, false)?;
            let mut dx = self.spread(dh, width);
            p.norm1.backward(x, &d_normed, &mut dx)?;
            dx
        } else {
            into_projections(dh, true)?
        };
        Ok(wanted.then(|| dx.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::{
        BERT_BLOCK, CLIP_BLOCK,
        testing::{compare, noise, params},
    };

    fn check(activation: Activation, causal: bool, norm_first: bool, frozen: &[&str]) {
        let (width, hidden) = (16, 40);
        for segments in [Segments::uniform(3, 9), Segments::new([4, 9, 1, 7])] {
            let names = if norm_first { CLIP_BLOCK } else { BERT_BLOCK };
            let shapes = names.tensors("b", width, hidden);
            let shapes: Vec<(&str, &[usize])> = shapes
                .iter()
                .map(|(n, s)| (n.as_str(), s.as_slice()))
                .collect();
            let params = params(&shapes, frozen);
            let block = Block {
                params: BlockParams::load(&params, &names, "b", width, hidden, 1e-5).unwrap(),
                heads: 4,
                activation,
                causal,
                norm_first,
            };
            let x = noise(7, segments.rows() * width);
            let x = Tensor::from_vec(x, (segments.rows(), width), &Device::Cpu).unwrap();
            let last: Vec<usize> = segments.lengths().iter().map(|length| length - 1).collect();
            let middle: Vec<usize> = last.iter().map(|place| place / 2).collect();
            for only in [None, Some(&last[..]), Some(&middle)] {
                compare(&params, &x, |pass, x| {
                    block.forward(pass, x, &segments, only)
                });
            }
        }
    }

    #[test]
    fn fused_equals_composite() {
        check(Activation::QuickGelu, false, true, &[]);
        check(Activation::Gelu, false, true, &[]);
    }

    #[test]
    fn fused_equals_composite_with_the_norms_behind() {
        check(Activation::Gelu, false, false, &[]);
        let frozen = [
            "b.attention.output.LayerNorm.weight",
            "b.output.dense.weight",
        ];
        check(Activation::Gelu, false, false, &frozen);
    }

    #[test]
    fn fused_equals_composite_when_causal() {
        check(Activation::QuickGelu, true, true, &[]);
    }

    #[test]
    fn fused_equals_composite_when_partly_frozen() {
        let frozen = ["b.mlp.fc1.weight", "b.self_attn.k_proj.weight"];
        check(Activation::QuickGelu, true, true, &frozen);
    }
}
