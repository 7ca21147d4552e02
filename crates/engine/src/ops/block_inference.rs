//! A transformer block in inference. Weights are packed once; query, key and
//! value are one product; bias, activation and residual are applied while a
//! tile of a product is in the cache. Nothing is saved.

use rayon::prelude::*;

use super::{
    Inference, Linear,
    block_finish::Finish,
    block_state::{FusedBlock, normalise},
    linear::{Output, infer_together},
};
use crate::kernels::simd;

impl FusedBlock {
    /// Returns the block's output for `x`, whose rows have `width` elements.
    pub(super) fn infer(
        &self,
        Inference { int8 }: Inference,
        x: &[f32],
        width: usize,
    ) -> candle_core::Result<Vec<f32>> {
        let (p, pool) = (&self.block.params, &self.pool);
        let norm_first = self.block.norm_first;
        let rows_out = self.rows_out();
        let len_out = rows_out * width;

        let mut normed = pool.take(x.len());
        let attend_to = if norm_first {
            normalise(p.norm1.as_ref(), x, &mut normed)?;
            &normed
        } else {
            x
        };
        let rows = x.len() / width;
        let mut query = pool.take(rows_out * p.query.outputs);
        let mut key = pool.take(rows * p.key.outputs);
        let mut value = pool.take(rows * p.value.outputs);
        let asking = self.chosen(attend_to, width);
        let mut projections = Vec::with_capacity(3);
        match &asking {
            None => projections.push(Output::new(&p.query, &mut query)),
            Some(asking) => p.query.infer(int8, asking, None, &mut query)?,
        }
        projections.push(Output::new(&p.key, &mut key));
        projections.push(Output::new(&p.value, &mut value));
        infer_together(int8, attend_to, &mut projections)?;
        self.normalise_heads(&mut query, &mut key)?;
        self.rotate([&mut query, &mut key], false);
        let mut mixed = pool.take(query.len());
        self.attention().infer([&query, &key, &value], &mut mixed)?;

        let mut attended = pool.take(len_out);
        let chosen = self.chosen(x, width);
        let residual = chosen.as_deref().unwrap_or(x);
        let end = (&p.out, p.finish[0].as_ref());
        self.end_half_inference(int8, end, &mixed, residual, &mut attended)?;
        let normed = &mut normed[..len_out];

        // `normed` becomes the MLP's input, and its output is added to `base`.
        normalise(self.middle_norm(), &attended, normed)?;
        let base = if norm_first { &attended } else { &*normed };
        let mut active = pool.take(rows_out * p.fc1.outputs);
        let activate = Some(self.block.activation.inference());
        let hidden = Output {
            activate,
            ..Output::new(&p.fc1, &mut active)
        };
        match &p.gate {
            None => infer_together(int8, normed, &mut [hidden])?,
            Some(layer) => {
                let mut gate = pool.take(rows_out * layer.outputs);
                let mut outputs = [hidden, Output::new(layer, &mut gate)];
                infer_together(int8, normed, &mut outputs)?;
                const CHUNK: usize = 16 * 1024;
                active
                    .par_chunks_mut(CHUNK)
                    .zip(gate.par_chunks(CHUNK))
                    .for_each(|(active, gate)| simd::multiply_assign(active, gate));
            }
        }
        let end = (&p.fc2, p.finish[1].as_ref());
        let mut y = vec![0.0; len_out];
        if norm_first {
            self.end_half_inference(int8, end, &active, base, &mut y)?;
        } else {
            let mut last = pool.take(len_out);
            self.end_half_inference(int8, end, &active, base, &mut last)?;
            p.norm2.forward(&last, &mut y)?;
        }
        Ok(y)
    }

    /// Computes the end of a half, `y = residual + finish(layer(x))`.
    fn end_half_inference(
        &self,
        int8: bool,
        (layer, finish): (&Linear, Option<&Finish>),
        x: &[f32],
        residual: &[f32],
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let Some(finish) = finish else {
            return layer.infer(int8, x, Some(residual), y);
        };
        let mut unfinished = self.pool.take(y.len());
        layer.infer(int8, x, None, &mut unfinished)?;
        finish.forward(&unfinished, residual, y)
    }
}
