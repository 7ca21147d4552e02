//! The patch embedding layer of a vision transformer (Dosovitskiy et al. 2021,
//! arXiv:2010.11929): from images to sequences of vectors.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    FusedOp, Inference, Pass, floats,
    map_rows::{Rows, map_rows},
    with_grad,
};
use crate::{
    Error, Result,
    kernels::{
        gemm::{Factor, Mat, MatMut, Precision, Product, Threads, multiply},
        simd,
    },
    params::{FactorKey, Param},
};

/// Sizes of a patch embedding layer.
#[derive(Clone, Copy)]
pub(crate) struct PatchDims {
    /// Height and width of an image in pixels.
    pub(crate) sides: [usize; 2],
    /// Height and width of a patch in pixels.
    pub(crate) patch: usize,
    /// Elements of an output vector.
    pub(crate) width: usize,
}

/// Weights of a patch embedding layer.
#[derive(Clone)]
pub(crate) struct PatchLayers {
    /// `[width, 3, patch, patch]`
    pub(crate) kernel: Arc<Param>,
    pub(crate) bias: Option<Arc<Param>>,
    /// The class token, which precedes the patches.
    pub(crate) class: Option<Arc<Param>>,
    /// A row per token.
    pub(crate) position: Option<Arc<Param>>,
}

impl PatchDims {
    /// Returns the rows and columns of patches. Remaining pixels at the edges
    /// are ignored.
    pub(crate) fn grid(self) -> [usize; 2] {
        self.sides.map(|side| side / self.patch)
    }

    pub(crate) fn patches(self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns
    }

    /// Returns the number of elements of a patch: three channels of `patch *
    /// patch`.
    fn elements(self) -> usize {
        3 * self.patch * self.patch
    }
}

/// Computes `[class; patches Wᵀ + bias] + position` for images `[batch, 3,
/// height, width]`, as `[batch, tokens, width]`.
///
/// The checkpoint's convolution kernel, `[width, 3, patch, patch]`, serves as a
/// matrix, since its stride equals its size.
///
/// # Errors
/// If the images have another size.
pub(crate) fn patch_embeddings(
    pass: &Pass,
    pixels: &Tensor,
    dims: PatchDims,
    layers: &PatchLayers,
) -> Result<Tensor> {
    let (batch, _, height, wide) = pixels.dims4()?;
    if [height, wide] != dims.sides {
        let [rows, columns] = dims.sides;
        return Err(Error::data(format!(
            "this model takes images of {rows}x{columns} pixels, not {height}x{wide}"
        )));
    }
    if pass.is_fused() {
        let op = PatchEmbeddings {
            dims,
            precision: pass.precision(),
            inference: pass.inference(),
            layers: layers.clone(),
        };
        return pass.apply(pixels, op);
    }
    let ([rows, columns], patch, width) = (dims.grid(), dims.patch, dims.width);
    let patches = pixels
        .narrow(2, 0, rows * patch)?
        .narrow(3, 0, columns * patch)?
        .contiguous()?
        .reshape(&[batch, 3, rows, patch, columns, patch])?
        .permute([0, 2, 4, 1, 3, 5])?
        .contiguous()?
        .reshape((batch, rows * columns, dims.elements()))?;
    let (kernel, bias) = (Rows::all(&layers.kernel), layers.bias.as_ref());
    let mut x = map_rows(pass, &patches, kernel, bias, width)?;
    if let Some(class) = &layers.class {
        let class = pass.value(class).reshape((1, 1, width))?;
        x = Tensor::cat(&[class.broadcast_as((batch, 1, width))?, x], 1)?;
    }
    if let Some(position) = &layers.position {
        let tokens = x.dim(1)?;
        x = x.broadcast_add(&pass.value(position).reshape((tokens, width))?)?;
    }
    Ok(x)
}

struct PatchEmbeddings {
    dims: PatchDims,
    precision: Precision,
    inference: Option<Inference>,
    layers: PatchLayers,
}

impl PatchEmbeddings {
    /// Returns the number of tokens before the patches.
    fn before(&self) -> usize {
        usize::from(self.layers.class.is_some())
    }

    fn tokens(&self) -> usize {
        self.before() + self.dims.patches()
    }

    /// Copies images to rows of patches, `[batch, tokens, elements]`, with a
    /// zero row for the class token before each image's patches.
    fn unfold(&self, pixels: &[f32]) -> Vec<f32> {
        let PatchDims { sides, patch, .. } = self.dims;
        let [height, wide] = sides;
        let ([_, columns], elements) = (self.dims.grid(), self.dims.elements());
        let batch = pixels.len() / (3 * height * wide);
        let mut rows = vec![0.0; batch * self.tokens() * elements];
        rows.par_chunks_mut(self.tokens() * elements)
            .zip(pixels.par_chunks(3 * height * wide))
            .for_each(|(rows, image)| {
                let patches = rows.chunks_exact_mut(elements).skip(self.before());
                for (index, row) in patches.enumerate() {
                    let (top, left) = (index / columns * patch, index % columns * patch);
                    for (line, out) in row.chunks_exact_mut(patch).enumerate() {
                        let (channel, y) = (line / patch, top + line % patch);
                        let start = (channel * height + y) * wide + left;
                        out.copy_from_slice(&image[start..start + patch]);
                    }
                }
            });
        rows
    }
}

