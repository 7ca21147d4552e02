//! One block of a pre-norm transformer (Vaswani et al. 2017, arXiv:1706.03762;
//! the norm before each half as in GPT-2 and CLIP):
//!
//! ```text
//! h = x + out(attention(q(n1), k(n1), v(n1)))   with n1 = norm1(x)
//! y = h + fc2(act(fc1(n2)))                     with n2 = norm2(h)
//! ```
//!
//! Fused, the block is a single node of the graph. It keeps what would be
//! dear to make again (queries, keys, values, attention weights, the inputs of
//! the two halves and of the activation) and makes the rest again on the way
//! back: both norms and the activation cost one pass over memory each.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::{FusedOp, LayerNorm, Linear, Pass, layer_norm};
use crate::{
    Result, kernels,
    kernels::{
        gemm::{Mat, MatMut, Threads, matmul},
        pool::{Buffer, Pool},
        simd,
    },
    params::Params,
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

/// The layers of a block.
#[derive(Clone)]
pub(crate) struct BlockParams {
    pub(crate) norm1: LayerNorm,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
    pub(crate) norm2: LayerNorm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
}

impl BlockParams {
    /// Takes a layer of a CLIP encoder by the names that `transformers` uses.
    pub(crate) fn load_clip(
        params: &Params,
        name: &str,
        width: usize,
        hidden: usize,
        eps: f32,
    ) -> Result<Self> {
        let linear = |part: &str, inputs, outputs| {
            Linear::load(params, &format!("{name}.{part}"), inputs, outputs, true)
        };
        let norm = |part: &str| LayerNorm::load(params, &format!("{name}.{part}"), width, eps);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            query: linear("self_attn.q_proj", width, width)?,
            key: linear("self_attn.k_proj", width, width)?,
            value: linear("self_attn.v_proj", width, width)?,
            out: linear("self_attn.out_proj", width, width)?,
            norm2: norm("layer_norm2")?,
            fc1: linear("mlp.fc1", width, hidden)?,
            fc2: linear("mlp.fc2", hidden, width)?,
        })
    }
}

/// A transformer block over activations of `[batch, sequence, width]`.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) params: BlockParams,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    /// Whether a position sees only itself and those before it.
    pub(crate) causal: bool,
}

impl Block {
    /// Runs the block.
    pub(crate) fn forward(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        if !pass.is_fused() {
            return self.composite(pass, x);
        }
        let op = FusedBlock {
            block: self.clone(),
            pool: pass.pool().clone(),
            keep: pass.training,
            saved: Mutex::new(None),
        };
        pass.apply(x, op)
    }

    fn composite(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let (batch, seq, width) = x.dims3()?;
        let head = width / self.heads;
        let p = &self.params;
        let n1 = layer_norm(pass, x, &p.norm1)?;
        let split = |l: &Linear| -> Result<Tensor> {
            Ok(l.composite(pass, &n1)?
                .reshape((batch, seq, self.heads, head))?
                .transpose(1, 2)?
                .contiguous()?)
        };
        let (q, k, v) = (split(&p.query)?, split(&p.key)?, split(&p.value)?);
        let mut scores = (q.matmul(&k.transpose(2, 3)?)? / (head as f64).sqrt())?;
        if self.causal {
            let mask: Vec<f32> = (0..seq * seq)
                .map(|i| if i % seq > i / seq { f32::MIN } else { 0.0 })
                .collect();
            let mask = Tensor::from_vec(mask, (1, 1, seq, seq), x.device())?;
            scores = scores.broadcast_add(&mask)?;
        }
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
        let exp = shifted.exp()?;
        let attention = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
        let mixed = attention
            .matmul(&v)?
            .transpose(1, 2)?
            .reshape((batch, seq, width))?;
        let h = (x + p.out.composite(pass, &mixed)?)?;
        let n2 = layer_norm(pass, &h, &p.norm2)?;
        let a = self.activation.composite(&p.fc1.composite(pass, &n2)?)?;
        Ok((h + p.fc2.composite(pass, &a)?)?)
    }
}

/// What the way back needs of the way there.
struct Saved {
    query: Buffer,
    key: Buffer,
    value: Buffer,
    /// Attention weights, `[batch, heads, seq, seq]`.
    weights: Buffer,
    mixed: Buffer,
    h: Buffer,
    /// What goes into the activation.
    hidden: Buffer,
}

struct FusedBlock {
    block: Block,
    pool: Pool,
    keep: bool,
    saved: Mutex<Option<Saved>>,
}

