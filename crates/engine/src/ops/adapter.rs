//! Low-rank adapters of linear layers (LoRA; Hu et al. 2021, arXiv:2106.09685):
//! `y = x Wᵀ + b + scale * (dropout(x) Aᵀ) Bᵀ`.
//!
//! Training updates only the two small factors, so the layer's weight needs
//! neither a gradient nor optimizer state. Inference multiplies with the merged
//! weight.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    Pass, Step,
    dropout::{Masks, apply_masks},
    floats,
    map_rows::{Rows, map_rows},
    with_grad,
};
use crate::{
    Result,
    kernels::{
        gemm::{Factor, Mat, MatMut, Precision, Threads, matmul},
        pool::{Buffer, Pool},
        simd,
    },
    params::{AdapterForm, FactorKey, Param, Params},
};

/// Suffix of the first factor's name, after the layer's name.
pub(crate) const A: &str = ".lora_A.weight";
/// Suffix of the second factor's name.
pub(crate) const B: &str = ".lora_B.weight";

/// The sizes of an adapted layer.
#[derive(Clone, Copy)]
pub(super) struct LayerDims {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// First row of the weight tensor that the layer uses.
    pub(super) first: usize,
}

/// A low-rank adapter of one layer.
#[derive(Clone)]
pub(crate) struct Adapter {
    /// `[rank, inputs]`
    a: Arc<Param>,
    /// `[rows of the layer's weight tensor, rank]`
    b: Arc<Param>,
    rank: usize,
    scale: f32,
    /// Dropout rate of the adapter's input.
    dropped: f32,
    /// Hash of the factor's name, which selects the dropout mask.
    site: u64,
}

impl Adapter {
    /// Loads `{name}.lora_A.weight` and `{name}.lora_B.weight`, if the layer
    /// has them.
    pub(super) fn load(
        params: &Params,
        name: &str,
        inputs: usize,
        rows: usize,
    ) -> Result<Option<Self>> {
        let Some(AdapterForm { scale, dropped }) = params.adapter_form() else {
            return Ok(None);
        };
        let Some(rank) = params.rows(&format!("{name}{A}")) else {
            return Ok(None);
        };
        let a = params.get(&format!("{name}{A}"), &[rank, inputs])?;
        Ok(Some(Self {
            site: site(a.name()),
            a,
            b: params.get(&format!("{name}{B}"), &[rows, rank])?,
            rank,
            scale,
            dropped,
        }))
    }

    /// Returns the dropout masks of this training step, if it has dropout.
    fn masks(&self, step: &Step<'_>) -> Option<Masks> {
        step.adapters
            .and_then(|draws| Masks::of(draws, self.site, self.dropped))
    }

    /// Applies dropout to rows of `width` elements, or to their gradient. Rows
    /// are numbered over the whole pass.
    fn drop(masks: &Masks, x: &mut [f32], width: usize) {
        let rows: Vec<(usize, usize)> = (0..x.len() / width).map(|row| (0, row)).collect();
        masks.apply_rows(&rows, width, x);
    }

    /// Returns the adapter's input, if dropout makes it differ from the
    /// layer's.
    fn dropped(&self, step: &Step<'_>, x: &[f32], width: usize) -> Option<Buffer> {
        let masks = self.masks(step)?;
        let mut dropped = step.pool.take(x.len());
        dropped.copy_from_slice(x);
        Self::drop(&masks, &mut dropped, width);
        Some(dropped)
    }

    /// Multiplies the rows of `x` with the first factor, to `[rows, rank]`.
    fn reduce(&self, pool: &Pool, x: &[f32], inputs: usize) -> candle_core::Result<Buffer> {
        let rows = x.len() / inputs;
        let mut h = pool.take(rows * self.rank);
        let a = floats(self.a.tensor())?;
        matmul(
            MatMut::new(&mut h, rows, self.rank),
            Mat::new(x, rows, inputs),
            Mat::new(&a, self.rank, inputs).t(),
            1.0,
            false,
            Threads::All,
        );
        Ok(h)
    }

    /// Returns the range of the second factor that belongs to the layer.
    fn own(&self, layer: LayerDims) -> std::ops::Range<usize> {
        let start = layer.first * self.rank;
        start..start + layer.outputs * self.rank
    }

