//! Compares both forms of convolutional layers with candle's operations.

use candle_core::{Device, Var};

use super::*;
use crate::ops::{
    Kernels, Pass, Runtime,
    testing::{assert_close, noise, params},
};

/// Computes the same layer with candle's operations, with channels first.
fn primitive(pass: &Pass, layer: &ConvNorm, x: &Tensor, residual: Option<&Tensor>) -> Tensor {
    let x = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    let z = match (&layer.weight, layer.padding) {
        (None, _) => x,
        (Some(weight), padding) => {
            let (before, after) = padding.sides();
            let x = x.pad_with_zeros(2, before, after).unwrap();
            let x = x.pad_with_zeros(3, before, after).unwrap();
            let groups = if layer.kind == ConvKind::Depthwise {
                layer.inputs
            } else {
                1
            };
            let weight = pass.value(weight);
            x.conv2d(&weight, 0, layer.stride, 1, groups).unwrap()
        }
    };
    let z = z.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
    let (n, h, w, c) = z.dims4().unwrap();
    let rows = z.reshape((n * h * w, c)).unwrap();
    let (mean, var) = if pass.training {
        let mean = rows.mean_keepdim(0).unwrap();
        let var = rows.broadcast_sub(&mean).unwrap();
        (mean, var.sqr().unwrap().mean_keepdim(0).unwrap())
    } else {
        (
            layer.norm.running_mean.tensor().reshape((1, c)).unwrap(),
            layer.norm.running_var.tensor().reshape((1, c)).unwrap(),
        )
    };
    let rstd = (var + f64::from(layer.norm.eps)).unwrap().sqrt().unwrap();
    let normed = rows
        .broadcast_sub(&mean)
        .unwrap()
        .broadcast_div(&rstd)
        .unwrap();
    let mut u = normed
        .broadcast_mul(&pass.value(&layer.norm.weight))
        .unwrap()
        .broadcast_add(&pass.value(&layer.norm.bias))
        .unwrap()
        .reshape((n, h, w, c))
        .unwrap();
    if let Some(residual) = residual {
        u = (u + residual).unwrap();
    }
    match layer.curve {
        Curve::Identity => u,
        Curve::Relu => u.relu().unwrap(),
        Curve::Relu6 => u.clamp(0.0, 6.0).unwrap(),
        Curve::Swish => u.silu().unwrap(),
    }
}

