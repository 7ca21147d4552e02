//! Batch normalisation of the columns of a matrix.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Pass, floats, node::node, tensors::column_sums};
use crate::{
    Result,
    kernels::{simd, whole_rows},
    params::{Param, Params},
};

/// Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167): training
/// uses the mean and variance of the batch, inference the running ones.
#[derive(Clone)]
pub(crate) struct BatchNorm {
    pub(super) weight: Arc<Param>,
    pub(super) bias: Arc<Param>,
    pub(super) running_mean: Arc<Param>,
    pub(super) running_var: Arc<Param>,
    pub(super) eps: f32,
    /// Bias of the preceding layer. That layer does not add it, since the
    /// normalisation would subtract it again in training.
    before: Option<Arc<Param>>,
}

/// Momentum of the running mean and variance, PyTorch's default.
const MOMENTUM: f32 = 0.1;

const TOO_FEW: &str = "batch normalisation needs more than one value of each channel in training";

/// The per-column affine map of a normalisation.
pub(super) struct Affine {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) mean: Vec<f32>,
    /// Inverse standard deviation.
    pub(super) rstd: Vec<f32>,
}

impl BatchNorm {
    /// Loads the four tensors of `name`. The running statistics must be frozen.
    pub(crate) fn load(params: &Params, name: &str, width: usize, eps: f32) -> Result<Self> {
        let get = |part: &str| params.get(&format!("{name}.{part}"), &[width]);
        Ok(Self {
            weight: get("weight")?,
            bias: get("bias")?,
            running_mean: get("running_mean")?,
            running_var: get("running_var")?,
            eps,
            before: None,
        })
    }

    /// Sets the bias of the preceding layer, which that layer does not add.
    pub(crate) fn after_bias(self, bias: Arc<Param>) -> Self {
        Self {
            before: Some(bias),
            ..self
        }
    }

    /// Returns a mean plus `sign` times the preceding layer's bias.
    fn plus_bias(&self, mean: &[f32], sign: f32) -> candle_core::Result<Vec<f32>> {
        let Some(bias) = &self.before else {
            return Ok(mean.to_vec());
        };
        let both = bias.read(|bias| {
            let both = mean.iter().zip(bias);
            both.map(|(mean, bias)| mean + sign * bias).collect()
        });
        both.map_err(candle_core::Error::wrap)
    }

    /// Returns the names and shapes of its tensors.
    pub(crate) fn tensors(name: &str, width: usize) -> impl Iterator<Item = (String, Vec<usize>)> {
        ["weight", "bias", "running_mean", "running_var"]
            .map(|part| (format!("{name}.{part}"), vec![width]))
            .into_iter()
    }

    /// Returns the map by the statistics of the rows of `z`, and updates the
    /// running ones.
    pub(super) fn by_batch(&self, z: &[f32]) -> candle_core::Result<Affine> {
        let weight = floats(self.weight.tensor())?;
        let width = weight.len();
        let rows = z.len() / width;
        if rows < 2 {
            candle_core::bail!("{TOO_FEW}")
        }
        let Moments { mean, squares, .. } = moments(z, width);
        let var: Vec<f32> = squares.iter().map(|s| s / rows as f32).collect();
        let unbiased = rows as f32 / (rows - 1) as f32;
        let keep = |running: &Arc<Param>, new: &[f32], factor: f32| {
            running.update(|running| {
                for (r, n) in running.iter_mut().zip(new) {
                    *r += MOMENTUM * (n * factor - *r);
                }
            })
        };
        let shown = self.plus_bias(&mean, 1.0)?;
        keep(&self.running_mean, &shown, 1.0).map_err(candle_core::Error::wrap)?;
        keep(&self.running_var, &var, unbiased).map_err(candle_core::Error::wrap)?;
        self.affine(mean, &var)
    }

    /// Returns scale and shift of each column by the running statistics, to
    /// merge them into the preceding layer.
    pub(crate) fn scale_and_shift(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let affine = self.by_running()?;
        Ok((affine.scale, affine.shift))
    }

    /// Returns the map by the running statistics.
    pub(super) fn by_running(&self) -> candle_core::Result<Affine> {
        let copy = |param: &Arc<Param>| param.to_vec().map_err(candle_core::Error::wrap);
        let mean = self.plus_bias(&copy(&self.running_mean)?, -1.0)?;
        self.affine(mean, &copy(&self.running_var)?)
    }

