//! A transformer block as a single node of the graph. It saves what is
//! expensive to recompute: queries, keys, values, attention weights, the inputs
//! of the norms, of the activation and of the operations that finish a half.
//! The backward pass recomputes norms and activation, which cost one pass over
//! memory each.

use std::sync::PoisonError;

use super::{
    FusedOp,
    block_state::{FusedBlock, Saved, normalise, normalise_backward},
};
use crate::kernels::{pool::Buffer, simd};

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
