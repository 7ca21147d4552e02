//! Operations of convolutional networks other than convolutions.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{FusedOp, Pass, argument, conv_tensors, floats};
use crate::{Result, kernels::simd};

/// Max pooling with a 3x3 kernel, stride 2 and padding 1.
pub(crate) fn max_pool(pass: &Pass, x: &Tensor) -> Result<Tensor> {
    if !pass.is_fused() {
        return conv_tensors::max_pool(pass, x);
    }
    pass.apply(
        x,
        MaxPool {
            chosen: Mutex::new(Vec::new()),
        },
    )
}

struct MaxPool {
    /// Index of each output element's source within its image.
    chosen: Mutex<Vec<u32>>,
}

impl FusedOp for MaxPool {
    const NAME: &'static str = "max-pool";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let [batch, height, width, channels] = *shape else {
            candle_core::bail!("pooling takes [batch, height, width, channels]")
        };
        let (out_height, out_width) = (height.div_ceil(2), width.div_ceil(2));
        let line = out_width * channels;
        let mut y = vec![f32::NEG_INFINITY; batch * out_height * line];
        let mut chosen = vec![0u32; y.len()];
        y.par_chunks_mut(line)
            .zip(chosen.par_chunks_mut(line))
            .enumerate()
            .for_each(|(i, (y, chosen))| {
                let (image, row) = (i / out_height, i % out_height);
                let image = &x[image * height * width * channels..];
                let columns = y
                    .chunks_exact_mut(channels)
                    .zip(chosen.chunks_exact_mut(channels));
                for (column, (y, chosen)) in columns.enumerate() {
                    for from_y in (2 * row).saturating_sub(1)..(2 * row + 2).min(height) {
                        for from_x in (2 * column).saturating_sub(1)..(2 * column + 2).min(width) {
                            let at = (from_y * width + from_x) * channels;
                            let x = &image[at..at + channels];
                            for (c, x) in x.iter().enumerate() {
                                if *x > y[c] {
                                    y[c] = *x;
                                    chosen[c] = (at + c) as u32;
                                }
                            }
                        }
                    }
                }
            });
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
        Ok((y, vec![batch, out_height, out_width, channels]))
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        if !wanted || shape.first() == Some(&0) {
            return Ok(None);
        }
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = (x.len() / shape[0], g.len() / shape[0]);
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_mut(from)
            .zip(g.par_chunks(to))
            .zip(chosen.par_chunks(to))
            .for_each(|((dx, g), chosen)| {
                for (g, at) in g.iter().zip(chosen) {
                    dx[*at as usize] += g;
                }
            });
        Ok(Some(dx))
    }
}

/// Multiplies each channel of each image, `[batch, height, width, channels]`,
/// with a factor, `[batch, channels]`.
pub(crate) fn scale_channels(pass: &Pass, x: &Tensor, by: &Tensor) -> Result<Tensor> {
    if !pass.is_fused() {
        let (batch, channels) = by.dims2()?;
        return Ok(x.broadcast_mul(&by.reshape((batch, 1, 1, channels))?)?);
    }
    pass.apply3(x, Some(by), ScaleChannels)
}

struct ScaleChannels;

