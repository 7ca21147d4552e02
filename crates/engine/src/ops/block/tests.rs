//! Compares both forms of a transformer block.

use candle_core::Device;

use super::*;
use crate::ops::{
    Activation, AttentionConfig, BERT_BLOCK, BlockForm, BlockLayers, BlockRates, CLIP_BLOCK, Draws,
    FinishNames, LayerName, NormKind, PositionBias, Rotary, Runtime,
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