impl FusedOp for PatchEmbeddings {
    const NAME: &'static str = "patch-embeddings";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [batch, 3, ..] = *shape else {
            candle_core::bail!("images must be [batch, 3, height, width], not {shape:?}")
        };
        let (tokens, width) = (self.tokens(), self.dims.width);
        let mut y = vec![0.0; batch * tokens * width];
        for image in y.chunks_exact_mut(tokens * width) {
            if let Some(position) = &self.layers.position {
                image.copy_from_slice(&floats(position.tensor())?);
            }
            let (first, patches) = image.split_at_mut(self.before() * width);
            if let Some(class) = &self.layers.class {
                simd::add_assign(first, &floats(class.tensor())?);
            }
            if let Some(bias) = &self.layers.bias {
                let bias = floats(bias.tensor())?;
                for row in patches.chunks_exact_mut(width) {
                    simd::add_assign(row, &bias);
                }
            }
        }
        // The rows for class tokens are zero, so the product leaves the tokens
        // unchanged.
        if let Some(Inference { int8 }) = self.inference {
            let key = FactorKey {
                first: 0,
                outputs: width,
                int8,
            };
            let elements = self.dims.elements();
            let pack = |kernel: &[f32]| Ok(Factor::new(kernel, elements, int8));
            let kernel = self.layers.kernel.factor(key, pack);
            let kernel = kernel.map_err(candle_core::Error::wrap)?;
            let mut out = vec![0.0; y.len()];
            let product = Product {
                residual: Some(&y),
                ..Product::new(&kernel, &mut out)
            };
            multiply(&self.unfold(x), &mut [product], Threads::All);
            return Ok((out, vec![batch, tokens, width]));
        }
        self.precision.matmul(
            MatMut::new(&mut y, batch * tokens, width),
            Mat::new(&self.unfold(x), batch * tokens, self.dims.elements()),
            Mat::new(
                &floats(self.layers.kernel.tensor())?,
                width,
                self.dims.elements(),
            )
            .t(),
            1.0,
            true,
            Threads::All,
        );
        Ok((y, vec![batch, tokens, width]))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        if wanted {
            candle_core::bail!("images have no gradient")
        }
        let (tokens, width) = (self.tokens(), self.dims.width);
        let first = self.before() * width;
        with_grad(&self.layers.kernel, |grad| {
            self.precision.matmul(
                MatMut::new(grad, width, self.dims.elements()),
                Mat::new(g, shape[0] * tokens, width).t(),
                Mat::new(&self.unfold(x), shape[0] * tokens, self.dims.elements()),
                1.0,
                true,
                Threads::All,
            );
        });
        let images = || g.chunks_exact(tokens * width);
        if let Some(position) = &self.layers.position {
            with_grad(position, |grad| {
                for image in images() {
                    simd::add_assign(grad, image);
                }
            });
        }
        if let Some(class) = &self.layers.class {
            with_grad(class, |grad| {
                for image in images() {
                    simd::add_assign(grad, &image[..first]);
                }
            });
        }
        if let Some(bias) = &self.layers.bias {
            with_grad(bias, |grad| {
                for row in images().flat_map(|p| p[first..].chunks_exact(width)) {
                    simd::add_assign(grad, row);
                }
            });
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    #[test]
    fn fused_patches_equal_composite() {
        for (with_class, with_bias, with_position, sides) in [
            (true, false, true, [8, 8]),
            (true, true, true, [8, 12]),
            (false, true, true, [9, 6]),
            (false, true, false, [8, 4]),
        ] {
            let dims = PatchDims {
                sides,
                patch: 4,
                width: 6,
            };
            let tokens = usize::from(with_class) + dims.patches();
            let table = [tokens, 6];
            let shapes: [(bool, &str, &[usize]); 4] = [
                (with_bias, "bias", &[6]),
                (with_class, "class", &[1, 1, 6]),
                (true, "kernel", &[6, 3, 4, 4]),
                (with_position, "position", &table),
            ];
            let used = shapes.iter().filter(|(used, ..)| *used);
            let shapes: Vec<_> = used.map(|(_, name, shape)| (*name, *shape)).collect();
            let params = params(&shapes, &[]);
            let get = |name, shape: &[usize]| params.get(name, shape).unwrap();
            let layers = PatchLayers {
                kernel: get("kernel", &[6, 3, 4, 4]),
                bias: with_bias.then(|| get("bias", &[6])),
                class: with_class.then(|| get("class", &[1, 1, 6])),
                position: with_position.then(|| get("position", &table)),
            };
            let [height, width] = sides;
            let x = noise(1, 2 * 3 * height * width);
            let x = Tensor::from_vec(x, (2, 3, height, width), &Device::Cpu).unwrap();
            compare(&params, &x, |pass, x| {
                patch_embeddings(pass, &x.detach(), dims, &layers)
            });
        }
    }
}
