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
    Activation, AttentionConfig, BlockParams, BlockRates, Pass, Segments,
    attention_tensors::attend,
    block_finish::Finish,
    block_fused::FusedBlock,
    dropout::{Masks, masked, path_factors},
    layer_norm,
    node::node,
    rows::take_rows,
};
use crate::Result;

/// A transformer block over the rows of several sequences, `[rows, width]`.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) params: BlockParams,
    pub(crate) attention: AttentionConfig,
    pub(crate) activation: Activation,
    /// Whether the norms come before the halves (pre-norm).
    pub(crate) norm_first: bool,
    /// Dropout rates in training.
    pub(crate) rates: BlockRates,
}

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
                x = masked(&x, masks, &positions)?;
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
                active = masked(&active, masks, &positions)?;
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
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::{
        BERT_BLOCK, BlockForm, BlockLayers, CLIP_BLOCK, Draws, FinishNames, LayerName, NormKind,
        PositionBias, Rotary, Runtime,
        testing::{compare_with, noise, params},
    };

    const WIDTH: usize = 16;
    const HIDDEN: usize = 40;
    const HEADS: usize = 4;

    fn form(activation: Activation, norm_first: bool) -> BlockForm {
        BlockForm {
            width: WIDTH,
            hidden: HIDDEN,
            activation,
            norm: NormKind::Layer,
            eps: 1e-5,
            norm_first,
            attention: AttentionConfig::new(WIDTH, HEADS),
            rates: BlockRates::default(),
        }
    }

    /// Compares both forms of a block, for equal and unequal lengths, and for
    /// all positions and one per sequence. `buckets` is the number of rows of a
    /// learned position bias.
    fn check(layers: &BlockLayers, form: &BlockForm, buckets: usize, frozen: &[&str]) {
        check_with(layers, form, buckets, frozen, None);
        // All kinds of dropout, then only attention weights.
        let rates = BlockRates {
            attention: 0.2,
            halves: [0.1, 0.3],
            inner: 0.15,
            path: 0.4,
        };
        for rates in [rates, BlockRates::new(0.2, 0.0)] {
            let form = BlockForm {
                rates,
                ..form.clone()
            };
            check_with(layers, &form, buckets, frozen, Some(Draws::new(1, 2, 0)));
        }
    }

    fn check_with(
        layers: &BlockLayers,
        form: &BlockForm,
        buckets: usize,
        frozen: &[&str],
        draws: Option<Draws>,
    ) {
        let mut shapes = layers.tensors("b", form);
        if buckets > 0 {
            shapes.push(("bias".to_owned(), vec![buckets, form.attention.heads]));
        }
        let shapes: Vec<(&str, &[usize])> = shapes
            .iter()
            .map(|(n, s)| (n.as_str(), s.as_slice()))
            .collect();
        for segments in [Segments::uniform(3, 9), Segments::new([4, 9, 1, 7])] {
            let params = params(&shapes, frozen);
            let mut block = layers.load(&params, "b", form).unwrap();
            if buckets > 0 {
                let table = params.get("bias", &[buckets, form.attention.heads]);
                block.attention.bias = Some(PositionBias::Buckets {
                    table: table.unwrap(),
                    max_distance: 8,
                });
            }
            let x = noise(7, segments.rows() * WIDTH);
            let x = Tensor::from_vec(x, (segments.rows(), WIDTH), &Device::Cpu).unwrap();
            let last: Vec<usize> = segments.lengths().iter().map(|length| length - 1).collect();
            let middle: Vec<usize> = last.iter().map(|position| position / 2).collect();
            for only in [None, Some(&last[..]), Some(&middle)] {
                compare_with(&params, &x, draws, |pass, x| {
                    block.forward(pass, x, &segments, only)
                });
            }
        }
    }

    #[test]
    fn fused_equals_composite_with_every_activation() {
        for activation in [
            Activation::QuickGelu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::Silu,
        ] {
            check(&CLIP_BLOCK.layers(), &form(activation, true), 0, &[]);
        }
    }

    #[test]
    fn fused_equals_composite_with_the_norms_behind() {
        let form = form(Activation::Gelu, false);
        check(&BERT_BLOCK.layers(), &form, 0, &[]);
        let frozen = [
            "b.attention.output.LayerNorm.weight",
            "b.output.dense.weight",
        ];
        check(&BERT_BLOCK.layers(), &form, 0, &frozen);
    }

    #[test]
    fn fused_equals_composite_when_causal() {
        let mut form = form(Activation::QuickGelu, true);
        form.attention.causal = true;
        check(&CLIP_BLOCK.layers(), &form, 0, &[]);
    }

    #[test]
    fn fused_equals_composite_when_partly_frozen() {
        let mut form = form(Activation::QuickGelu, true);
        form.attention.causal = true;
        let frozen = ["b.mlp.fc1.weight", "b.self_attn.k_proj.weight"];
        check(&CLIP_BLOCK.layers(), &form, 0, &frozen);
    }

    /// Query, key and value in one tensor, the MLP and its gate in another, and
    /// no biases.
    fn without_biases(norm1: Option<&'static str>) -> BlockLayers {
        let name = |name| LayerName::new(name).with_bias(false);
        BlockLayers {
            norm1,
            query: name("qkv").part(0, 3),
            key: name("qkv").part(1, 3),
            value: name("qkv").part(2, 3),
            out: name("out"),
            head_norms: None,
            norm2: "norm2",
            fc1: name("wi").part(0, 2),
            gate: Some(name("wi").part(1, 2)),
            fc2: name("wo"),
            finish: None,
        }
    }

    #[test]
    fn fused_equals_composite_with_rotary_embeddings_a_window_and_a_gated_mlp() {
        for norm1 in [None, Some("norm1")] {
            for reach in [None, Some(2)] {
                let mut form = form(Activation::Gelu, true);
                form.norm = NormKind::LayerWithoutBias;
                form.attention.reach = reach;
                form.attention.rotary = Some(Rotary::new(100.0, WIDTH / HEADS));
                check(&without_biases(norm1), &form, 0, &[]);
            }
        }
    }

    #[test]
    fn fused_equals_composite_with_a_learned_position_bias() {
        for (norm_first, norm) in [(true, NormKind::Rms), (false, NormKind::Layer)] {
            let mut form = form(Activation::Relu, norm_first);
            form.norm = norm;
            form.attention.scale = if norm_first { 1.0 } else { 0.5 };
            check(&without_biases(Some("norm1")), &form, 8, &[]);
            check(&without_biases(Some("norm1")), &form, 8, &["bias"]);
        }
    }

    #[test]
    fn fused_equals_composite_with_slopes_by_distance() {
        let mut form = form(Activation::Gelu, false);
        form.attention.bias = Some(PositionBias::alibi(HEADS));
        let mut layers = BERT_BLOCK.layers();
        layers.gate = Some(LayerName::new("gate").with_bias(false));
        check(&layers, &form, 0, &[]);
    }

    #[test]
    fn fused_equals_composite_with_few_and_wide_heads_of_keys() {
        let mut form = form(Activation::Silu, true);
        form.attention = AttentionConfig {
            kv_heads: 2,
            causal: true,
            reach: Some(3),
            rotary: Some(Rotary::new(1e4, 6)),
            ..AttentionConfig::new(24, HEADS)
        };
        let mut layers = without_biases(Some("norm1"));
        layers.query = LayerName::new("q");
        layers.key = LayerName::new("k");
        layers.value = LayerName::new("v");
        check(&layers, &form, 0, &[]);
    }

    #[test]
    fn fused_equals_composite_with_norms_of_heads_and_behind_halves() {
        for frozen in [&[][..], &["b.norm4.weight", "b.head1.weight"]] {
            let mut form = form(Activation::GeluTanh, true);
            form.norm = NormKind::RmsPlusOne;
            form.attention.kv_heads = 1;
            form.attention.rotary = Some(Rotary::new(1e4, WIDTH / HEADS));
            let mut layers = without_biases(Some("norm1"));
            layers.query = LayerName::new("q");
            layers.key = LayerName::new("k");
            layers.value = LayerName::new("v");
            layers.head_norms = Some(["head1", "head2"]);
            layers.finish = Some(FinishNames::Norms(["norm3", "norm4"]));
            check(&layers, &form, 0, frozen);
        }
    }

    #[test]
    fn fused_equals_composite_with_scaled_halves() {
        let mut layers = CLIP_BLOCK.layers();
        layers.finish = Some(FinishNames::Scales(["scale1", "scale2"]));
        for frozen in [&[][..], &["b.scale1"]] {
            check(&layers, &form(Activation::Gelu, true), 0, frozen);
        }
    }

    #[test]
    fn gradients_under_a_fixed_mask_are_those_of_finite_differences() {
        let form = BlockForm {
            rates: BlockRates {
                inner: 0.2,
                path: 0.3,
                ..BlockRates::new(0.2, 0.3)
            },
            ..form(Activation::Gelu, false)
        };
        let layers = BERT_BLOCK.layers();
        let shapes = layers.tensors("b", &form);
        let shapes: Vec<(&str, &[usize])> = shapes
            .iter()
            .map(|(n, s)| (n.as_str(), s.as_slice()))
            .collect();
        let params = params(&shapes, &[]);
        let block = layers.load(&params, "b", &form).unwrap();
        let segments = Segments::new([4, 9, 1, 7]);
        let x = noise(7, segments.rows() * WIDTH);
        let x = Tensor::from_vec(x, (segments.rows(), WIDTH), &Device::Cpu).unwrap();
        let weights = noise(8, x.elem_count());
        let weights = Tensor::from_vec(weights, x.shape(), x.device()).unwrap();
        let runtime = Runtime::new(&params).unwrap();
        let loss = |draws| {
            let pass = runtime.training().with_draws(draws);
            let y = block.forward(&pass, &x, &segments, None).unwrap();
            (y * &weights).unwrap().sum_all().unwrap()
        };
        let value = |draws| f64::from(loss(draws).to_scalar::<f32>().unwrap());
        let directions: Vec<Vec<f32>> = (params.iter().enumerate())
            .map(|(i, param)| noise(50 + i as u64, param.tensor().elem_count()))
            .collect();
        let slope = |draws| {
            params.zero_grad();
            params.backward(&loss(draws)).unwrap();
            let products = params.iter().zip(&directions).map(|(param, direction)| {
                let grad = param.grad().unwrap();
                let products = grad.iter().zip(direction);
                products
                    .map(|(g, d)| f64::from(*g) * f64::from(*d))
                    .sum::<f64>()
            });
            products.sum::<f64>()
        };
        let step = |by: f32| {
            for (param, direction) in params.iter().zip(&directions) {
                let change = |value: &mut [f32]| {
                    value
                        .iter_mut()
                        .zip(direction)
                        .for_each(|(v, d)| *v += by * d);
                };
                param.update(change).unwrap();
            }
        };
        let draws = Some(Draws::new(3, 1, 0));
        let expected = slope(draws);
        const STEP: f32 = 2e-3;
        step(STEP);
        let above = value(draws);
        step(-2.0 * STEP);
        let below = value(draws);
        step(STEP);
        let found = (above - below) / f64::from(2.0 * STEP);
        assert!(
            (found / expected - 1.0).abs() < 0.01,
            "{found} and {expected}"
        );
        // The slope differs without the mask.
        let without = slope(None);
        assert!(
            (without / expected - 1.0).abs() > 0.1,
            "{without} and {expected}"
        );
    }
}