    fn affine(&self, mean: Vec<f32>, var: &[f32]) -> candle_core::Result<Affine> {
        // Small copies, from whichever device holds the tensors.
        let copy = |param: &Arc<Param>| param.to_vec().map_err(candle_core::Error::wrap);
        let (weight, bias) = (copy(&self.weight)?, copy(&self.bias)?);
        let rstd: Vec<f32> = var.iter().map(|v| 1.0 / (v + self.eps).sqrt()).collect();
        let scale: Vec<f32> = rstd.iter().zip(&weight).map(|(r, w)| r * w).collect();
        let shift = bias
            .iter()
            .zip(&mean)
            .zip(&scale)
            .map(|((b, m), s)| b - m * s);
        Ok(Affine {
            shift: shift.collect(),
            scale,
            mean,
            rstd,
        })
    }
}

impl BatchNorm {
    /// Normalises the rows of `[rows, width]` on any device. Training uses
    /// their statistics and updates the running ones.
    pub(super) fn composite(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let z = x.detach();
        let eps = f64::from(self.eps);
        let value = |param: &Arc<Param>| param.tensor().detach();
        let (weight, bias) = (value(&self.weight), value(&self.bias));
        if !pass.training {
            let mut mean = value(&self.running_mean);
            if let Some(before) = &self.before {
                mean = (mean - value(before))?;
            }
            let rstd = (value(&self.running_var) + eps)?.sqrt()?.recip()?;
            let scale = (rstd * weight)?;
            let shift = (bias - (mean * &scale)?)?;
            return Ok(z.broadcast_mul(&scale)?.broadcast_add(&shift)?);
        }
        let rows = z.dim(0)?;
        if rows < 2 {
            return Err(candle_core::Error::Msg(TOO_FEW.to_owned()).into());
        }
        let means = move |x: &Tensor| column_sums(x)?.affine(1.0 / rows as f64, 0.0);
        let mean = means(&z)?;
        let var = means(&z.broadcast_sub(&mean)?.sqr()?)?;
        self.follow(&mean, &var, rows)?;
        let rstd = (var + eps)?.sqrt()?.recip()?;
        let normal = {
            let (mean, rstd) = (mean.clone(), rstd.clone());
            move |z: &Tensor| z.broadcast_sub(&mean)?.broadcast_mul(&rstd)
        };
        let y = normal(&z)?.broadcast_mul(&weight)?.broadcast_add(&bias)?;
        let (own_weight, own_bias) = (Arc::clone(&self.weight), Arc::clone(&self.bias));
        node(pass, x, y, move |g, wanted| {
            let normal = normal(&z)?;
            let (sum, along) = (column_sums(g)?, column_sums(&(g * &normal)?)?);
            own_weight.add_gradient(&along)?;
            own_bias.add_gradient(&sum)?;
            if !wanted {
                return Ok(None);
            }
            // dz = scale (g - mean(g) - n mean(g n)), n the normalised input
            let part = 1.0 / rows as f64;
            let inner = g
                .broadcast_sub(&sum.affine(part, 0.0)?)?
                .sub(&normal.broadcast_mul(&along.affine(part, 0.0)?)?)?;
            // Read now: the optimizer changes the weight after this step.
            let scale = (&rstd * own_weight.tensor().detach())?;
            Ok(Some(inner.broadcast_mul(&scale)?))
        })
    }

    /// Moves the running statistics towards those of a batch.
    fn follow(&self, mean: &Tensor, var: &Tensor, rows: usize) -> Result<()> {
        let shown = match &self.before {
            Some(before) => (mean + before.tensor().detach())?,
            None => mean.clone(),
        };
        let unbiased = rows as f64 / (rows - 1) as f64;
        let move_to = |running: &Arc<Param>, new: Tensor| {
            let momentum = f64::from(MOMENTUM);
            let old = running.tensor().detach().affine(1.0 - momentum, 0.0)?;
            running.set(&(old + new.affine(momentum, 0.0)?)?)
        };
        move_to(&self.running_mean, shown)?;
        move_to(&self.running_var, var.affine(unbiased, 0.0)?)
    }
}

/// Statistics of the columns of some rows.
struct Moments {
    rows: f32,
    mean: Vec<f32>,
    /// Sums of squared differences from the mean.
    squares: Vec<f32>,
}

