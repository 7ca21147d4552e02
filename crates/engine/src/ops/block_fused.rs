//! A transformer block as a single node of the graph. It saves what is
//! expensive to recompute: queries, keys, values, attention weights, the inputs
//! of the norms, of the activation and of the operations that finish a half.
//! The backward pass recomputes norms and activation, which cost one pass over
//! memory each.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{
    Attention, Draws, FusedOp, Inference, LayerNorm, Linear, Pass, Segments, Step,
    block_params::Block,
    dropout::{BlockMasks, Masks},
};
use crate::kernels::{
    gemm::Precision,
    pool::{Buffer, Pool},
    simd,
};

/// Values that the forward pass saves for the backward pass.
struct Saved {
    query: Buffer,
    key: Buffer,
    value: Buffer,
    /// Queries and keys before their norms.
    bare: Option<[Buffer; 2]>,
    /// Attention weights, `[heads, length, length]` of each sequence.
    weights: Buffer,
    mixed: Buffer,
    /// The sum of the input and the attention's output.
    attended: Buffer,
    /// Input of the activation.
    hidden: Buffer,
    /// Output of the gate, which multiplies the activation's.
    gate: Option<Buffer>,
    /// Inputs of the operations that finish a half.
    unfinished: [Option<Buffer>; 2],
    /// Input of the last norm, in a post-norm block.
    last: Option<Buffer>,
}

pub(super) struct FusedBlock {
    pub(super) block: Block,
    segments: Segments,
    /// Position of each sequence's single output, if not all are needed.
    only: Option<Vec<usize>>,
    precision: Precision,
    pub(super) pool: Pool,
    inference: Option<Inference>,
    /// Dropout in training.
    masks: BlockMasks,
    adapters: Option<Draws>,
    saved: Mutex<Option<Saved>>,
}

