//! What turns pictures and token ids into sequences of vectors: the first
//! layer of a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)
//! and of a text transformer.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{FusedOp, Pass, floats, with_grad};
use crate::{
    Error, Result,
    kernels::{
        gemm::{Mat, MatMut, Threads, matmul},
        simd,
    },
    params::Param,
};

/// Shapes of the first layer of a vision transformer.
#[derive(Clone, Copy)]
pub(crate) struct PatchDims {
    pub(crate) image: usize,
    pub(crate) patch: usize,
    pub(crate) width: usize,
}

impl PatchDims {
    fn grid(self) -> usize {
        self.image / self.patch
    }

    /// Patches of a picture and the class token before them.
    fn tokens(self) -> usize {
        self.grid() * self.grid() + 1
    }

    /// Elements of a patch: three channels of `patch * patch`.
    fn elements(self) -> usize {
        3 * self.patch * self.patch
    }
}

/// `[class; patches Wᵀ] + position` for pictures of `[batch, 3, image, image]`.
///
/// The kernel of the convolution in the checkpoint, `[width, 3, patch, patch]`,
/// is used as a matrix, since its stride equals its size.
pub(crate) fn patch_embeddings(
    pass: &Pass,
    pixels: &Tensor,
    dims: PatchDims,
    kernel: &Arc<Param>,
    class: &Arc<Param>,
    position: &Arc<Param>,
) -> Result<Tensor> {
    if pass.is_fused() {
        let op = PatchEmbeddings {
            dims,
            kernel: kernel.clone(),
            class: class.clone(),
            position: position.clone(),
        };
        return pass.apply(pixels, op);
    }
    let batch = pixels.dim(0)?;
    let (grid, patch) = (dims.grid(), dims.patch);
    let patches = pixels
        .reshape(&[batch, 3, grid, patch, grid, patch])?
        .permute([0, 2, 4, 1, 3, 5])?
        .contiguous()?
        .reshape((batch, grid * grid, dims.elements()))?;
    let kernel = pass.value(kernel).reshape((dims.width, dims.elements()))?;
    let embedded = patches.broadcast_matmul(&kernel.t()?)?;
    let class = pass
        .value(class)
        .reshape((1, 1, dims.width))?
        .broadcast_as((batch, 1, dims.width))?;
    Ok(Tensor::cat(&[class, embedded], 1)?.broadcast_add(&pass.value(position))?)
}

struct PatchEmbeddings {
    dims: PatchDims,
    kernel: Arc<Param>,
    class: Arc<Param>,
    position: Arc<Param>,
}

impl PatchEmbeddings {
    /// Lays out the pictures as rows of patches, a gap for the class token
    /// before each picture's own: `[batch, tokens, elements]`.
    fn unfold(&self, pixels: &[f32]) -> Vec<f32> {
        let PatchDims { image, patch, .. } = self.dims;
        let (grid, elements) = (self.dims.grid(), self.dims.elements());
        let batch = pixels.len() / (3 * image * image);
        let mut rows = vec![0.0; batch * self.dims.tokens() * elements];
        rows.par_chunks_mut(self.dims.tokens() * elements)
            .zip(pixels.par_chunks(3 * image * image))
            .for_each(|(rows, picture)| {
                for (token, row) in rows.chunks_exact_mut(elements).skip(1).enumerate() {
                    let (top, left) = (token / grid * patch, token % grid * patch);
                    for (line, out) in row.chunks_exact_mut(patch).enumerate() {
                        let (channel, y) = (line / patch, top + line % patch);
                        let start = (channel * image + y) * image + left;
                        out.copy_from_slice(&picture[start..start + patch]);
                    }
                }
            });
        rows
    }
}

impl FusedOp for PatchEmbeddings {
    const NAME: &'static str = "patch-embeddings";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let PatchDims { image, width, .. } = self.dims;
        let [batch, 3, height, wide] = *shape else {
            candle_core::bail!("pictures are [batch, 3, height, width], not {shape:?}")
        };
        if height != image || wide != image {
            candle_core::bail!("this model takes pictures of {image}x{image}, not {height}x{wide}")
        }
        let tokens = self.dims.tokens();
        let position = floats(self.position.tensor())?;
        let class = floats(self.class.tensor())?;
        let mut y = vec![0.0; batch * tokens * width];
        for picture in y.chunks_exact_mut(tokens * width) {
            picture.copy_from_slice(&position);
            simd::add_assign(&mut picture[..width], &class);
        }
        // The gaps are rows of zeros, which leave the class token as it is.
        matmul(
            MatMut::new(&mut y, batch * tokens, width),
            Mat::new(&self.unfold(x), batch * tokens, self.dims.elements()),
            Mat::new(&floats(self.kernel.tensor())?, width, self.dims.elements()).t(),
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
            candle_core::bail!("pictures get no gradient")
        }
        let (tokens, width) = (self.dims.tokens(), self.dims.width);
        with_grad(&self.kernel, |grad| {
            matmul(
                MatMut::new(grad, width, self.dims.elements()),
                Mat::new(g, shape[0] * tokens, width).t(),
                Mat::new(&self.unfold(x), shape[0] * tokens, self.dims.elements()),
                1.0,
                true,
                Threads::All,
            );
        });
        with_grad(&self.position, |grad| {
            for picture in g.chunks_exact(tokens * width) {
                simd::add_assign(grad, picture);
            }
        });
        with_grad(&self.class, |grad| {
            for picture in g.chunks_exact(tokens * width) {
                simd::add_assign(grad, &picture[..width]);
            }
        });
        Ok(None)
    }
}

