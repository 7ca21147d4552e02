//! The state of a transformer block in a fused pass, and the steps of its forward
//! and backward pass.

use std::sync::Mutex;

use rayon::prelude::*;

use super::{
    Attention, Draws, Inference, LayerNorm, Linear, Pass, Segments, Step,
    block_params::Block,
    dropout::{BlockMasks, Masks},
};
use crate::kernels::{
    gemm::Precision,
    pool::{Buffer, Pool},
    simd,
};

/// Values that the forward pass saves for the backward pass.
pub(super) struct Saved {
    pub(super) query: Buffer,
    pub(super) key: Buffer,
    pub(super) value: Buffer,
    /// Queries and keys before their norms.
    pub(super) bare: Option<[Buffer; 2]>,
    /// Attention weights, `[heads, length, length]` of each sequence.
    pub(super) weights: Buffer,
    pub(super) mixed: Buffer,
    /// The sum of the input and the attention's output.
    pub(super) attended: Buffer,
    /// Input of the activation.
    pub(super) hidden: Buffer,
    /// Output of the gate, which multiplies the activation's.
    pub(super) gate: Option<Buffer>,
    /// Inputs of the operations that finish a half.
    pub(super) unfinished: [Option<Buffer>; 2],
    /// Input of the last norm, in a post-norm block.
    pub(super) last: Option<Buffer>,
}

pub(super) struct FusedBlock {
    pub(super) block: Block,
    pub(super) segments: Segments,
    /// Position of each sequence's single output, if not all are needed.
    pub(super) only: Option<Vec<usize>>,
    pub(super) precision: Precision,
    pub(super) pool: Pool,
    pub(super) inference: Option<Inference>,
    /// Dropout in training.
    pub(super) masks: BlockMasks,
    pub(super) adapters: Option<Draws>,
    pub(super) saved: Mutex<Option<Saved>>,
}

/// Computes `y = norm(x)`. Without a norm, copies `x` to `y`.
pub(super) fn normalise(
    norm: Option<&LayerNorm>,
    x: &[f32],
    y: &mut [f32],
) -> candle_core::Result<()> {
    match norm {
        Some(norm) => norm.forward(x, y),
        None => {
            y.copy_from_slice(x);
            Ok(())
        }
    }
}

/// Adds the gradient with respect to the input of [`normalise`] to `dx`.
pub(super) fn normalise_backward(
    norm: Option<&LayerNorm>,
    x: &[f32],
    g: &[f32],
    dx: &mut [f32],
) -> candle_core::Result<()> {
    match norm {
        Some(norm) => norm.backward(x, g, dx),
        None => {
            simd::add_assign(dx, g);
            Ok(())
        }
    }
}

impl FusedBlock {
    pub(super) fn new(
        block: &Block,
        pass: &Pass,
        segments: &Segments,
        only: Option<&[usize]>,
    ) -> Self {
        Self {
            block: block.clone(),
            segments: segments.clone(),
            only: only.map(<[usize]>::to_vec),
            precision: pass.precision(),
            pool: pass.pool().clone(),
            inference: pass.inference(),
            masks: block.rates.masks(pass),
            adapters: pass.adapters,
            saved: Mutex::new(None),
        }
    }