    /// Adds the adapter's output to `y`.
    pub(super) fn forward(
        &self,
        layer: LayerDims,
        step: &Step<'_>,
        x: &[f32],
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let dropped = self.dropped(step, x, layer.inputs);
        let h = self.reduce(step.pool, dropped.as_deref().unwrap_or(x), layer.inputs)?;
        let rows = x.len() / layer.inputs;
        let b = floats(self.b.tensor())?;
        matmul(
            MatMut::new(y, rows, layer.outputs),
            Mat::new(&h, rows, self.rank),
            Mat::new(&b[self.own(layer)], layer.outputs, self.rank).t(),
            self.scale,
            true,
            Threads::All,
        );
        Ok(())
    }

    /// Returns the gradient of the first factor's output.
    fn reduced_gradient(
        &self,
        layer: LayerDims,
        pool: &Pool,
        g: &[f32],
    ) -> candle_core::Result<Buffer> {
        let rows = g.len() / layer.outputs;
        let mut dh = pool.take(rows * self.rank);
        let b = floats(self.b.tensor())?;
        matmul(
            MatMut::new(&mut dh, rows, self.rank),
            Mat::new(g, rows, layer.outputs),
            Mat::new(&b[self.own(layer)], layer.outputs, self.rank),
            self.scale,
            false,
            Threads::All,
        );
        Ok(dh)
    }

    /// Accumulates the gradients of both factors.
    pub(super) fn backward_params(
        &self,
        layer: LayerDims,
        step: &Step<'_>,
        x: &[f32],
        g: &[f32],
    ) -> candle_core::Result<()> {
        let rows = x.len() / layer.inputs;
        let dropped = self.dropped(step, x, layer.inputs);
        let x = dropped.as_deref().unwrap_or(x);
        let h = self.reduce(step.pool, x, layer.inputs)?;
        with_grad(&self.b, |grad| {
            matmul(
                MatMut::new(&mut grad[self.own(layer)], layer.outputs, self.rank),
                Mat::new(g, rows, layer.outputs).t(),
                Mat::new(&h, rows, self.rank),
                self.scale,
                true,
                Threads::All,
            );
        });
        let dh = self.reduced_gradient(layer, step.pool, g)?;
        with_grad(&self.a, |grad| {
            matmul(
                MatMut::new(grad, self.rank, layer.inputs),
                Mat::new(&dh, rows, self.rank).t(),
                Mat::new(x, rows, layer.inputs),
                1.0,
                true,
                Threads::All,
            );
        });
        Ok(())
    }

    /// Adds the adapter's part of the input gradient to `dx`.
    pub(super) fn backward_input(
        &self,
        layer: LayerDims,
        step: &Step<'_>,
        g: &[f32],
        dx: &mut [f32],
    ) -> candle_core::Result<()> {
        let rows = g.len() / layer.outputs;
        let dh = self.reduced_gradient(layer, step.pool, g)?;
        let a = floats(self.a.tensor())?;
        let add = |dx: &mut [f32], accumulate| {
            matmul(
                MatMut::new(dx, rows, layer.inputs),
                Mat::new(&dh, rows, self.rank),
                Mat::new(&a, self.rank, layer.inputs),
                1.0,
                accumulate,
                Threads::All,
            );
        };
        match self.masks(step) {
            None => add(dx, true),
            Some(masks) => {
                let mut own = step.pool.take(dx.len());
                add(&mut own, false);
                Self::drop(&masks, &mut own, layer.inputs);
                simd::add_assign(dx, &own);
            }
        }
        Ok(())
    }