impl FusedOp for FusedBlock {
    const NAME: &'static str = "transformer-block";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [batch, seq, width] = *shape else {
            candle_core::bail!("a block takes [batch, sequence, width], not {shape:?}")
        };
        let (p, pool) = (&self.block.params, &self.pool);
        let rows = batch * seq;

        let mut normed = pool.take(x.len());
        p.norm1.forward(x, &mut normed)?;
        let project = |layer: &Linear| {
            let mut out = pool.take(x.len());
            layer.forward(pool, &normed, None, &mut out).map(|()| out)
        };
        let (query, key, value) = (project(&p.query)?, project(&p.key)?, project(&p.value)?);

        let mut weights = pool.take(batch * self.block.heads * seq * seq);
        let mut mixed = pool.take(x.len());
        let dims = AttentionDims {
            seq,
            width,
            heads: self.block.heads,
            causal: self.block.causal,
        };
        dims.forward(&query, &key, &value, &mut weights, &mut mixed);

        let mut h = pool.take(x.len());
        p.out.forward(pool, &mixed, Some(x), &mut h)?;

        p.norm2.forward(&h, &mut normed)?;
        let mut hidden = pool.take(rows * p.fc1.outputs);
        p.fc1.forward(pool, &normed, None, &mut hidden)?;
        drop(normed);
        let mut active = pool.take(hidden.len());
        self.block.activation.forward(&hidden, &mut active);
        let mut y = vec![0.0; x.len()];
        p.fc2.forward(pool, &active, Some(&h), &mut y)?;

        if self.keep {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved {
                query,
                key,
                value,
                weights,
                mixed,
                h,
                hidden,
            });
        }
        Ok((y, shape.to_vec()))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        let [_, seq, width] = *shape else {
            candle_core::bail!("a block takes [batch, sequence, width], not {shape:?}")
        };
        let saved = self
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(saved) = saved else {
            candle_core::bail!("a block goes back once for each time it went forward")
        };
        let (p, pool) = (&self.block.params, &self.pool);

        // The MLP, from its end.
        let mut hidden = saved.hidden;
        let mut d_hidden = pool.take(hidden.len());
        p.fc2.backward_input(g, &mut d_hidden, false)?;
        self.block.activation.backward(&mut hidden, &mut d_hidden);
        let active = hidden;
        p.fc2.backward_params(&active, g);
        drop(active);
        let mut normed = pool.take(x.len());
        p.norm2.forward(&saved.h, &mut normed)?;
        p.fc1.backward_params(&normed, &d_hidden);
        let mut d_normed = pool.take(x.len());
        p.fc1.backward_input(&d_hidden, &mut d_normed, false)?;
        drop(d_hidden);
        let mut dh = pool.take(x.len());
        dh.copy_from_slice(g);
        p.norm2.backward(&saved.h, &d_normed, &mut dh)?;

        // Attention.
        p.out.backward_params(&saved.mixed, &dh);
        let mut d_mixed = pool.take(x.len());
        p.out.backward_input(&dh, &mut d_mixed, false)?;
        let (mut dq, mut dk, mut dv) = (pool.take(x.len()), pool.take(x.len()), pool.take(x.len()));
        let dims = AttentionDims {
            seq,
            width,
            heads: self.block.heads,
            causal: self.block.causal,
        };
        dims.backward(
            &saved.query,
            &saved.key,
            &saved.value,
            &saved.weights,
            &d_mixed,
            [&mut dq, &mut dk, &mut dv],
        );
        p.norm1.forward(x, &mut normed)?;
        let projections = [(&p.query, &dq), (&p.key, &dk), (&p.value, &dv)];
        for (i, (layer, d)) in projections.into_iter().enumerate() {
            layer.backward_params(&normed, d);
            layer.backward_input(d, &mut d_normed, i > 0)?;
        }
        let mut dx = if wanted { dh.to_vec() } else { Vec::new() };
        if wanted {
            p.norm1.backward(x, &d_normed, &mut dx)?;
        } else {
            // The norm's own parameters still want theirs.
            p.norm1.backward(x, &d_normed, &mut dh)?;
        }
        Ok(wanted.then_some(dx))
    }
}

/// Scaled dot-product attention over `[batch, seq, heads * head]`, without
/// moving heads apart: each head is a strided view.
struct AttentionDims {
    seq: usize,
    width: usize,
    heads: usize,
    causal: bool,
}

