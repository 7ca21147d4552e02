//! Convolutional layers on any device, with the channels last, as products of
//! the windows under a kernel (im2col) with its weights. The backward pass
//! extracts the windows again.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    Pass,
    conv::{ConvKind, ConvNorm, Shortcut},
    largest::first_largest,
    map_rows::{Rows, map_rows},
    node::node,
    tensors::{column_sums, padded, product, sigmoid},
};
use crate::{
    Error, Result,
    kernels::{conv::ConvDims, simd::Curve},
    params::Param,
};

/// Runs the layers `inner` and `last`, and adds the shortcut before the last
/// activation.
pub(super) fn run(
    pass: &Pass,
    x: &Tensor,
    inner: &[ConvNorm],
    last: &ConvNorm,
    shortcut: Shortcut<'_>,
) -> Result<Tensor> {
    let residual = match shortcut {
        Shortcut::None => None,
        Shortcut::Input => Some(x.clone()),
        Shortcut::Layer(layer) => Some(one(pass, layer, x, None)?),
        Shortcut::Given(tensor) => Some(tensor.clone()),
    };
    let mut x = x.clone();
    for layer in inner {
        x = one(pass, layer, &x, None)?;
    }
    one(pass, last, &x, residual.as_ref())
}

/// Computes `curve(norm(conv(x)) + residual)`.
fn one(pass: &Pass, layer: &ConvNorm, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let dims = layer.dims(x.dims())?;
    let rows = convolved(pass, layer, &dims, x)?;
    let mut y = layer
        .norm
        .composite(pass, &rows)?
        .reshape(dims.out_shape())?;
    if let Some(residual) = residual {
        if residual.dims() != y.dims() {
            return Err(message(
                "the residual has another size than the layer's output",
            ));
        }
        y = (y + residual)?;
    }
    apply_activation(pass, layer.curve, &y)
}

fn message(text: &str) -> Error {
    candle_core::Error::Msg(text.to_owned()).into()
}

/// Kernel size, stride and output size of a convolution.
#[derive(Clone, Copy)]
struct Moves {
    kernel: usize,
    stride: usize,
    /// Rows and columns of the output.
    out: [usize; 2],
}

impl Moves {
    /// Pads a dimension by `before`, and after it so that the last stride is
    /// complete.
    fn reach(
        self,
        x: &Tensor,
        dim: usize,
        before: usize,
        value: f32,
    ) -> candle_core::Result<Tensor> {
        let size = x.dim(dim)?;
        let reach = self.out[dim - 1] * self.stride + self.kernel - 1;
        let after = reach.saturating_sub(before + size);
        padded(x, dim, (before, after), value)
    }

    /// Pads both dimensions.
    fn padded(self, x: &Tensor, before: usize, value: f32) -> candle_core::Result<Tensor> {
        self.reach(&self.reach(x, 1, before, value)?, 2, before, value)
    }

    /// Returns the values under each element of the kernel, row by row, each
    /// `[batch * rows * columns, channels]`.
    fn windows(self, x: &Tensor) -> impl Iterator<Item = candle_core::Result<Tensor>> + use<> {
        let Self {
            kernel,
            stride,
            out: [rows, columns],
        } = self;
        let x = x.clone();
        (0..kernel * kernel).map(move |element| {
            let (batch, _, _, channels) = x.dims4()?;
            let part = x.narrow(1, element / kernel, rows * stride)?.narrow(
                2,
                element % kernel,
                columns * stride,
            )?;
            let part = match stride {
                1 => part,
                stride => part
                    .contiguous()?
                    .reshape(&[batch, rows, stride, columns, stride, channels])?
                    .narrow(2, 0, 1)?
                    .narrow(4, 0, 1)?,
            };
            part.contiguous()?
                .reshape((batch * rows * columns, channels))
        })
    }

    /// Returns all windows as `[batch * rows * columns, kernel * kernel *
    /// channels]`.
    fn unfolded(self, x: &Tensor) -> candle_core::Result<Tensor> {
        let windows = self.windows(x).collect::<candle_core::Result<Vec<_>>>()?;
        match &windows[..] {
            [one] => Ok(one.clone()),
            several => Tensor::cat(several, 1),
        }
    }

    /// Inserts zeros between output positions, so that each is at its window's
    /// start: `[batch, rows * stride, columns * stride, channels]`.
    fn dilated(self, g: &Tensor, batch: usize) -> candle_core::Result<Tensor> {
        let Self {
            stride,
            out: [rows, columns],
            ..
        } = self;
        let channels = g.dim(1)?;
        if stride == 1 {
            return g.reshape((batch, rows, columns, channels));
        }
        g.reshape(&[batch, rows, 1, columns, 1, channels][..])?
            .pad_with_zeros(2, 0, stride - 1)?
            .pad_with_zeros(4, 0, stride - 1)?
            .contiguous()?
            .reshape((batch, rows * stride, columns * stride, channels))
    }
}

