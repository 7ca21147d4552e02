//! A transformer block (Vaswani et al. 2017, arXiv:1706.03762), with the norms
//! before each half (pre-norm, as in GPT-2 and CLIP) or after it (post-norm, as
//! in BERT):
//!
//! ```text
//! pre-norm   h = x + out(attention(n))       with n = norm1(x)
//!            y = h + fc2(act(fc1(norm2(h))))
//! post-norm  h = norm1(x + out(attention(x)))
//!            y = norm2(h + fc2(act(fc1(h))))
//! ```
//!
//! A gated MLP multiplies `act(fc1(h))` with `gate(h)`. A half may end in
//! another operation, [`Finish`](super::block_finish::Finish), before the
//! residual is added. Training may apply dropout to attention weights, to the
//! output of each half's last layer and to the input of the MLP's last layer,
//! and drop whole halves (stochastic depth).

use candle_core::{Tensor, Var};

use super::{
    Pass, Segments,
    attention_tensors::attend,
    block_finish::Finish,
    block_params::Block,
    block_state::FusedBlock,
    dropout::{Masks, apply_masks, path_factors},
    layer_norm,
    node::node,
    rows::take_rows,
};
use crate::Result;

impl Block {
    /// Runs the block and returns `[rows, width]`. If `only` gives a position
    /// per sequence, it returns the outputs of these positions, `[sequences,
    /// width]`. The other positions then serve only as keys and values, which
    /// saves most of a block's work.
    pub(crate) fn forward(
        &self,
        pass: &Pass,
        x: &Tensor,
        segments: &Segments,
        only: Option<&[usize]>,
    ) -> Result<Tensor> {
        if pass.is_fused() {
            return pass.apply(x, FusedBlock::new(self, pass, segments, only));
        }
        match pass.training && pass.checkpointing {
            true => self.checkpointed(pass, x, segments, only),
            false => self.composite(pass, x, segments, only),
        }
    }

    /// Like [`Block::composite`], but saves only the input: the backward pass
    /// runs the block again (gradient checkpointing; Chen et al. 2016,
    /// arXiv:1604.06174).
    fn checkpointed(
        &self,
        pass: &Pass,
        x: &Tensor,
        segments: &Segments,
        only: Option<&[usize]>,
    ) -> Result<Tensor> {
        let y = self.composite(&pass.without_graph(), &x.detach(), segments, only)?;
        let (block, own, kept) = (self.clone(), pass.clone(), x.detach());
        let (segments, only) = (segments.clone(), only.map(<[usize]>::to_vec));
        node(pass, x, y, move |g, wanted| {
            let leaf = Var::from_tensor(&kept)?;
            // Operations pass no gradient to a variable itself, only to
            // results.
            let input = match wanted {
                true => leaf.as_tensor().affine(1.0, 0.0)?,
                false => kept.clone(),
            };
            let y = block
                .composite(&own, &input, &segments, only.as_deref())
                .map_err(candle_core::Error::wrap)?;
            // The gradient of this sum with respect to `y` is `g`.
            let grads = (y * g)?.sum_all()?.backward()?;
            Ok(grads.get(&leaf).map(Tensor::detach))
        })
    }