#[test]
fn every_kind_of_layer_equals_candles_operations() {
    let cases = [
        (ConvKind::Full, 3, 1, Padding::Both(1), Curve::Relu, true),
        (
            ConvKind::Full,
            3,
            2,
            Padding::Sides(0, 1),
            Curve::Swish,
            false,
        ),
        (
            ConvKind::Full,
            1,
            1,
            Padding::Both(0),
            Curve::Identity,
            true,
        ),
        (ConvKind::Full, 1, 2, Padding::Both(0), Curve::Relu6, false),
        (ConvKind::Full, 7, 2, Padding::Both(3), Curve::Relu, false),
        (
            ConvKind::Depthwise,
            3,
            1,
            Padding::Both(1),
            Curve::Relu6,
            false,
        ),
        (
            ConvKind::Depthwise,
            5,
            2,
            Padding::Sides(1, 2),
            Curve::Swish,
            false,
        ),
        (ConvKind::None, 1, 1, Padding::Both(0), Curve::Relu, false),
    ];
    for (kind, kernel, stride, padding, curve, with_residual) in cases {
        let (inputs, outputs) = match kind {
            ConvKind::Full => (5, 6),
            _ => (6, 6),
        };
        let per_group = if kind == ConvKind::Full { inputs } else { 1 };
        let weight: &[usize] = &[outputs, per_group, kernel, kernel];
        let mut shapes: Vec<(&str, &[usize])> = vec![
            ("n.weight", &[6]),
            ("n.bias", &[6]),
            ("n.running_mean", &[6]),
            ("n.running_var", &[6]),
        ];
        if kind != ConvKind::None {
            shapes.push(("w", weight));
        }
        let params = params(&shapes, &["n.running_mean", "n.running_var"]);
        let norm = BatchNorm::load(&params, "n", 6, 1e-3).unwrap();
        norm.running_var
            .update(|v| v.iter_mut().for_each(|v| *v = v.abs() + 0.5))
            .unwrap();
        let layer = ConvNorm {
            kind,
            weight: params.get("w", weight).ok(),
            inputs,
            outputs,
            kernel,
            stride,
            padding,
            norm,
            curve,
        };
        // The backward pass of candle's convolution needs strides that
        // divide the size evenly.
        let (before, after) = padding.sides();
        let even = |n: usize| n + (n + before + after - kernel) % stride;
        let (h, w) = (even(8), even(7));
        let x = noise(4, 3 * h * w * inputs);
        let x = Tensor::from_vec(x, (3, h, w, inputs), &Device::Cpu);
        let x = Var::from_tensor(&x.unwrap()).unwrap();
        let runtime = Runtime::new(&params).unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let what = format!("{kind:?} {kernel} {stride} {curve:?}");

        let still = runtime.inference();
        let input = (x.as_tensor() * 1.0).unwrap();
        let shape = layer.forward(&still, &input.detach(), None).unwrap();
        let residual = Tensor::from_vec(noise(8, shape.elem_count()), shape.shape(), x.device());
        let residual = Var::from_tensor(&residual.unwrap()).unwrap();
        let added = with_residual.then(|| (residual.as_tensor() * 1.0).unwrap());
        let detached = added.as_ref().map(Tensor::detach);
        let found = layer
            .forward(&still, &input.detach(), detached.as_ref())
            .unwrap();
        let expected = primitive(&still, &layer, &input.detach(), detached.as_ref());
        let mut composite = runtime.clone();
        composite.kernels = Kernels::Composite;
        let on_a_device = layer
            .forward(&composite.inference(), &input.detach(), detached.as_ref())
            .unwrap();
        for found in [&found, &on_a_device] {
            let what = format!("{what}: inference");
            assert_close(&flat(found), &flat(&expected), &what);
        }

        let mut seen = Vec::new();
        let before: Vec<Vec<f32>> = params.iter().map(|p| p.to_vec().unwrap()).collect();
        for form in ["fused", "composite", "primitive"] {
            params.zero_grad();
            // Each form updates the running statistics from the same start.
            for (param, value) in params.iter().zip(&before) {
                param.update(|own| own.copy_from_slice(value)).unwrap();
            }
            let pass = match form {
                "composite" => composite.training(),
                _ => runtime.training(),
            };
            let y = match form {
                "primitive" => primitive(&pass, &layer, &input, added.as_ref()),
                _ => layer.forward(&pass, &input, added.as_ref()).unwrap(),
            };
            let weights = Tensor::from_vec(noise(9, y.elem_count()), y.shape(), y.device());
            let loss = (&y * weights.unwrap()).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            params.collect(&grads).unwrap();
            let of = |v: &Var| grads.get(v).map(flat).unwrap_or_default();
            let mut all = vec![("value".to_owned(), flat(&y)), ("input".to_owned(), of(&x))];
            all.push(("residual".to_owned(), of(&residual)));
            for param in params.iter().filter(|p| p.is_trainable()) {
                all.push((param.name().to_owned(), param.grad().unwrap().clone()));
            }
            let moments = params.iter().filter(|p| !p.is_trainable());
            if form != "primitive" {
                all.extend(moments.map(|p| (p.name().to_owned(), p.to_vec().unwrap())));
            }
            seen.push(all);
        }
        for (form, found) in ["fused", "composite"].iter().zip(&seen) {
            for ((name, found), (_, expected)) in found.iter().zip(&seen[2]) {
                assert_close(found, expected, &format!("{what}: {name}, {form}"));
            }
        }
        for ((name, found), (_, expected)) in seen[1].iter().zip(&seen[0]) {
            assert_close(found, expected, &format!("{what}: {name}, both forms"));
        }
    }
}
