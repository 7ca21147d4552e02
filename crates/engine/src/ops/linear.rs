//! Linear layers, `y = x Wᵀ + b`.

use std::{ops::Range, sync::Arc};

use candle_core::Tensor;

use super::{
    Draws, FusedOp, Inference, Pass, Step,
    adapter::{Adapter, LayerDims},
    floats,
    map_rows::{Rows, map_rows},
    with_grad,
};
use crate::{
    Result, kernels,
    kernels::{
        gemm::{Factor, Mat, MatMut, Precision, Product, Threads, multiply},
        pool::Pool,
        simd::Activate,
    },
    params::{FactorKey, Param, Params},
};

/// From this many rows on, it is faster to transpose the weight before the
/// product, unless the product packs its factors. Otherwise the product gathers
/// rows that lie far apart in memory and miss the cache.
const ROWS_WORTH_TRANSPOSING: usize = 64;

/// A linear layer: weights `[outputs, inputs]`, and a bias per output.
#[derive(Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Arc<Param>,
    pub(crate) bias: Option<Arc<Param>>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// First row of weight and bias that this layer uses. Some checkpoints
    /// store several layers in one tensor: query, key and value, or an MLP and
    /// its gate.
    pub(crate) first: usize,
    /// A low-rank adapter, which is trained instead of the weight.
    pub(crate) adapter: Option<Adapter>,
}