    fn composite(
        &self,
        pass: &Pass,
        x: &Tensor,
        segments: &Segments,
        only: Option<&[usize]>,
    ) -> Result<Tensor> {
        let p = &self.params;
        let masks = self.rates.masks(pass);
        let positions = segments.positions(only);
        let finished = |half: usize, mut x: Tensor| -> Result<Tensor> {
            if let Some(masks) = &masks.halves[half] {
                x = apply_masks(&x, masks, &positions)?;
            }
            if let Some(finish) = &p.finish[half] {
                x = Finish::composite(finish, pass, &x)?;
            }
            if let Some(masks) = &masks.paths[half] {
                x = x.broadcast_mul(&path_factors(masks, &positions, &x)?)?;
            }
            Ok(x)
        };
        // With one position per sequence the others are only keys and values.
        let chosen = |x: &Tensor| match only {
            Some(only) => select_positions(pass, x, segments, only),
            None => Ok(x.clone()),
        };
        let attended = |x: &Tensor| -> Result<Tensor> {
            let masks = masks.attention.as_ref();
            let mixed = self.composite_attention(pass, x, &chosen(x)?, segments, only, masks)?;
            finished(0, p.out.composite(pass, &mixed)?)
        };
        let mlp = |x: &Tensor| -> Result<Tensor> {
            let mut active = self.activation.map(pass, &p.fc1.composite(pass, x)?)?;
            if let Some(gate) = &p.gate {
                active = (active * gate.composite(pass, x)?)?;
            }
            if let Some(masks) = &masks.inner {
                active = apply_masks(&active, masks, &positions)?;
            }
            finished(1, p.fc2.composite(pass, &active)?)
        };
        let norm1 = |x: &Tensor| match &p.norm1 {
            Some(norm) => layer_norm(pass, x, norm),
            None => Ok(x.clone()),
        };
        if self.norm_first {
            let h = (chosen(x)? + attended(&norm1(x)?)?)?;
            Ok((&h + mlp(&layer_norm(pass, &h, &p.norm2)?)?)?)
        } else {
            let h = norm1(&(chosen(x)? + attended(x)?)?)?;
            layer_norm(pass, &(&h + mlp(&h)?)?, &p.norm2)
        }
    }

    /// Computes attention of the rows `asking` to the rows of `x`.
    fn composite_attention(
        &self,
        pass: &Pass,
        x: &Tensor,
        asking: &Tensor,
        segments: &Segments,
        only: Option<&[usize]>,
        masks: Option<&Masks>,
    ) -> Result<Tensor> {
        let config = &self.attention;
        let p = &self.params;
        // Norms of heads, then rotary embeddings.
        let prepared = |x: Tensor, norm: usize, only: Option<&[usize]>| -> Result<Tensor> {
            let mut x = x;
            if let Some(norms) = &p.head_norms {
                let shape = x.shape().clone();
                let heads = x.reshape(((), config.head))?;
                x = layer_norm(pass, &heads, &norms[norm])?.reshape(shape)?;
            }
            if let Some(rotary) = &config.rotary {
                let positions = segments.positions(only);
                let positions: Vec<usize> = positions
                    .into_iter()
                    .map(|(_, position)| position)
                    .collect();
                x = rotary.composite(pass, &x, &positions)?;
            }
            Ok(x)
        };
        let q = prepared(p.query.composite(pass, asking)?, 0, only)?;
        let k = prepared(p.key.composite(pass, x)?, 1, None)?;
        let v = p.value.composite(pass, x)?;
        attend(pass, config, [&q, &k, &v], segments, only, masks)
    }
}

/// Runs `blocks` in order. If `only` gives a position per sequence, the last
/// block returns only the outputs of these positions.
pub(crate) fn run_blocks(
    blocks: &[Block],
    pass: &Pass,
    x: &Tensor,
    segments: &Segments,
    only: Option<&[usize]>,
) -> Result<Tensor> {
    run_blocks_from(0, blocks, pass, x, segments, only)
}

/// Like [`run_blocks`], for blocks that start at number `first` of their
/// network. The number selects a block's dropout masks.
pub(crate) fn run_blocks_from(
    first: usize,
    blocks: &[Block],
    pass: &Pass,
    x: &Tensor,
    segments: &Segments,
    only: Option<&[usize]>,
) -> Result<Tensor> {
    let Some((last, others)) = blocks.split_last() else {
        return match only {
            None => Ok(x.clone()),
            Some(only) => select_positions(pass, x, segments, only),
        };
    };
    let mut x = x.clone();
    for (index, block) in others.iter().enumerate() {
        x = block.forward(&pass.in_block(first + index), &x, segments, None)?;
    }
    last.forward(&pass.in_block(first + others.len()), &x, segments, only)
}

/// Selects the row of one position of each sequence.
pub(super) fn select_positions(
    pass: &Pass,
    x: &Tensor,
    segments: &Segments,
    only: &[usize],
) -> Result<Tensor> {
    let rows: Vec<u32> = segments.rows_of(only).map(|row| row as u32).collect();
    take_rows(pass, x, rows)
}

#[cfg(test)]
mod tests;
