//! Layers of convolutional networks, channels last: `[batch, height, width,
//! channels]`.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{BatchNorm, Pass, Shortcut, batch_norm::Affine, floats, run_layers, with_grad};
use crate::{
    Result, kernels,
    kernels::{
        conv::{ConvDims, Epilogue},
        gemm::Precision,
        pool::{Buffer, Pool},
        simd::{self, Curve},
        whole_rows,
    },
    params::{FactorKey, Param},
};

/// Which convolution it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConvKind {
    /// Every output sees every input.
    Full,
    /// Each channel for itself.
    Depthwise,
    /// None: only what comes behind.
    None,
}

/// `curve(norm(conv(x)) + residual)`, one node of the graph.
#[derive(Clone)]
pub(crate) struct ConvNorm {
    pub(crate) kind: ConvKind,
    /// `[outputs, inputs, kernel, kernel]`; the inputs are 1 where it is
    /// depthwise.
    pub(crate) weight: Option<Arc<Param>>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
    pub(crate) norm: BatchNorm,
    pub(crate) curve: Curve,
}

/// Zeros around a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// As many on each side.
    Both(usize),
    /// Above and left, and below and right.
    Sides(usize, usize),
}

impl Padding {
    /// Rows or columns before and after.
    pub(crate) fn sides(self) -> (usize, usize) {
        match self {
            Self::Both(n) => (n, n),
            Self::Sides(before, after) => (before, after),
        }
    }
}

impl ConvNorm {
    pub(super) fn dims(&self, shape: &[usize]) -> candle_core::Result<ConvDims> {
        let [batch, height, width, inputs] = *shape else {
            candle_core::bail!("a convolution takes [batch, height, width, channels]")
        };
        let (before, after) = self.padding.sides();
        let out = |n: usize| (n + before + after).checked_sub(self.kernel);
        let (Some(out_height), Some(out_width)) = (out(height), out(width)) else {
            candle_core::bail!(
                "a picture of {height}x{width} is smaller than a kernel of {}",
                self.kernel
            )
        };
        if inputs != self.inputs {
            candle_core::bail!("{inputs} channels for a convolution of {}", self.inputs)
        }
        Ok(ConvDims {
            batch,
            height,
            width,
            inputs,
            outputs: self.outputs,
            kernel: self.kernel,
            stride: self.stride,
            pad: before,
            out_height: out_height / self.stride + 1,
            out_width: out_width / self.stride + 1,
        })
    }

    /// Runs the layer; `residual` is added before the curve.
    pub(crate) fn forward(
        &self,
        pass: &Pass,
        x: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let shortcut = residual.map_or(Shortcut::None, Shortcut::Given);
        run_layers(pass, x, &[], self, shortcut)
    }

    /// The depthwise weight as `[kernel * kernel, channels]`.
    fn depthwise_weight(&self, weight: &[f32]) -> Vec<f32> {
        let mut turned = vec![0.0; weight.len()];
        kernels::transpose(weight, self.kernel * self.kernel, &mut turned);
        turned
    }

    fn convolve(
        &self,
        dims: &ConvDims,
        precision: Precision,
        x: &[f32],
        z: &mut [f32],
    ) -> candle_core::Result<()> {
        let weight = self
            .weight
            .as_ref()
            .map(|w| floats(w.tensor()))
            .transpose()?;
        match (self.kind, weight) {
            (ConvKind::Full, Some(weight)) => {
                dims.forward(precision, x, &dims.channels_last(&weight), z)
            }
            (ConvKind::Depthwise, Some(weight)) => {
                dims.depthwise_forward(x, &self.depthwise_weight(&weight), z);
            }
            _ => z.copy_from_slice(x),
        }
        Ok(())
    }
}

/// What the way back of a layer needs of the way there.
pub(super) struct Saved {
    dims: ConvDims,
    /// The convolution's result.
    z: Buffer,
    affine: Affine,
}

/// What layers of one node share.
pub(super) struct Means<'a> {
    pub(super) pool: &'a Pool,
    pub(super) precision: Precision,
}