/// Takes `size` positions of a dimension from `start`, with zeros for those
/// outside.
fn cut(x: &Tensor, dim: usize, start: isize, size: usize) -> candle_core::Result<Tensor> {
    let before = (-start).max(0) as usize;
    let first = (start.max(0) as usize).min(x.dim(dim)?);
    let length = (x.dim(dim)? - first).min(size - before.min(size));
    let x = x.narrow(dim, first, length)?;
    padded(&x, dim, (before, size - before - length), 0.0)
}

/// A convolution, with the size of its input.
#[derive(Clone, Copy)]
struct Geometry {
    moves: Moves,
    batch: usize,
    sides: [usize; 2],
    before: usize,
}

impl Geometry {
    fn of(dims: &ConvDims) -> Self {
        Self {
            moves: Moves {
                kernel: dims.kernel,
                stride: dims.stride,
                out: [dims.out_height, dims.out_width],
            },
            batch: dims.batch,
            sides: [dims.height, dims.width],
            before: dims.pad,
        }
    }

    /// Returns the output gradient as the input of a convolution with the
    /// rotated kernel, which gives the input gradient; and the sizes of that
    /// convolution.
    fn transposed(self, g: &Tensor) -> candle_core::Result<(Tensor, Moves)> {
        let kernel = self.moves.kernel;
        let mut x = self.moves.dilated(g, self.batch)?;
        let start = self.before as isize + 1 - kernel as isize;
        for (dim, side) in self.sides.iter().enumerate() {
            x = cut(&x, dim + 1, start, side + kernel - 1)?;
        }
        let moves = Moves {
            kernel,
            stride: 1,
            out: self.sides,
        };
        // The last stride of a window must be complete there too.
        Ok((moves.padded(&x, 0, 0.0)?, moves))
    }
}

/// Returns the output of the convolution as `[batch * rows * columns,
/// outputs]`.
fn convolved(pass: &Pass, layer: &ConvNorm, dims: &ConvDims, x: &Tensor) -> Result<Tensor> {
    let geometry = Geometry::of(dims);
    let (Some(weight), true) = (&layer.weight, layer.kind != ConvKind::None) else {
        return Ok(x.reshape((dims.rows(), layer.outputs))?);
    };
    let sides = [dims.height, dims.width];
    if layer.kernel == 1 && layer.stride == 1 && geometry.moves.out == sides {
        let weight = Rows::all(weight);
        let y = map_rows(pass, x, weight, None, layer.outputs)?;
        return Ok(y.reshape((dims.rows(), layer.outputs))?);
    }
    match layer.kind {
        ConvKind::Depthwise => depthwise(pass, weight, geometry, x),
        _ => full(pass, weight, geometry, x),
    }
}

/// A full convolution: every output channel reads every input channel.
fn full(pass: &Pass, weight: &Arc<Param>, geometry: Geometry, x: &Tensor) -> Result<Tensor> {
    let (moves, precision) = (geometry.moves, pass.precision());
    let unfolded = move |x: &Tensor| moves.unfolded(&moves.padded(x, geometry.before, 0.0)?);
    // [outputs, kernel, kernel, inputs], in the order of the windows.
    let permuted =
        |weight: &Param, order: [usize; 4]| weight.tensor().detach().permute(order)?.contiguous();
    let (outputs, inputs, kernel, _) = weight.tensor().dims4()?;
    let matrix = permuted(weight, [0, 2, 3, 1])?.reshape((outputs, ()))?;
    let y = product(precision, &unfolded(&x.detach())?, &matrix.t()?)?;
    let (weight, kept) = (Arc::clone(weight), x.detach());
    node(pass, x, y, move |g, wanted| {
        if weight.is_trainable() {
            let dw = product(precision, &g.t()?, &unfolded(&kept)?)?;
            let dw = dw.reshape((outputs, kernel, kernel, inputs))?;
            weight.add_gradient(&dw.permute((0, 3, 1, 2))?.contiguous()?)?;
        }
        if !wanted {
            return Ok(None);
        }
        let (x, moves) = geometry.transposed(g)?;
        // Windows of the rotated kernel, in the order of the kernel's elements.
        let mut windows = moves.windows(&x).collect::<candle_core::Result<Vec<_>>>()?;
        windows.reverse();
        let windows = Tensor::cat(&windows, 1)?;
        let matrix = permuted(&weight, [2, 3, 0, 1])?.reshape(((), inputs))?;
        let dx = product(precision, &windows, &matrix)?;
        let [height, width] = geometry.sides;
        Ok(Some(dx.reshape((geometry.batch, height, width, inputs))?))
    })
}

