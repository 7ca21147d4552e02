//! Feature maps in inference: the values between convolutional layers if
//! nothing needs a gradient. They use pooled buffers, whereas each tensor would
//! allocate and clear new memory.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{ConvNorm, Inference, Pass, conv_layers::infer_layers, floats};
use crate::{
    Result,
    kernels::{
        pool::{Buffer, Pool},
        simd,
    },
};

/// Feature maps `[batch, height, width, channels]`.
pub(crate) struct FeatureMaps {
    values: Buffer,
    shape: Vec<usize>,
    pool: Pool,
    int8: bool,
}

/// Elements that one task copies.
const MOVED_PER_TASK: usize = 1 << 15;

impl FeatureMaps {
    /// Converts images `[batch, channels, height, width]`, if the pass is
    /// inference with fused operations.
    pub(crate) fn of_images(pass: &Pass, pixels: &Tensor) -> Result<Option<Self>> {
        let (true, Some(Inference { int8 })) = (pass.is_fused(), pass.inference()) else {
            return Ok(None);
        };
        let (batch, channels, height, width) = pixels.dims4()?;
        let pixels = pixels.contiguous()?;
        let pixels = floats(&pixels)?;
        let pool = pass.pool().clone();
        let mut values = pool.take(pixels.len());
        values
            .par_chunks_exact_mut((width * channels).max(1))
            .enumerate()
            .with_min_len(MOVED_PER_TASK.div_ceil((width * channels).max(1)))
            .for_each(|(line, to)| {
                let (image, y) = (line / height, line % height);
                for channel in 0..channels {
                    let start = ((image * channels + channel) * height + y) * width;
                    let to = to[channel..].iter_mut().step_by(channels);
                    for (to, from) in to.zip(&pixels[start..start + width]) {
                        *to = *from;
                    }
                }
            });
        Ok(Some(Self {
            values,
            shape: vec![batch, height, width, channels],
            pool,
            int8,
        }))
    }

    fn infer(&self, layer: &ConvNorm) -> Result<(Buffer, Vec<usize>)> {
        let x = (&*self.values, &*self.shape);
        Ok(layer.infer(&self.pool, self.int8, x, None)?)
    }

    fn with(self, (values, shape): (Buffer, Vec<usize>)) -> Self {
        Self {
            values,
            shape,
            ..self
        }
    }

    /// Runs one layer.
    pub(crate) fn layer(self, layer: &ConvNorm) -> Result<Self> {
        let found = self.infer(layer)?;
        Ok(self.with(found))
    }

    /// Runs the layers `inner` and `last`, with the output of `shortcut` as the
    /// residual, or these maps if it is `None`.
    pub(crate) fn block(
        self,
        inner: &[ConvNorm],
        last: &ConvNorm,
        shortcut: Option<&ConvNorm>,
    ) -> Result<Self> {
        let made = shortcut.map(|layer| self.infer(layer)).transpose()?;
        let residual = made.as_ref().map_or(&self.values, |(made, _)| made);
        let x = (&*self.values, &*self.shape);
        let found = infer_layers((&self.pool, self.int8), x, inner, last, Some(residual))?;
        Ok(self.with(found))
    }

    /// Pools like [`super::max_pool`].
    pub(crate) fn max_pool(self) -> Result<Self> {
        let [batch, height, width, channels] = *self.shape else {
            return Ok(self);
        };
        let (out_height, out_width) = (height.div_ceil(2), width.div_ceil(2));
        let mut y = self.pool.take(batch * out_height * out_width * channels);
        y.par_chunks_exact_mut(out_width * channels)
            .enumerate()
            .for_each_init(Vec::new, |starts, (i, y)| {
                let (image, row) = (i / out_height, i % out_height);
                for (column, y) in y.chunks_exact_mut(channels).enumerate() {
                    starts.clear();
                    for from_y in around(row, height) {
                        let line = (image * height + from_y) * width;
                        starts.extend(around(column, width).map(|x| (line + x) * channels));
                    }
                    simd::largest(&self.values, starts, y);
                }
            });
        Ok(self.with((y, vec![batch, out_height, out_width, channels])))
    }

    /// Copies the maps to a tensor.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        let values = self.values.to_vec();
        Ok(Tensor::from_vec(values, &*self.shape, &Device::Cpu)?)
    }
}

/// Returns the positions from `2 * i - 1` to `2 * i + 1` that lie within `n`.
fn around(i: usize, n: usize) -> Range<usize> {
    (2 * i).saturating_sub(1)..(2 * i + 2).min(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{
        Runtime, max_pool,
        testing::{noise, params},
    };

    #[test]
    fn pooling_equals_the_operation_on_tensors() {
        let runtime = Runtime::new(&params(&[], &[])).unwrap();
        let pass = runtime.inference();
        for (height, width, channels) in [(1, 1, 3), (4, 6, 16), (7, 5, 19)] {
            let pixels = noise(1, 2 * channels * height * width);
            let shape = (2, channels, height, width);
            let pixels = Tensor::from_vec(pixels, shape, &Device::Cpu).unwrap();
            let maps = FeatureMaps::of_images(&pass, &pixels).unwrap().unwrap();
            let transposed = pixels.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
            let all = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(all(&maps.to_tensor().unwrap()), all(&transposed));
            let found = maps.max_pool().unwrap().to_tensor().unwrap();
            let expected = max_pool(&pass, &transposed).unwrap();
            assert_eq!(found.dims(), expected.dims());
            assert_eq!(all(&found), all(&expected));
        }
        assert!(
            FeatureMaps::of_images(
                &runtime.training(),
                &Tensor::zeros((1, 3, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap()
            )
            .unwrap()
            .is_none()
        );
    }
}