/// Returns the statistics of `z` in one pass over memory. Chunks that fit into
/// the cache are computed in parallel and merged in order ([Chan et al.
/// 1983](https://doi.org/10.1080/00031305.1983.10483115)).
fn moments(z: &[f32], width: usize) -> Moments {
    let parts: Vec<Moments> = z
        .par_chunks(whole_rows(width))
        .map(|z| {
            let rows = (z.len() / width) as f32;
            let mut mean = vec![0.0; width];
            for row in z.chunks_exact(width) {
                simd::add_assign(&mut mean, row);
            }
            mean.iter_mut().for_each(|m| *m /= rows);
            let mut squares = vec![0.0; width];
            simd::add_squared_differences(z, &mean, &mut squares);
            Moments {
                rows,
                mean,
                squares,
            }
        })
        .collect();
    let mut all = Moments {
        rows: 0.0,
        mean: vec![0.0; width],
        squares: vec![0.0; width],
    };
    for part in parts {
        let rows = all.rows + part.rows;
        for c in 0..width {
            let apart = part.mean[c] - all.mean[c];
            all.mean[c] += apart * part.rows / rows;
            all.squares[c] += part.squares[c] + apart * apart * all.rows * part.rows / rows;
        }
        all.rows = rows;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_parts_are_those_of_the_whole() {
        // Several chunks of 64 rows and a remainder, with a mean far from zero.
        let width = 1024;
        let z = crate::ops::testing::noise(1, 150 * width);
        let z: Vec<f32> = z.iter().map(|z| 100.0 + z).collect();
        let found = moments(&z, width);
        for c in 0..width {
            let column = || z[c..].iter().step_by(width).map(|z| f64::from(*z));
            let mean = column().sum::<f64>() / 150.0;
            let squares: f64 = column().map(|z| (z - mean) * (z - mean)).sum();
            assert!((f64::from(found.mean[c]) - mean).abs() < 1e-4);
            assert!((f64::from(found.squares[c]) / squares - 1.0).abs() < 1e-4);
        }
    }
    use crate::ops::testing::params;

    #[test]
    fn a_bias_before_batch_norm_shifts_only_the_running_mean() {
        let parts = ["weight", "bias", "running_mean", "running_var", "before"];
        let names = parts.map(|part| format!("n.{part}"));
        let shapes = names.each_ref().map(|name| (&**name, &[1usize][..]));
        let params = params(&shapes, &["n.running_mean", "n.running_var"]);
        let plain = BatchNorm::load(&params, "n", 1, 1e-5).unwrap();
        plain.running_mean.update(|m| m[0] = 2.0).unwrap();
        plain.running_var.update(|v| v[0] = 3.0).unwrap();
        let bias = params.get("n.before", &[1]).unwrap();
        bias.update(|b| b[0] = 0.5).unwrap();
        let norm = plain.clone().after_bias(bias);
        // Compares `z` without the bias with `z` with it under a separate norm.
        let (found, expected) = (norm.by_running().unwrap(), plain.by_running().unwrap());
        let apply = |affine: &Affine, z: f32| affine.scale[0] * z + affine.shift[0];
        assert!((apply(&found, 1.0) - apply(&expected, 1.5)).abs() < 1e-6);
        norm.by_batch(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        let mean = norm.running_mean.to_vec().unwrap()[0];
        assert!((mean - (2.0 + 0.1 * (3.5 - 2.0))).abs() < 1e-6);
    }

    #[test]
    fn running_moments_follow_the_batch_as_in_pytorch() {
        let shapes: [(&str, &[usize]); 4] = [
            ("n.weight", &[1]),
            ("n.bias", &[1]),
            ("n.running_mean", &[1]),
            ("n.running_var", &[1]),
        ];
        let params = params(&shapes, &["n.running_mean", "n.running_var"]);
        let norm = BatchNorm::load(&params, "n", 1, 1e-5).unwrap();
        norm.running_mean.update(|m| m[0] = 2.0).unwrap();
        norm.running_var.update(|v| v[0] = 3.0).unwrap();
        norm.by_batch(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        let value = |p: &Param| p.to_vec().unwrap()[0];
        // Mean 3, unbiased variance 14 / 3.
        assert!((value(&norm.running_mean) - 2.1).abs() < 1e-6);
        assert!((value(&norm.running_var) - (3.0 + 0.1 * (14.0 / 3.0 - 3.0))).abs() < 1e-6);
    }
}
