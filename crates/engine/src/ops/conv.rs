//! Layers of convolutional networks, with the channels last: `[batch, height,
//! width, channels]`.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{BatchNorm, batch_norm::Affine, floats, with_grad};
use crate::{
    kernels,
    kernels::{
        conv::{ConvDims, Epilogue},
        gemm::Precision,
        pool::{Buffer, Pool},
        simd::{self, Curve},
        whole_rows,
    },
    params::{FactorKey, Param},
};

/// The kind of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConvKind {
    /// Every output channel reads every input channel.
    Full,
    /// Each channel has its own kernel.
    Depthwise,
    /// No convolution, only the operations that follow it.
    None,
}

/// A convolutional layer, `curve(norm(conv(x)) + residual)`, as one node of the
/// graph.
#[derive(Clone)]
pub(crate) struct ConvNorm {
    pub(crate) kind: ConvKind,
    /// `[outputs, inputs, kernel, kernel]`, with `inputs` 1 if depthwise.
    pub(crate) weight: Option<Arc<Param>>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
    pub(crate) norm: BatchNorm,
    pub(crate) curve: Curve,
}

/// Zero padding around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// The same on each side.
    Both(usize),
    /// Above and left, then below and right.
    Sides(usize, usize),
}

impl Padding {
    /// Returns the numbers of rows (or columns) before and after.
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
                "an image of {height}x{width} pixels is smaller than the kernel, {}",
                self.kernel
            )
        };
        if inputs != self.inputs {
            candle_core::bail!("a convolution of {} channels got {inputs}", self.inputs)
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

    /// Returns the depthwise weight as `[kernel * kernel, channels]`.
    fn depthwise_weight(&self, weight: &[f32]) -> Vec<f32> {
        let mut transposed = vec![0.0; weight.len()];
        kernels::transpose(weight, self.kernel * self.kernel, &mut transposed);
        transposed
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

/// Values that a layer's forward pass saves for its backward pass.
pub(super) struct Saved {
    dims: ConvDims,
    /// Output of the convolution.
    z: Buffer,
    affine: Affine,
}

/// Buffers and precision that the layers of one node share.
pub(super) struct Workspace<'a> {
    pub(super) pool: &'a Pool,
    pub(super) precision: Precision,
}

/// Destination of the gradient of a layer's input.
pub(super) enum InputGradient<'a> {
    /// Overwrites the buffer.
    Write(&'a mut [f32]),
    /// Adds to the buffer.
    Add(&'a mut [f32]),
}

/// The gradient of the activation's input. `sum` is its sum per channel, and
/// `sum_z` the sum of its products with the centred convolution output.
pub(super) struct CurveGradient {
    pub(super) du: Buffer,
    sum: Vec<f32>,
    sum_z: Vec<f32>,
}

impl ConvNorm {
    /// Convolves an input of this shape and computes its batch statistics.
    /// [`ConvNorm::finish`] computes the layer's output from both.
    pub(super) fn begin(
        &self,
        workspace: &Workspace<'_>,
        x: &[f32],
        shape: &[usize],
    ) -> candle_core::Result<Saved> {
        let dims = self.dims(shape)?;
        let mut z = workspace.pool.take(dims.rows() * self.outputs);
        self.convolve(&dims, workspace.precision, x, &mut z)?;
        let affine = self.norm.by_batch(&z)?;
        Ok(Saved { dims, z, affine })
    }

    /// Returns the layer's output in inference, and its shape.
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
            candle_core::bail!("the residual has another size than the layer's output")
        }
        let affine = self.norm.by_running()?;
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

    /// Writes the layer's output to `y`.
    pub(super) fn finish(
        &self,
        saved: &Saved,
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let Saved { z, affine, .. } = saved;
        if residual.is_some_and(|r| r.len() != z.len()) {
            candle_core::bail!("the residual has another size than the layer's output")
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

    /// First part of the backward pass: through the activation.
    pub(super) fn curve_backward(
        &self,
        workspace: &Workspace<'_>,
        saved: &Saved,
        residual: Option<&[f32]>,
        g: &[f32],
    ) -> CurveGradient {
        let (width, size) = (self.outputs, whole_rows(self.outputs));
        let Saved { z, affine, .. } = saved;
        let mut du = workspace.pool.take(z.len());
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
        CurveGradient { du, sum, sum_z }
    }

    /// Second part of the backward pass: accumulates the gradients of the
    /// weights, and computes that of the input if needed.
    pub(super) fn backward(
        &self,
        workspace: &Workspace<'_>,
        saved: Saved,
        before: CurveGradient,
        x: &[f32],
        dx: Option<InputGradient<'_>>,
    ) -> candle_core::Result<()> {
        let Saved { dims, z, affine } = saved;
        let CurveGradient { mut du, sum, sum_z } = before;
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
                    let transposed = dims.depthwise_backward_weight(x, &dz);
                    let mut back = vec![0.0; transposed.len()];
                    kernels::transpose(&transposed, width, &mut back);
                    simd::add_assign(grad, &back);
                }
                _ => dims.backward_weight(workspace.precision, x, &dz, grad),
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
            dims.backward_input(workspace.precision, &weight, &dz, dx, add);
        }
        Ok(())
    }
}

impl Saved {
    /// Returns the number of elements of the layer's output.
    pub(super) fn len(&self) -> usize {
        self.z.len()
    }

    /// Returns the shape `[batch, height, width, channels]` of the layer's
    /// output.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.dims.out_shape()
    }
}

/// The residual that is added before the last layer's activation.
#[derive(Clone, Copy)]
pub(crate) enum Shortcut<'a> {
    /// None.
    None,
    /// The input of the first layer.
    Input,
    /// The output of this layer for the first layer's input.
    Layer(&'a ConvNorm),
    /// Another tensor.
    Given(&'a Tensor),
}

#[cfg(test)]
mod tests;