    pub(super) fn attention(&self) -> Attention<'_> {
        Attention {
            config: &self.block.attention,
            segments: &self.segments,
            only: self.only.as_deref(),
            masks: self.masks.attention,
        }
    }

    /// Returns the settings with which the block's layers compute in training.
    pub(super) fn step(&self) -> Step<'_> {
        Step {
            precision: self.precision,
            pool: &self.pool,
            adapters: self.adapters,
        }
    }

    /// Applies dropout to output rows.
    pub(super) fn drop_rows(&self, masks: Option<&Masks>, x: &mut [f32]) {
        if let Some(masks) = masks {
            let positions = self.segments.positions(self.only.as_deref());
            masks.apply_rows(&positions, x.len() / positions.len().max(1), x);
        }
    }

    /// Multiplies each output row with its example's factor of stochastic
    /// depth.
    pub(super) fn scale_path(&self, masks: Option<&Masks>, x: &mut [f32]) {
        if let Some(masks) = masks {
            let positions = self.segments.positions(self.only.as_deref());
            let width = x.len() / positions.len().max(1);
            for (row, (example, _)) in x.chunks_exact_mut(width).zip(positions) {
                let factor = masks.factor(example);
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }

    /// Returns the number of output rows.
    pub(super) fn rows_out(&self) -> usize {
        match &self.only {
            Some(only) => only.len(),
            None => self.segments.rows(),
        }
    }

    /// Returns the norm before the MLP.
    pub(super) fn middle_norm(&self) -> Option<&LayerNorm> {
        if self.block.norm_first {
            Some(&self.block.params.norm2)
        } else {
            self.block.params.norm1.as_ref()
        }
    }

    /// Returns the output of a layer.
    pub(super) fn project(&self, layer: &Linear, x: &[f32]) -> candle_core::Result<Buffer> {
        let mut y = self.pool.take(x.len() / layer.inputs * layer.outputs);
        layer.forward(&self.step(), x, None, &mut y)?;
        Ok(y)
    }

    /// Computes the end of a half, `y = residual + finish(layer(x))`, with
    /// dropout. Returns the input of `finish` if the half has one.
    pub(super) fn end_half(
        &self,
        half: usize,
        x: &[f32],
        residual: &[f32],
        y: &mut [f32],
    ) -> candle_core::Result<Option<Buffer>> {
        let p = &self.block.params;
        let layer = if half == 0 { &p.out } else { &p.fc2 };
        let finish = p.finish[half].as_ref();
        let (masks, path) = (&self.masks.halves[half], &self.masks.paths[half]);
        if finish.is_none() && masks.is_none() && path.is_none() {
            layer.forward(&self.step(), x, Some(residual), y)?;
            return Ok(None);
        }
        let mut unfinished = self.project(layer, x)?;
        self.drop_rows(masks.as_ref(), &mut unfinished);
        if path.is_none()
            && let Some(finish) = finish
        {
            finish.forward(&unfinished, residual, y)?;
            return Ok(Some(unfinished));
        }
        match finish {
            None => y.copy_from_slice(&unfinished),
            Some(finish) => {
                let mut nothing = self.pool.take(y.len());
                nothing.fill(0.0);
                finish.forward(&unfinished, &nothing, y)?;
            }
        }
        self.scale_path(path.as_ref(), y);
        simd::add_assign(y, residual);
        Ok(finish.is_some().then_some(unfinished))
    }

    /// Returns the gradient of a half's last layer from that of the half, if
    /// they differ.
    pub(super) fn finish_backward(
        &self,
        half: usize,
        unfinished: Option<&Buffer>,
        g: &[f32],
    ) -> candle_core::Result<Option<Buffer>> {
        let finish = self.block.params.finish[half].as_ref().zip(unfinished);
        let (masks, path) = (&self.masks.halves[half], &self.masks.paths[half]);
        if finish.is_none() && masks.is_none() && path.is_none() {
            return Ok(None);
        }
        let scaled = path.as_ref().map(|path| {
            let mut scaled = self.pool.take(g.len());
            scaled.copy_from_slice(g);
            self.scale_path(Some(path), &mut scaled);
            scaled
        });
        let g = scaled.as_deref().unwrap_or(g);
        let mut dx = self.pool.take(g.len());
        match finish {
            Some((finish, x)) => finish.backward(x, g, &mut dx)?,
            None => dx.copy_from_slice(g),
        }
        self.drop_rows(masks.as_ref(), &mut dx);
        Ok(Some(dx))
    }

    /// Normalises the heads of queries and keys. Returns their previous values
    /// if the block has such norms.
    pub(super) fn normalise_heads(
        &self,
        query: &mut Buffer,
        key: &mut Buffer,
    ) -> candle_core::Result<Option<[Buffer; 2]>> {
        let Some([query_norm, key_norm]) = &self.block.params.head_norms else {
            return Ok(None);
        };
        let normalise = |norm: &LayerNorm, x: &mut Buffer| {
            let mut y = self.pool.take(x.len());
            norm.forward(x, &mut y)?;
            Ok::<_, candle_core::Error>(std::mem::replace(x, y))
        };
        Ok(Some([
            normalise(query_norm, query)?,
            normalise(key_norm, key)?,
        ]))
    }

    /// Backward pass of [`FusedBlock::normalise_heads`].
    pub(super) fn heads_backward(
        &self,
        bare: Option<&[Buffer; 2]>,
        dq: &mut Buffer,
        dk: &mut Buffer,
    ) -> candle_core::Result<()> {
        let norms = self.block.params.head_norms.as_ref();
        let Some((norms, bare)) = norms.zip(bare) else {
            return Ok(());
        };
        for ((norm, x), g) in norms.iter().zip(bare).zip([dq, dk]) {
            let mut dx = self.pool.take(g.len());
            dx.fill(0.0);
            norm.backward(x, g, &mut dx)?;
            *g = dx;
        }
        Ok(())
    }

    /// Applies rotary embeddings to queries and keys, or inverts them for
    /// gradients.
    pub(super) fn rotate(&self, [q, k]: [&mut [f32]; 2], back: bool) {
        let config = &self.block.attention;
        if let Some(rotary) = &config.rotary {
            let attention = self.attention();
            let (positions, key_positions) = (attention.positions(), attention.key_positions());
            let queries = (q, &positions[..], config.width());
            rotary.rotate([queries, (k, &key_positions, config.kv_width())], back);
        }
    }

    /// Returns the rows whose outputs are needed, if not all are.
    pub(super) fn chosen(&self, x: &[f32], width: usize) -> Option<Buffer> {
        let only = self.only.as_deref()?;
        let mut chosen = self.pool.take(only.len() * width);
        for (to, row) in chosen
            .chunks_exact_mut(width)
            .zip(self.segments.rows_of(only))
        {
            to.copy_from_slice(&x[row * width..][..width]);
        }
        Some(chosen)
    }

    /// Spreads a gradient of the needed rows to all rows.
    pub(super) fn spread(&self, g: Buffer, width: usize) -> Buffer {
        let Some(only) = &self.only else { return g };
        let mut all = self.pool.take(self.segments.rows() * width);
        all.fill(0.0);
        for (g, row) in g.chunks_exact(width).zip(self.segments.rows_of(only)) {
            all[row * width..][..width].copy_from_slice(g);
        }
        all
    }

    /// Backward pass of the activation. Turns the gradient of `act(hidden) *
    /// gate` into that of `hidden`, replaces `hidden` by that product, and
    /// returns the gate's gradient.
    pub(super) fn activation_backward(
        &self,
        hidden: &mut [f32],
        gate: Option<Buffer>,
        d_hidden: &mut [f32],
    ) -> Option<Buffer> {
        const CHUNK: usize = 16 * 1024;
        let multiply = |acc: &mut [f32], x: &[f32]| {
            acc.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .for_each(|(acc, x)| simd::multiply_assign(acc, x));
        };
        let activation = self.block.activation;
        let Some(gate) = gate else {
            activation.backward(hidden, d_hidden);
            return None;
        };
        let mut d_gate = self.pool.take(d_hidden.len());
        d_gate.copy_from_slice(d_hidden);
        multiply(d_hidden, &gate);
        activation.backward(hidden, d_hidden);
        multiply(&mut d_gate, hidden);
        multiply(hidden, &gate);
        Some(d_gate)
    }
}