    /// Returns the merged weight of layer and adapter, packed for inference.
    /// `weight` returns that of the layer.
    pub(super) fn factor(
        &self,
        layer: LayerDims,
        key: FactorKey,
        weight: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Arc<Factor>> {
        // The second factor holds the cache: it changes whenever the first one
        // does.
        self.b.factor(key, |b| {
            let mut own = weight()?;
            let a = self.a.to_vec()?;
            add_product(&mut own, &a, &b[self.own(layer)], self.rank, self.scale);
            Ok(Factor::new(&own, layer.inputs, key.int8))
        })
    }

    /// Computes the adapter's output on any device.
    pub(super) fn composite(&self, pass: &Pass, layer: LayerDims, x: &Tensor) -> Result<Tensor> {
        let masks = pass
            .adapters
            .and_then(|draws| Masks::of(draws, self.site, self.dropped));
        let dropped = match masks {
            Some(masks) => {
                let shape = x.shape().clone();
                let x = x.reshape((x.elem_count() / layer.inputs, layer.inputs))?;
                let rows: Vec<_> = (0..x.dim(0)?).map(|row| (0, row)).collect();
                Some(apply_masks(&x, &masks, &rows)?.reshape(shape)?)
            }
            None => None,
        };
        let x = dropped.as_ref().unwrap_or(x);
        // The factors are not rounded to the pass's precision, as in the fused
        // form.
        let pass = &Pass {
            precision: Precision::Float32,
            ..pass.clone()
        };
        let h = map_rows(pass, x, Rows::all(&self.a), None, self.rank)?;
        let b = Rows {
            param: &self.b,
            first: layer.first,
        };
        let y = map_rows(pass, &h, b, None, layer.outputs)?;
        Ok((y * f64::from(self.scale))?)
    }
}

/// Hashes a name with FNV-1a, which is the same on all platforms.
fn site(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Computes `weight += scale * b a`, with `a` of `rank` rows.
pub(crate) fn add_product(weight: &mut [f32], a: &[f32], b: &[f32], rank: usize, scale: f32) {
    let (rows, inputs) = (b.len() / rank, a.len() / rank);
    matmul(
        MatMut::new(weight, rows, inputs),
        Mat::new(b, rows, rank),
        Mat::new(a, rank, inputs),
        scale,
        true,
        Threads::All,
    );
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::ops::{
        Draws, Linear, linear,
        testing::{compare, compare_with, noise, params},
    };

    /// Three layers that share one tensor, with an adapter.
    fn adapted(dropped: f32) -> (Params, [Linear; 3]) {
        let shapes: [(&str, &[usize]); 4] = [
            ("l.weight", &[33, 7]),
            ("l.bias", &[33]),
            ("l.lora_A.weight", &[3, 7]),
            ("l.lora_B.weight", &[33, 3]),
        ];
        let form = AdapterForm {
            scale: 1.5,
            dropped,
        };
        let params = params(&shapes, &["l.weight", "l.bias"]);
        let params = params.with_adapters([], form).unwrap();
        let part = |part| Linear::load_part(&params, "l", 7, 11, true, (part, 3)).unwrap();
        let layers = [part(0), part(1), part(2)];
        (params, layers)
    }

    fn input(rows: usize) -> Tensor {
        Tensor::from_vec(noise(3, rows * 7), (rows, 7), &Device::Cpu).unwrap()
    }

    fn all(pass: &Pass, x: &Tensor, layers: &[Linear]) -> Result<Tensor> {
        let all: Result<Vec<Tensor>> = layers.iter().map(|layer| linear(pass, x, layer)).collect();
        Ok(Tensor::cat(&all?, 1)?)
    }

    #[test]
    fn fused_equals_composite_for_adapters_of_layers_in_one_tensor() {
        let (params, layers) = adapted(0.0);
        for rows in [9, 70] {
            compare(&params, &input(rows), |pass, x| all(pass, x, &layers));
        }
    }

    #[test]
    fn fused_equals_composite_for_adapters_with_dropout() {
        let (params, layers) = adapted(0.4);
        let draws = Some(Draws::new(7, 3, 0));
        compare_with(&params, &input(9), draws, |pass, x| {
            all(&pass.clone().with_adapter_draws(draws), x, &layers)
        });
    }

    #[test]
    fn dropped_elements_follow_from_the_batch_and_keep_the_mean() {
        let (_, layers) = adapted(0.5);
        let x = vec![1.0; 700];
        let dropped = |batch| {
            let pool = Pool::default();
            let step = Step {
                precision: crate::Precision::Float32,
                pool: &pool,
                adapters: Some(Draws::new(7, batch, 0)),
            };
            let adapter = layers[0].adapter.as_ref().unwrap();
            adapter.dropped(&step, &x, 7).unwrap().to_vec()
        };
        let first = dropped(0);
        assert_eq!(first, dropped(0));
        assert_ne!(first, dropped(1));
        assert!(first.iter().all(|x| *x == 0.0 || *x == 2.0));
        let mean = first.iter().sum::<f32>() / 700.0;
        assert!((mean - 1.0).abs() < 0.15, "{mean}");
    }
}