/// `token[id] + position[i]` for ids of `[batch, seq]`, given row by row.
pub(crate) fn token_embeddings(
    pass: &Pass,
    ids: &[u32],
    seq: usize,
    token: &Arc<Param>,
    position: &Arc<Param>,
) -> Result<Tensor> {
    let (vocabulary, width) = token.tensor().dims2()?;
    let longest = position.tensor().dim(0)?;
    let fits = seq > 0 && seq <= longest && ids.len().is_multiple_of(seq);
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(Error::data(format!(
            "token id {id} is outside the vocabulary of {vocabulary}"
        )));
    }
    if !fits {
        return Err(Error::data(format!(
            "sequences of {seq} tokens do not fit the {longest} positions"
        )));
    }
    if pass.is_fused() {
        return pass.apply_source(TokenEmbeddings {
            ids: ids.to_vec(),
            seq,
            width,
            token: token.clone(),
            position: position.clone(),
        });
    }
    let index = Tensor::from_slice(ids, ids.len(), token.tensor().device())?;
    Ok(pass
        .value(token)
        .index_select(&index, 0)?
        .reshape((ids.len() / seq, seq, width))?
        .broadcast_add(&pass.value(position).narrow(0, 0, seq)?)?)
}

struct TokenEmbeddings {
    ids: Vec<u32>,
    seq: usize,
    width: usize,
    token: Arc<Param>,
    position: Arc<Param>,
}

impl TokenEmbeddings {
    fn row(&self, index: u32) -> std::ops::Range<usize> {
        let start = index as usize * self.width;
        start..start + self.width
    }
}

impl FusedOp for TokenEmbeddings {
    const NAME: &'static str = "token-embeddings";

    fn forward(&self, _: &[f32], _: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let (token, position) = (
            floats(self.token.tensor())?,
            floats(self.position.tensor())?,
        );
        let mut y = vec![0.0; self.ids.len() * self.width];
        for (i, (&id, y)) in self
            .ids
            .iter()
            .zip(y.chunks_exact_mut(self.width))
            .enumerate()
        {
            let place = self.row((i % self.seq) as u32);
            simd::add(&token[self.row(id)], &position[place], y);
        }
        Ok((y, vec![self.ids.len() / self.seq, self.seq, self.width]))
    }

    fn backward(
        &self,
        _: &[f32],
        _: &[usize],
        g: &[f32],
        _wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        let rows = || self.ids.iter().zip(g.chunks_exact(self.width));
        with_grad(&self.token, |grad| {
            for (&id, g) in rows() {
                simd::add_assign(&mut grad[self.row(id)], g);
            }
        });
        with_grad(&self.position, |grad| {
            for (i, (_, g)) in rows().enumerate() {
                let place = self.row((i % self.seq) as u32);
                simd::add_assign(&mut grad[place], g);
            }
        });
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    #[test]
    fn patches_fused_equal_composite() {
        let dims = PatchDims {
            image: 8,
            patch: 4,
            width: 6,
        };
        let params = params(
            &[
                ("kernel", &[6, 3, 4, 4]),
                ("class", &[6]),
                ("position", &[5, 6]),
            ],
            &[],
        );
        let get = |name, shape: &[usize]| params.get(name, shape).unwrap();
        let (kernel, class, position) = (
            get("kernel", &[6, 3, 4, 4]),
            get("class", &[6]),
            get("position", &[5, 6]),
        );
        let x = noise(1, 2 * 3 * 64);
        let x = Tensor::from_vec(x, (2, 3, 8, 8), &Device::Cpu).unwrap();
        compare(&params, &x, |pass, x| {
            patch_embeddings(pass, &x.detach(), dims, &kernel, &class, &position)
        });
    }

    #[test]
    fn tokens_fused_equal_composite_and_refuse_strangers() {
        let params = params(&[("token", &[10, 6]), ("position", &[4, 6])], &[]);
        let token = params.get("token", &[10, 6]).unwrap();
        let position = params.get("position", &[4, 6]).unwrap();
        let embed =
            |pass: &Pass, ids: &[u32], seq| token_embeddings(pass, ids, seq, &token, &position);
        let ids = [3, 3, 9, 0, 1, 3];
        let x = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        compare(&params, &x, |pass, _| {
            // Position 3 is never used; give it a gradient all the same.
            let short = embed(pass, &ids, 3)?;
            let long = embed(pass, &ids[..4], 4)?;
            Ok(Tensor::cat(
                &[short.flatten_all()?, long.flatten_all()?],
                0,
            )?)
        });
        let pass = crate::ops::Runtime::new(&params).unwrap().inference();
        let message = |ids: &[u32], seq| embed(&pass, ids, seq).unwrap_err().to_string();
        assert!(message(&[10], 1).contains("token id 10"));
        assert!(message(&[1; 5], 5).contains("5 tokens"));
    }
}