/// Computes `y = norm(x)`, or copies if there is no norm.
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
fn normalise_backward(
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
    fn step(&self) -> Step<'_> {
        Step {
            precision: self.precision,
            pool: &self.pool,
            adapters: self.adapters,
        }
    }

    /// Applies dropout to output rows.
    fn drop_rows(&self, masks: Option<&Masks>, x: &mut [f32]) {
        if let Some(masks) = masks {
            let positions = self.segments.positions(self.only.as_deref());
            masks.apply_rows(&positions, x.len() / positions.len().max(1), x);
        }
    }

    /// Multiplies each output row with its example's factor of stochastic
    /// depth.
    fn scale_path(&self, masks: Option<&Masks>, x: &mut [f32]) {
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
    fn project(&self, layer: &Linear, x: &[f32]) -> candle_core::Result<Buffer> {
        let mut y = self.pool.take(x.len() / layer.inputs * layer.outputs);
        layer.forward(&self.step(), x, None, &mut y)?;
        Ok(y)
    }

    /// Computes the end of a half, `y = residual + finish(layer(x))`, with
    /// dropout. Returns the input of `finish` if the half has one.
    fn end_half(
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
    fn finish_backward(
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
    fn heads_backward(
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
    fn spread(&self, g: Buffer, width: usize) -> Buffer {
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
    fn activation_backward(
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

impl FusedOp for FusedBlock {
    const NAME: &'static str = "transformer-block";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [rows, width] = *shape else {
            candle_core::bail!("a block takes [rows, width], not {shape:?}")
        };
        if rows != self.segments.rows() {
            candle_core::bail!("{rows} rows for sequences of {}", self.segments.rows())
        }
        let rows_out = self.rows_out();
        if let Some(inference) = self.inference {
            let y = self.infer(inference, x, width)?;
            return Ok((y, vec![rows_out, width]));
        }
        let (p, pool) = (&self.block.params, &self.pool);
        let norm_first = self.block.norm_first;
        let len_out = rows_out * width;

        let mut normed = pool.take(x.len());
        let attend_to = if norm_first {
            normalise(p.norm1.as_ref(), x, &mut normed)?;
            &normed
        } else {
            x
        };
        let asking = self.chosen(attend_to, width);
        let mut query = self.project(&p.query, asking.as_deref().unwrap_or(attend_to))?;
        drop(asking);
        let mut key = self.project(&p.key, attend_to)?;
        let value = self.project(&p.value, attend_to)?;
        let bare = self.normalise_heads(&mut query, &mut key)?;
        self.rotate([&mut query, &mut key], false);
        let attention = self.attention();
        let mut weights = pool.take(attention.weights_len());
        let mut mixed = pool.take(query.len());
        attention.forward([&query, &key, &value], &mut weights, &mut mixed)?;
        let mut attended = pool.take(len_out);
        let chosen = self.chosen(x, width);
        let residual = chosen.as_deref().unwrap_or(x);
        let unfinished = self.end_half(0, &mixed, residual, &mut attended)?;
        let mut normed = if self.only.is_some() {
            pool.take(len_out)
        } else {
            normed
        };

        // `normed` becomes the MLP's input, and its output is added to `base`.
        normalise(self.middle_norm(), &attended, &mut normed)?;
        let base = if norm_first { &attended } else { &normed };
        let hidden = self.project(&p.fc1, &normed)?;
        let gate = match &p.gate {
            Some(gate) => Some(self.project(gate, &normed)?),
            None => None,
        };
        let mut active = pool.take(hidden.len());
        self.block.activation.forward(&hidden, &mut active);
        if let Some(gate) = &gate {
            simd::multiply_assign(&mut active, gate);
        }
        self.drop_rows(self.masks.inner.as_ref(), &mut active);
        let mut y = vec![0.0; len_out];
        let (last, unfinished2) = if norm_first {
            (None, self.end_half(1, &active, base, &mut y)?)
        } else {
            let mut last = pool.take(len_out);
            let unfinished = self.end_half(1, &active, base, &mut last)?;
            p.norm2.forward(&last, &mut y)?;
            (Some(last), unfinished)
        };
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved {
            query,
            key,
            value,
            bare,
            weights,
            mixed,
            attended,
            hidden,
            gate,
            unfinished: [unfinished, unfinished2],
            last,
        });
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
            candle_core::bail!("the backward pass of a block needs its own forward pass")
        };
        let (p, pool, step) = (&self.block.params, &self.pool, self.step());
        let norm_first = self.block.norm_first;

        // The MLP, from its end. `dh` is the gradient of the value to which its
        // output is added.
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
        let d_out = self.finish_backward(1, saved.unfinished[1].as_ref(), &dh)?;
        let d_out = d_out.as_deref().unwrap_or(&dh);
        p.fc2.backward_input(&step, d_out, &mut d_hidden, false)?;
        self.drop_rows(self.masks.inner.as_ref(), &mut d_hidden);
        let d_gate = self.activation_backward(&mut hidden, saved.gate, &mut d_hidden);
        let mut active = hidden;
        self.drop_rows(self.masks.inner.as_ref(), &mut active);
        p.fc2.backward_params(&step, &active, d_out)?;
        drop(active);
        let norm = self.middle_norm();
        let mut normed = pool.take(g.len());
        normalise(norm, &saved.attended, &mut normed)?;
        p.fc1.backward_params(&step, &normed, &d_hidden)?;
        let mut d_normed = pool.take(g.len());
        if !norm_first {
            // In a post-norm block the MLP's input is also its residual.
            std::mem::swap(&mut dh, &mut d_normed);
        }
        p.fc1
            .backward_input(&step, &d_hidden, &mut d_normed, !norm_first)?;
        drop(d_hidden);
        if let (Some(gate), Some(d_gate)) = (&p.gate, &d_gate) {
            gate.backward_params(&step, &normed, d_gate)?;
            gate.backward_input(&step, d_gate, &mut d_normed, true)?;
        }
        drop(d_gate);
        if !norm_first {
            dh.fill(0.0);
        }
        normalise_backward(norm, &saved.attended, &d_normed, &mut dh)?;

        // Attention. `dh` is now the gradient of the sum of input and
        // attention.
        let d_out = self.finish_backward(0, saved.unfinished[0].as_ref(), &dh)?;
        let d_out = d_out.as_deref().unwrap_or(&dh);
        p.out.backward_params(&step, &saved.mixed, d_out)?;
        let mut d_mixed = pool.take(saved.mixed.len());
        p.out.backward_input(&step, d_out, &mut d_mixed, false)?;
        let mut dq = pool.take(saved.query.len());
        let mut dk = pool.take(saved.key.len());
        let mut dv = pool.take(saved.value.len());
        self.attention().backward(
            [&saved.query, &saved.key, &saved.value],
            &saved.weights,
            &d_mixed,
            [&mut dq, &mut dk, &mut dv],
        )?;
        drop(d_mixed);
        self.rotate([&mut dq, &mut dk], true);
        self.heads_backward(saved.bare.as_ref(), &mut dq, &mut dk)?;
        drop(normed);
        let norm1 = p.norm1.as_ref().filter(|_| norm_first);
        let normed = match norm1 {
            Some(norm1) => {
                let mut normed = pool.take(x.len());
                norm1.forward(x, &mut normed)?;
                Some(normed)
            }
            None => None,
        };
        let attend_to = normed.as_deref().unwrap_or(x);
        let asking = self.chosen(attend_to, width);
        let asking = asking.as_deref().unwrap_or(attend_to);
        p.query.backward_params(&step, asking, &dq)?;
        p.key.backward_params(&step, attend_to, &dk)?;
        p.value.backward_params(&step, attend_to, &dv)?;
        // The norm's own parameters need gradients even if the input doesn't.
        if norm1.is_none() && !wanted {
            return Ok(None);
        }
        let into_projections = |mut d: Buffer, accumulate| {
            p.query.backward_input(&step, &dq, &mut d, accumulate)?;
            let mut d = self.spread(d, width);
            p.key.backward_input(&step, &dk, &mut d, true)?;
            p.value.backward_input(&step, &dv, &mut d, true)?;
            Ok::<_, candle_core::Error>(d)
        };
        let dx = match norm1 {
            Some(norm1) => {
                let d_normed = into_projections(d_normed, false)?;
                let mut dx = self.spread(dh, width);
                norm1.backward(x, &d_normed, &mut dx)?;
                dx
            }
            None => into_projections(dh, true)?,
        };
        Ok(wanted.then(|| dx.to_vec()))
    }
}