impl AttentionDims {
    fn head(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head() as f32).sqrt()
    }

    /// The part of one example's `[seq, width]` that belongs to a head.
    fn view<'a>(&self, example: &'a [f32], head: usize) -> Mat<'a> {
        Mat::strided(
            &example[head * self.head()..],
            self.seq,
            self.head(),
            self.width,
        )
    }

    fn view_mut<'a>(&self, example: &'a mut [f32], head: usize) -> MatMut<'a> {
        MatMut::strided(
            &mut example[head * self.head()..],
            self.seq,
            self.head(),
            self.width,
        )
    }

    /// Positions that `row` sees.
    fn visible(&self, row: usize) -> usize {
        if self.causal { row + 1 } else { self.seq }
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32], weights: &mut [f32], mixed: &mut [f32]) {
        let (seq, example) = (self.seq, self.seq * self.width);
        weights
            .par_chunks_mut(self.heads * seq * seq)
            .zip(mixed.par_chunks_mut(example))
            .zip(q.par_chunks(example))
            .zip(k.par_chunks(example))
            .zip(v.par_chunks(example))
            .for_each(|((((weights, mixed), q), k), v)| {
                for (head, weights) in weights.chunks_exact_mut(seq * seq).enumerate() {
                    matmul(
                        MatMut::new(weights, seq, seq),
                        self.view(q, head),
                        self.view(k, head).t(),
                        self.scale(),
                        false,
                        Threads::One,
                    );
                    for (i, row) in weights.chunks_exact_mut(seq).enumerate() {
                        simd::softmax_row(row, self.visible(i));
                    }
                    matmul(
                        self.view_mut(mixed, head),
                        Mat::new(weights, seq, seq),
                        self.view(v, head),
                        1.0,
                        false,
                        Threads::One,
                    );
                }
            });
    }

    fn backward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        weights: &[f32],
        g: &[f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let (seq, example) = (self.seq, self.seq * self.width);
        let inputs = weights
            .par_chunks(self.heads * seq * seq)
            .zip(q.par_chunks(example))
            .zip(k.par_chunks(example))
            .zip(v.par_chunks(example))
            .zip(g.par_chunks(example));
        dq.par_chunks_mut(example)
            .zip(dk.par_chunks_mut(example))
            .zip(dv.par_chunks_mut(example))
            .zip(inputs)
            .for_each_init(
                || vec![0.0; seq * seq],
                |d_weights, (((dq, dk), dv), ((((weights, q), k), v), g))| {
                    for (head, weights) in weights.chunks_exact(seq * seq).enumerate() {
                        let product = |out: MatMut<'_>, a: Mat<'_>, b: Mat<'_>| {
                            matmul(out, a, b, 1.0, false, Threads::One);
                        };
                        let square = Mat::new(weights, seq, seq);
                        let g = self.view(g, head);
                        product(self.view_mut(dv, head), square.t(), g);
                        product(MatMut::new(d_weights, seq, seq), g, self.view(v, head).t());
                        for (p, d) in weights
                            .chunks_exact(seq)
                            .zip(d_weights.chunks_exact_mut(seq))
                        {
                            simd::softmax_backward_row(p, d, self.scale());
                        }
                        let d_scores = Mat::new(d_weights, seq, seq);
                        product(self.view_mut(dq, head), d_scores, self.view(k, head));
                        product(self.view_mut(dk, head), d_scores.t(), self.view(q, head));
                    }
                },
            );
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    fn shapes(width: usize, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Vec::new();
        for name in ["layer_norm1", "layer_norm2"] {
            shapes.push((format!("b.{name}.weight"), vec![width]));
            shapes.push((format!("b.{name}.bias"), vec![width]));
        }
        for (name, inputs, outputs) in [
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", width, width),
            ("self_attn.v_proj", width, width),
            ("self_attn.out_proj", width, width),
            ("mlp.fc1", width, hidden),
            ("mlp.fc2", hidden, width),
        ] {
            shapes.push((format!("b.{name}.weight"), vec![outputs, inputs]));
            shapes.push((format!("b.{name}.bias"), vec![outputs]));
        }
        shapes
    }

    fn check(activation: Activation, causal: bool, frozen: &[&str]) {
        let (batch, seq, width, hidden) = (3, 9, 16, 40);
        let shapes = shapes(width, hidden);
        let shapes: Vec<(&str, &[usize])> = shapes
            .iter()
            .map(|(n, s)| (n.as_str(), s.as_slice()))
            .collect();
        let params = params(&shapes, frozen);
        let block = Block {
            params: BlockParams::load_clip(&params, "b", width, hidden, 1e-5).unwrap(),
            heads: 4,
            activation,
            causal,
        };
        let x = noise(7, batch * seq * width);
        let x = Tensor::from_vec(x, (batch, seq, width), &Device::Cpu).unwrap();
        compare(&params, &x, |pass, x| block.forward(pass, x));
    }

    #[test]
    fn fused_equals_composite() {
        check(Activation::QuickGelu, false, &[]);
        check(Activation::Gelu, false, &[]);
    }

    #[test]
    fn fused_equals_composite_when_causal() {
        check(Activation::QuickGelu, true, &[]);
    }

    #[test]
    fn fused_equals_composite_when_partly_frozen() {
        let frozen = ["b.mlp.fc1.weight", "b.self_attn.k_proj.weight"];
        check(Activation::QuickGelu, true, &frozen);
    }
}