impl CustomOp3 for ScaleChannels {
    fn name(&self) -> &'static str {
        "scale-channels"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        by: &CpuStorage,
        by_layout: &Layout,
        _anchor: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, by) = (argument(x, layout)?, argument(by, by_layout)?);
        let channels = by_layout.dims()[1];
        let image = x.len() / by_layout.dims()[0];
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(image)
            .zip(x.par_chunks(image))
            .zip(by.par_chunks(channels))
            .for_each(|((y, x), by)| {
                for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                    simd::multiply_add(y, x, by);
                }
            });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        by: &Tensor,
        _anchor: &Tensor,
        _result: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (batch, channels) = by.dims2()?;
        let (x_data, by_data, g) = (floats(x)?, floats(by)?, floats(&g)?);
        let image = x_data.len() / batch;
        let (mut dx, mut d_by) = (vec![0.0; x_data.len()], vec![0.0; by_data.len()]);
        dx.par_chunks_mut(image)
            .zip(d_by.par_chunks_mut(channels))
            .zip(x_data.par_chunks(image))
            .zip(by_data.par_chunks(channels))
            .zip(g.par_chunks(image))
            .for_each(|((((dx, d_by), x), by), g)| {
                let positions = dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                for ((dx, x), g) in positions.zip(g.chunks_exact(channels)) {
                    simd::multiply_add(dx, g, by);
                    simd::multiply_add(d_by, g, x);
                }
            });
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(d_by, by.shape(), by.device())?),
            None,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::{
        Kernels, Runtime,
        testing::{noise, params},
    };

    /// A runtime with fused operations, and one with composite ones.
    fn both() -> [Runtime; 2] {
        [Kernels::Fused, Kernels::Composite].map(|kernels| {
            let mut runtime = Runtime::new(&params(&[], &[])).unwrap();
            runtime.kernels = kernels;
            runtime
        })
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_largest_value_is_taken_and_gets_the_gradient() {
        for runtime in both() {
            // One channel: the maximum of the top left four is 9.
            let x: Vec<f32> = vec![1.0, 9.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
            let x = Var::from_vec(x, (1, 3, 3, 1), &Device::Cpu).unwrap();
            let input = (x.as_tensor() * 1.0).unwrap();
            let y = max_pool(&runtime.training(), &input).unwrap();
            assert_eq!(y.dims(), [1, 2, 2, 1]);
            assert_eq!(flat(&y), [9.0, 9.0, 7.0, 8.0]);
            let g = Tensor::from_vec(vec![1f32, 2.0, 4.0, 8.0], y.shape(), y.device()).unwrap();
            let grads = (y * g).unwrap().sum_all().unwrap().backward().unwrap();
            let found = flat(grads.get(&x).unwrap());
            assert_eq!(found, [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 8.0]);
        }
    }

    #[test]
    fn both_forms_pool_images_of_any_size_and_equal_values_alike() {
        for (height, width) in [(5, 6), (6, 5), (1, 7), (8, 2)] {
            let [fused, composite] = both().map(|runtime| {
                let x = noise(1, 2 * height * width * 3);
                // Many values are equal: the first gets the gradient.
                let x: Vec<f32> = x.iter().map(|x| (x * 2.0).round().max(0.0)).collect();
                let x = Var::from_vec(x, (2, height, width, 3), &Device::Cpu).unwrap();
                let input = (x.as_tensor() * 1.0).unwrap();
                let y = max_pool(&runtime.training(), &input).unwrap();
                let g = Tensor::from_vec(noise(2, y.elem_count()), y.shape(), y.device()).unwrap();
                let grads = (&y * g).unwrap().sum_all().unwrap().backward().unwrap();
                (flat(&y), flat(grads.get(&x).unwrap()))
            });
            assert_eq!(fused.0, composite.0);
            crate::ops::testing::assert_close(&fused.1, &composite.1, "x");
        }
    }

    #[test]
    fn channels_are_scaled_as_by_broadcasting() {
        for runtime in both() {
            let x = Var::from_vec(noise(1, 2 * 3 * 2 * 5), (2, 3, 2, 5), &Device::Cpu).unwrap();
            let by = Var::from_vec(noise(2, 10), (2, 5), &Device::Cpu).unwrap();
            let (input, scale) = (
                (x.as_tensor() * 1.0).unwrap(),
                (by.as_tensor() * 1.0).unwrap(),
            );
            let plain = input
                .broadcast_mul(&scale.reshape((2, 1, 1, 5)).unwrap())
                .unwrap();
            let found = scale_channels(&runtime.training(), &input, &scale).unwrap();
            assert_eq!(flat(&plain), flat(&found));
            let g = Tensor::from_vec(noise(3, 60), found.shape(), found.device()).unwrap();
            let of = |y: Tensor| {
                let grads = (y * &g).unwrap().sum_all().unwrap().backward().unwrap();
                (flat(grads.get(&x).unwrap()), flat(grads.get(&by).unwrap()))
            };
            let (found, expected) = (of(found), of(plain));
            crate::ops::testing::assert_close(&found.0, &expected.0, "x");
            crate::ops::testing::assert_close(&found.1, &expected.1, "by");
        }
    }
}