impl Linear {
    /// Loads `{name}.weight` and, if `bias` is set, `{name}.bias`.
    pub(crate) fn load(
        params: &Params,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Self> {
        Self::load_part(params, name, inputs, outputs, bias, (0, 1))
    }

    /// Loads the layer `part` of `parts` equal ones, which a checkpoint stacks
    /// in one tensor.
    pub(crate) fn load_part(
        params: &Params,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
        (part, parts): (usize, usize),
    ) -> Result<Self> {
        let rows = parts * outputs;
        let weight = params.get(&format!("{name}.weight"), &[rows, inputs])?;
        params.record_linear(&weight);
        Ok(Self {
            weight,
            bias: if bias {
                Some(params.get(&format!("{name}.bias"), &[rows])?)
            } else {
                None
            },
            inputs,
            outputs,
            first: part * outputs,
            adapter: Adapter::load(params, name, inputs, rows)?,
        })
    }

    fn dims(&self) -> LayerDims {
        LayerDims {
            inputs: self.inputs,
            outputs: self.outputs,
            first: self.first,
        }
    }

    /// Returns the range of the weight that belongs to this layer.
    pub(crate) fn own(&self) -> Range<usize> {
        let start = self.first * self.inputs;
        start..start + self.outputs * self.inputs
    }

    /// Returns the range of the bias that belongs to this layer.
    pub(crate) fn own_bias(&self) -> Range<usize> {
        self.first..self.first + self.outputs
    }

    /// Loads a 1x1 convolution, `[outputs, inputs, 1, 1]`, with its bias.
    pub(crate) fn load_pointwise(
        params: &Params,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[outputs, inputs, 1, 1])?,
            bias: Some(params.get(&format!("{name}.bias"), &[outputs])?),
            inputs,
            outputs,
            first: 0,
            adapter: None,
        })
    }

    /// Computes `y = x Wᵀ + b`, plus `residual` if given.
    pub(crate) fn forward(
        &self,
        step: &Step<'_>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let (rows, precision) = (x.len() / self.inputs, step.precision);
        match (&self.bias, residual) {
            (Some(bias), residual) => {
                let bias = floats(bias.tensor())?;
                kernels::fill_rows(y, &bias[self.own_bias()], residual);
            }
            (None, Some(residual)) => y.copy_from_slice(residual),
            (None, None) => {}
        }
        let weight = floats(self.weight.tensor())?;
        let weight = &weight[self.own()];
        let mut transposed = None;
        let packs = precision.packs(rows, self.inputs, self.outputs);
        let weight = if rows < ROWS_WORTH_TRANSPOSING || packs {
            Mat::new(weight, self.outputs, self.inputs).t()
        } else {
            let transposed = transposed.insert(step.pool.take(weight.len()));
            kernels::transpose(weight, self.inputs, transposed);
            Mat::new(transposed, self.inputs, self.outputs)
        };
        precision.matmul(
            MatMut::new(y, rows, self.outputs),
            Mat::new(x, rows, self.inputs),
            weight,
            1.0,
            self.bias.is_some() || residual.is_some(),
            Threads::All,
        );
        match &self.adapter {
            Some(adapter) => adapter.forward(self.dims(), step, x, y),
            None => Ok(()),
        }
    }

    /// Returns the weight packed for inference.
    fn factor(&self, int8: bool) -> candle_core::Result<Arc<Factor>> {
        let key = FactorKey {
            first: self.first,
            outputs: self.outputs,
            int8,
        };
        let pack = |weight: &[f32]| Ok(Factor::new(&weight[self.own()], self.inputs, int8));
        let factor = match &self.adapter {
            Some(adapter) => adapter.factor(self.dims(), key, || {
                Ok(self.weight.to_vec()?[self.own()].to_vec())
            }),
            None => self.weight.factor(key, pack),
        };
        factor.map_err(candle_core::Error::wrap)
    }

    /// Computes `y = x Wᵀ + b` in inference, plus `residual` if given.
    pub(crate) fn infer(
        &self,
        int8: bool,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let (layer, activate) = (self, None);
        let output = Output {
            layer,
            residual,
            activate,
            y,
        };
        infer_together(int8, x, &mut [output])
    }

    /// Adds `gᵀ x` to the weight's gradient, and the column sums of `g` to the
    /// bias's.
    pub(crate) fn backward_params(
        &self,
        step: &Step<'_>,
        x: &[f32],
        g: &[f32],
    ) -> candle_core::Result<()> {
        let rows = x.len() / self.inputs;
        with_grad(&self.weight, |grad| {
            step.precision.matmul(
                MatMut::new(&mut grad[self.own()], self.outputs, self.inputs),
                Mat::new(g, rows, self.outputs).t(),
                Mat::new(x, rows, self.inputs),
                1.0,
                true,
                Threads::All,
            );
        });
        if let Some(bias) = &self.bias {
            with_grad(bias, |grad| {
                kernels::add_column_sums(g, &mut grad[self.own_bias()]);
            });
        }
        match &self.adapter {
            Some(adapter) => adapter.backward_params(self.dims(), step, x, g),
            None => Ok(()),
        }
    }

    /// Computes `dx = g W`, or `dx += g W` if `accumulate` is set.
    pub(crate) fn backward_input(
        &self,
        step: &Step<'_>,
        g: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) -> candle_core::Result<()> {
        let rows = g.len() / self.outputs;
        let weight = floats(self.weight.tensor())?;
        step.precision.matmul(
            MatMut::new(dx, rows, self.inputs),
            Mat::new(g, rows, self.outputs),
            Mat::new(&weight[self.own()], self.outputs, self.inputs),
            1.0,
            accumulate,
            Threads::All,
        );
        match &self.adapter {
            Some(adapter) => adapter.backward_input(self.dims(), step, g, dx),
            None => Ok(()),
        }
    }

    /// Computes the layer on any device.
    pub(crate) fn composite(&self, pass: &Pass, x: &Tensor) -> Result<Tensor> {
        let weight = Rows {
            param: &self.weight,
            first: self.first,
        };
        let y = map_rows(pass, x, weight, self.bias.as_ref(), self.outputs)?;
        match &self.adapter {
            Some(adapter) => Ok((y + adapter.composite(pass, self.dims(), x)?)?),
            None => Ok(y),
        }
    }
}

/// One of several layers over the same rows: `y = activate(x Wᵀ + b +
/// residual)`.
pub(crate) struct Output<'a> {
    pub(crate) layer: &'a Linear,
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activate: Option<Activate>,
    pub(crate) y: &'a mut [f32],
}

impl<'a> Output<'a> {
    /// Returns the output `x Wᵀ + b`.
    pub(crate) fn new(layer: &'a Linear, y: &'a mut [f32]) -> Self {
        Self {
            layer,
            residual: None,
            activate: None,
            y,
        }
    }
}