/// Where the gradient of a layer's input goes.
pub(super) enum InputGradient<'a> {
    /// It takes the place of what is there.
    Write(&'a mut [f32]),
    /// It is added to what is there.
    Add(&'a mut [f32]),
}

/// The gradient of what goes into a layer's curve, and for each channel its sum
/// and the sum of its products with what the normalisation works on.
pub(super) struct BeforeCurve {
    pub(super) du: Buffer,
    sum: Vec<f32>,
    sum_z: Vec<f32>,
}

impl ConvNorm {
    /// Convolves an input of this shape and takes the moments;
    /// [`ConvNorm::finish`] makes the layer's result of both.
    pub(super) fn begin(
        &self,
        means: &Means<'_>,
        x: &[f32],
        shape: &[usize],
    ) -> candle_core::Result<Saved> {
        let dims = self.dims(shape)?;
        let mut z = means.pool.take(dims.rows() * self.outputs);
        self.convolve(&dims, means.precision, x, &mut z)?;
        let affine = self.norm.learn(&z)?;
        Ok(Saved { dims, z, affine })
    }

    /// The layer's result for an input of this shape, and its shape, in
    /// inference.
    pub(super) fn infer(
        &self,
        pool: &Pool,
        int8: bool,
        (x, shape): (&[f32], &[usize]),
        residual: Option<&[f32]>,
    ) -> candle_core::Result<(Buffer, Vec<usize>)> {
        let dims = self.dims(shape)?;
        let mut y = pool.take(dims.rows() * self.outputs);
        if residual.is_some_and(|r| r.len() != y.len()) {
            candle_core::bail!("a residual of another size")
        }
        let affine = self.norm.settled()?;
        let end = Epilogue {
            scale: &affine.scale,
            shift: &affine.shift,
            residual,
            curve: self.curve,
        };
        match (self.kind, &self.weight) {
            (ConvKind::Full, Some(weight)) => {
                let key = FactorKey {
                    first: 0,
                    outputs: dims.factor_columns(int8),
                    int8,
                };
                let factor = weight
                    .factor(key, |weight| Ok(dims.factor(weight, int8)))
                    .map_err(candle_core::Error::wrap)?;
                dims.infer(pool, x, &factor, end, &mut y);
            }
            (ConvKind::Depthwise, Some(weight)) => {
                let weight = self.depthwise_weight(&floats(weight.tensor())?);
                dims.infer_depthwise(x, &weight, end, &mut y);
            }
            _ => {
                let maps = [end.scale, end.shift];
                simd::scale_shift_curve(x, maps, residual, self.curve, &mut y);
            }
        }
        Ok((y, dims.out_shape()))
    }

    /// Writes the layer's result to `y`.
    pub(super) fn finish(
        &self,
        saved: &Saved,
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let Saved { z, affine, .. } = saved;
        if residual.is_some_and(|r| r.len() != z.len()) {
            candle_core::bail!("a residual of another size")
        }
        let size = whole_rows(self.outputs);
        y.par_chunks_mut(size)
            .zip(z.par_chunks(size))
            .enumerate()
            .for_each(|(i, (y, z))| {
                let residual = residual.map(|r| &r[i * size..i * size + z.len()]);
                let maps = [&affine.scale[..], &affine.shift];
                simd::scale_shift_curve(z, maps, residual, self.curve, y);
            });
        Ok(())
    }

    /// The way back through the curve: from the gradient of the result.
    pub(super) fn undo_curve(
        &self,
        means: &Means<'_>,
        saved: &Saved,
        residual: Option<&[f32]>,
        g: &[f32],
    ) -> BeforeCurve {
        let (width, size) = (self.outputs, whole_rows(self.outputs));
        let Saved { z, affine, .. } = saved;
        let mut du = means.pool.take(z.len());
        let sums: Vec<[Vec<f32>; 2]> = du
            .par_chunks_mut(size)
            .zip(z.par_chunks(size))
            .zip(g.par_chunks(size))
            .enumerate()
            .map(|(i, ((du, z), g))| {
                let residual = residual.map(|r| &r[i * size..i * size + z.len()]);
                let mut sums = [vec![0.0; width], vec![0.0; width]];
                let maps = [&affine.scale[..], &affine.shift, &affine.mean];
                let [sum, sum_z] = &mut sums;
                simd::scale_shift_curve_backward(
                    z,
                    maps,
                    residual,
                    self.curve,
                    (g, du),
                    [sum, sum_z],
                );
                sums
            })
            .collect();
        let (mut sum, mut sum_z) = (vec![0.0; width], vec![0.0; width]);
        for [part, part_z] in &sums {
            simd::add_assign(&mut sum, part);
            simd::add_assign(&mut sum_z, part_z);
        }
        BeforeCurve { du, sum, sum_z }
    }

    /// The rest of the way back: adds the gradients of the weights to theirs,
    /// and makes that of the input where it is wanted.
    pub(super) fn undo(
        &self,
        means: &Means<'_>,
        saved: Saved,
        before: BeforeCurve,
        x: &[f32],
        dx: Option<InputGradient<'_>>,
    ) -> candle_core::Result<()> {
        let Saved { dims, z, affine } = saved;
        let BeforeCurve { mut du, sum, sum_z } = before;
        let (width, size) = (self.outputs, whole_rows(self.outputs));
        let rows = dims.rows() as f32;
        with_grad(&self.norm.bias, |grad| simd::add_assign(grad, &sum));
        with_grad(&self.norm.weight, |grad| {
            simd::multiply_add(grad, &sum_z, &affine.rstd);
        });
        // dz = scale (du - mean(du) - xhat mean(du xhat)), xhat = (z - mean) rstd
        let b: Vec<f32> = (0..width)
            .map(|c| -affine.scale[c] * affine.rstd[c] * affine.rstd[c] * sum_z[c] / rows)
            .collect();
        let c: Vec<f32> = (0..width)
            .map(|c| -affine.scale[c] * sum[c] / rows - b[c] * affine.mean[c])
            .collect();
        du.par_chunks_mut(size)
            .zip(z.par_chunks(size))
            .for_each(|(du, z)| simd::combine_columns(du, z, [&affine.scale, &b, &c]));
        drop(z);
        let dz = du;

        if let Some(weight) = &self.weight {
            with_grad(weight, |grad| match self.kind {
                ConvKind::Depthwise => {
                    let turned = dims.depthwise_backward_weight(x, &dz);
                    let mut back = vec![0.0; turned.len()];
                    kernels::transpose(&turned, width, &mut back);
                    simd::add_assign(grad, &back);
                }
                _ => dims.backward_weight(means.precision, x, &dz, grad),
            });
        }
        let (dx, add) = match dx {
            None => return Ok(()),
            Some(InputGradient::Write(dx)) => (dx, false),
            Some(InputGradient::Add(dx)) => (dx, true),
        };
        let Some(weight) = &self.weight else {
            if add {
                simd::add_assign(dx, &dz);
            } else {
                dx.copy_from_slice(&dz);
            }
            return Ok(());
        };
        let weight = floats(weight.tensor())?;
        if self.kind == ConvKind::Depthwise {
            dims.depthwise_backward_input(&self.depthwise_weight(&weight), &dz, dx, add);
        } else {
            let weight = dims.channels_last(&weight);
            dims.backward_input(means.precision, &weight, &dz, dx, add);
        }
        Ok(())
    }
}

impl Saved {
    /// Elements of the layer's result.
    pub(super) fn len(&self) -> usize {
        self.z.len()
    }

    /// `[batch, height, width, channels]` of the layer's result.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.dims.out_shape()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::{
        Kernels, Runtime,
        testing::{close, noise, params},
    };

    /// The same layer from candle's operations, channels first inside.
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
            // candle's own way back wants steps that come out even.
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
            let residual =
                Tensor::from_vec(noise(8, shape.elem_count()), shape.shape(), x.device());
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
                close(&flat(found), &flat(&expected), &what);
            }

            let mut seen = Vec::new();
            let before: Vec<Vec<f32>> = params.iter().map(|p| p.to_vec().unwrap()).collect();
            for form in ["fused", "composite", "primitive"] {
                params.zero_grad();
                // Each moves the running moments from the same start.
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
                    close(found, expected, &format!("{what}: {name}, {form}"));
                }
            }
            for ((name, found), (_, expected)) in seen[1].iter().zip(&seen[0]) {
                close(found, expected, &format!("{what}: {name}, both forms"));
            }
        }
    }
}
