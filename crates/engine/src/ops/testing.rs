//! Comparison of fused and composite forms.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::{Draws, Kernels, Pass, Runtime};
use crate::{Result, params::Params};

/// Returns pseudorandom numbers, the same in every run.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
        })
        .collect()
}

pub(crate) fn params(shapes: &[(&str, &[usize])], frozen: &[&str]) -> Params {
    let tensors: HashMap<_, _> = shapes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let n = shape.iter().product();
            let data = noise(i as u64 + 1, n).iter().map(|x| x * 0.4).collect();
            (name.to_string(), (shape.to_vec(), data))
        })
        .collect();
    Params::new(tensors, &Device::Cpu, |name| !frozen.contains(&name)).unwrap()
}

pub(crate) fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = b.iter().fold(0.1f32, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= 2e-5 * scale, "{what}[{i}]: {x} and {y}");
    }
}

/// Compares values, input gradients and parameter gradients of both forms
/// of `op`.
pub(crate) fn compare(params: &Params, x: &Tensor, op: impl Fn(&Pass, &Tensor) -> Result<Tensor>) {
    compare_with(params, x, None, op);
}

/// The same, with dropout by `draws`.
pub(crate) fn compare_with(
    params: &Params,
    x: &Tensor,
    draws: Option<Draws>,
    op: impl Fn(&Pass, &Tensor) -> Result<Tensor>,
) {
    let mut runtime = Runtime::new(params).unwrap();
    let mut seen = Vec::new();
    for kernels in [Kernels::Fused, Kernels::Composite] {
        runtime.kernels = kernels;
        params.zero_grad();
        let x = Var::from_tensor(x).unwrap();
        // A preceding operation, so that the input is tracked as in a
        // model.
        let input = (x.as_tensor() * 1.0).unwrap();
        let y = op(&runtime.training().with_draws(draws), &input).unwrap();
        let still = op(&runtime.inference().with_draws(draws), &input.detach()).unwrap();
        assert!(!still.track_op());
        let weights = Tensor::from_vec(noise(99, y.elem_count()), y.shape(), y.device()).unwrap();
        let loss = (&y * weights).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        params.collect(&grads).unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        if draws.is_none() {
            assert_close(&flat(&still), &flat(&y), "inference");
        }
        seen.push((
            flat(&y),
            grads.get(&x).map(flat).unwrap_or_default(),
            params
                .iter()
                .map(|p| p.grad().map(|g| g.clone()).unwrap_or_default())
                .collect::<Vec<_>>(),
        ));
    }
    assert_close(&seen[0].0, &seen[1].0, "value");
    assert_close(&seen[0].1, &seen[1].1, "input gradient");
    for (i, param) in params.iter().enumerate() {
        assert_close(&seen[0].2[i], &seen[1].2[i], param.name());
        assert!(
            !param.is_trainable() || seen[0].2[i].iter().any(|g| *g != 0.0),
            "no gradient: {}",
            param.name()
        );
    }
}