/// Applies several layers to the same rows, in inference.
pub(crate) fn infer_together(
    int8: bool,
    x: &[f32],
    outputs: &mut [Output<'_>],
) -> candle_core::Result<()> {
    let parts = outputs.iter().map(|output| {
        let bias = output.layer.bias.as_ref();
        let bias = bias.map(|bias| floats(bias.tensor())).transpose()?;
        Ok((output.layer.factor(int8)?, bias))
    });
    let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
    let mut products: Vec<_> = outputs
        .iter_mut()
        .zip(&parts)
        .map(|(output, (factor, bias))| Product {
            bias: bias.as_ref().map(|bias| &bias[output.layer.own_bias()]),
            residual: output.residual,
            activate: output.activate,
            ..Product::new(factor, output.y)
        })
        .collect();
    multiply(x, &mut products, Threads::All);
    Ok(())
}

/// Applies a linear layer to the last dimension of `x`.
pub(crate) fn linear(pass: &Pass, x: &Tensor, linear: &Linear) -> Result<Tensor> {
    if pass.is_fused() {
        let op = FusedLinear {
            linear: linear.clone(),
            precision: pass.precision(),
            pool: pass.pool().clone(),
            inference: pass.inference(),
            adapters: pass.adapters,
        };
        pass.apply(x, op)
    } else {
        linear.composite(pass, x)
    }
}

struct FusedLinear {
    linear: Linear,
    precision: Precision,
    pool: Pool,
    inference: Option<Inference>,
    adapters: Option<Draws>,
}

impl FusedLinear {
    fn step(&self) -> Step<'_> {
        Step {
            precision: self.precision,
            pool: &self.pool,
            adapters: self.adapters,
        }
    }
}

impl FusedOp for FusedLinear {
    const NAME: &'static str = "linear";

    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)> {
        let Linear {
            inputs, outputs, ..
        } = self.linear;
        let mut y = vec![0.0; x.len() / inputs * outputs];
        match self.inference {
            Some(Inference { int8 }) => self.linear.infer(int8, x, None, &mut y)?,
            None => self.linear.forward(&self.step(), x, None, &mut y)?,
        }
        let mut shape = shape.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Ok((y, shape))
    }

    fn backward(
        &self,
        x: &[f32],
        _shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>> {
        self.linear.backward_params(&self.step(), x, g)?;
        if !wanted {
            return Ok(None);
        }
        let mut dx = vec![0.0; x.len()];
        self.linear
            .backward_input(&self.step(), g, &mut dx, false)?;
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{compare, noise, params};

    #[test]
    fn fused_equals_composite_with_bias_without_and_frozen() {
        for (bias, frozen) in [(true, vec![]), (false, vec![]), (true, vec!["l.weight"])] {
            let params = params(&[("l.weight", &[11, 7]), ("l.bias", &[11])], &frozen);
            let layer = Linear::load(&params, "l", 7, 11, bias).unwrap();
            let rows = if frozen.is_empty() {
                9
            } else {
                ROWS_WORTH_TRANSPOSING
            };
            let x = noise(3, 2 * rows * 7);
            let x = Tensor::from_vec(x, (2, rows, 7), &Device::Cpu).unwrap();
            if bias {
                compare(&params, &x, |pass, x| linear(pass, x, &layer));
            } else {
                let only_weight = crate::ops::testing::params(&[("l.weight", &[11, 7])], &[]);
                let layer = Linear::load(&only_weight, "l", 7, 11, false).unwrap();
                compare(&only_weight, &x, |pass, x| linear(pass, x, &layer));
            }
        }
    }

    #[test]
    fn fused_equals_composite_for_layers_in_one_tensor() {
        for bias in [true, false] {
            let shapes: [(&str, &[usize]); 2] = [("l.weight", &[33, 7]), ("l.bias", &[33])];
            let params = params(&shapes[..1 + usize::from(bias)], &[]);
            let part = |part| Linear::load_part(&params, "l", 7, 11, bias, (part, 3)).unwrap();
            let layers = [part(0), part(1), part(2)];
            for rows in [9, ROWS_WORTH_TRANSPOSING] {
                let x = Tensor::from_vec(noise(3, rows * 7), (rows, 7), &Device::Cpu).unwrap();
                compare(&params, &x, |pass, x| {
                    let all: Result<Vec<Tensor>> =
                        layers.iter().map(|layer| linear(pass, x, layer)).collect();
                    Ok(Tensor::cat(&all?, 1)?)
                });
            }
        }
    }
}