/// Sums `windows`, with each column multiplied by a row of `weights`.
fn combined(
    windows: impl Iterator<Item = candle_core::Result<Tensor>>,
    weights: &Tensor,
) -> candle_core::Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (element, window) in windows.enumerate() {
        let part = window?.broadcast_mul(&weights.get(element)?)?;
        sum = Some(match sum {
            None => part,
            Some(sum) => (sum + part)?,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => candle_core::bail!("a kernel has no elements"),
    }
}

/// A depthwise convolution: each channel has its own kernel.
fn depthwise(pass: &Pass, weight: &Arc<Param>, geometry: Geometry, x: &Tensor) -> Result<Tensor> {
    let moves = geometry.moves;
    let windows = move |x: &Tensor| {
        let x = moves.padded(x, geometry.before, 0.0)?;
        Ok::<_, candle_core::Error>(moves.windows(&x))
    };
    let (channels, _, kernel, _) = weight.tensor().dims4()?;
    // [kernel * kernel, channels]
    let elements = move |weight: &Param| {
        let rows = weight
            .tensor()
            .detach()
            .reshape((channels, kernel * kernel))?;
        rows.t()?.contiguous()
    };
    let y = combined(windows(&x.detach())?, &elements(weight)?)?;
    let (weight, kept) = (Arc::clone(weight), x.detach());
    node(pass, x, y, move |g, wanted| {
        if weight.is_trainable() {
            let sums = windows(&kept)?.map(|window| column_sums(&(window? * g)?));
            let sums = sums.collect::<candle_core::Result<Vec<_>>>()?;
            weight.add_gradient(&Tensor::stack(&sums, 1)?)?;
        }
        if !wanted {
            return Ok(None);
        }
        let (x, moves) = geometry.transposed(g)?;
        let mut windows: Vec<_> = moves.windows(&x).collect();
        windows.reverse();
        let dx = combined(windows.into_iter(), &elements(&weight)?)?;
        let [height, width] = geometry.sides;
        Ok(Some(dx.reshape((
            geometry.batch,
            height,
            width,
            channels,
        ))?))
    })
}

/// Applies the activation of a layer.
pub(super) fn apply_activation(pass: &Pass, curve: Curve, x: &Tensor) -> Result<Tensor> {
    let kept = x.detach();
    let y = match curve {
        Curve::Identity => return Ok(x.clone()),
        Curve::Relu => kept.relu()?,
        Curve::Relu6 => kept.clamp(0f32, 6f32)?,
        Curve::Swish => (&kept * sigmoid(&kept)?)?,
    };
    node(pass, x, y, move |g, wanted| {
        if !wanted {
            return Ok(None);
        }
        let floats = |mask: Tensor| mask.to_dtype(kept.dtype());
        let slope = match curve {
            Curve::Identity => kept.ones_like()?,
            Curve::Relu => floats(kept.gt(0f32)?)?,
            Curve::Relu6 => (floats(kept.gt(0f32)?)? * floats(kept.lt(6f32)?)?)?,
            Curve::Swish => {
                let s = sigmoid(&kept)?;
                (&s * ((&kept * s.affine(-1.0, 1.0)?)? + 1.0)?)?
            }
        };
        Ok(Some((g * slope)?))
    })
}

/// A value below all others, for padding.
const BELOW_ALL: f32 = -1e30;

/// Max pooling with a 3x3 kernel, stride 2 and padding 1.
pub(super) fn max_pool(pass: &Pass, x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let moves = Moves {
        kernel: 3,
        stride: 2,
        out: [height.div_ceil(2), width.div_ceil(2)],
    };
    let detached = x.detach();
    let windows = moves.windows(&moves.padded(&detached, 1, BELOW_ALL)?);
    let windows = windows.collect::<candle_core::Result<Vec<_>>>()?;
    let stacked = Tensor::stack(&windows, 1)?;
    let sides = [height, width];
    // [positions, 9, channels]; its gradient gives that of the image.
    let stacked = node(pass, x, stacked, move |g, wanted| {
        if !wanted {
            return Ok(None);
        }
        let mut sum: Option<Tensor> = None;
        for element in 0..9 {
            let part = g.narrow(1, element, 1)?.squeeze(1)?.contiguous()?;
            let mut part = moves.dilated(&part, batch)?;
            for (dim, (side, offset)) in sides.iter().zip([element / 3, element % 3]).enumerate() {
                // The window starts at `offset - 1` relative to the image.
                part = cut(&part, dim + 1, 1 - offset as isize, *side)?;
            }
            sum = Some(match sum {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        Ok(sum)
    })?;
    let [rows, columns] = moves.out;
    let y = first_largest(pass, &stacked)?;
    Ok(y.reshape((batch, rows, columns, channels))?)
}
