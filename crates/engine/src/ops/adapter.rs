//! A low-rank addition to a linear layer (LoRA; Hu et al. 2021,
//! arXiv:2106.09685): `y = x Wᵀ + b + scale * (x Aᵀ) Bᵀ`.
//!
//! Training works on the two small factors, so that the layer's own weight needs
//! neither a gradient nor a state of the optimizer. Inference multiplies with
//! the sum of both.

use std::sync::Arc;

use candle_core::Tensor;

use super::{Linear, Pass, floats, with_grad};
use crate::{
    Result,
    kernels::{
        gemm::{Factor, Mat, MatMut, Threads, matmul},
        pool::{Buffer, Pool},
    },
    params::{FactorKey, Param, Params},
};

/// The ending of the first factor's name, after the layer's.
pub(crate) const A: &str = ".lora_A.weight";
/// The ending of the second factor's name.
pub(crate) const B: &str = ".lora_B.weight";

/// The low-rank addition to one layer.
#[derive(Clone)]
pub(crate) struct Adapter {
    /// `[rank, inputs]`
    a: Arc<Param>,
    /// `[rows of the layer's tensor, rank]`
    b: Arc<Param>,
    rank: usize,
    scale: f32,
}

impl Adapter {
    /// Takes `{name}.lora_A.weight` and `{name}.lora_B.weight`, if the layer has
    /// them.
    pub(super) fn load(
        params: &Params,
        name: &str,
        inputs: usize,
        rows: usize,
    ) -> Result<Option<Self>> {
        let Some(scale) = params.adapter_scale() else {
            return Ok(None);
        };
        let Some(rank) = params.rows(&format!("{name}{A}")) else {
            return Ok(None);
        };
        Ok(Some(Self {
            a: params.get(&format!("{name}{A}"), &[rank, inputs])?,
            b: params.get(&format!("{name}{B}"), &[rows, rank])?,
            rank,
            scale,
        }))
    }

    /// The first factor's product with the rows of `x`, `[rows, rank]`.
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

    /// The elements of the second factor that are the layer's.
    fn own(&self, layer: &Linear) -> std::ops::Range<usize> {
        let start = layer.first * self.rank;
        start..start + layer.outputs * self.rank
    }

    /// Adds the adapter's part of the output to `y`.
    pub(super) fn forward(
        &self,
        layer: &Linear,
        pool: &Pool,
        x: &[f32],
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let h = self.reduce(pool, x, layer.inputs)?;
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

    /// The gradient of the first factor's product.
    fn reduced_gradient(
        &self,
        layer: &Linear,
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

    /// Adds the gradients of both factors to theirs.
    pub(super) fn backward_params(
        &self,
        layer: &Linear,
        pool: &Pool,
        x: &[f32],
        g: &[f32],
    ) -> candle_core::Result<()> {
        let rows = x.len() / layer.inputs;
        let h = self.reduce(pool, x, layer.inputs)?;
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
        let dh = self.reduced_gradient(layer, pool, g)?;
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

    /// Adds the adapter's part of the input's gradient to `dx`.
    pub(super) fn backward_input(
        &self,
        layer: &Linear,
        pool: &Pool,
        g: &[f32],
        dx: &mut [f32],
    ) -> candle_core::Result<()> {
        let rows = g.len() / layer.outputs;
        let dh = self.reduced_gradient(layer, pool, g)?;
        let a = floats(self.a.tensor())?;
        matmul(
            MatMut::new(dx, rows, layer.inputs),
            Mat::new(&dh, rows, self.rank),
            Mat::new(&a, self.rank, layer.inputs),
            1.0,
            true,
            Threads::All,
        );
        Ok(())
    }

    /// The layer's weight with the adapter's part added, as inference
    /// multiplies with it.
    pub(super) fn factor(&self, layer: &Linear, key: FactorKey) -> Result<Arc<Factor>> {
        // Every change of the first factor comes with one of the second, whose
        // cache it is.
        self.b.factor(key, |b| {
            let weight = layer.weight.to_vec()?;
            let mut own = weight[layer.own()].to_vec();
            let a = self.a.to_vec()?;
            add_product(&mut own, &a, &b[self.own(layer)], self.rank, self.scale);
            Ok(Factor::new(&own, layer.inputs, key.int8))
        })
    }

    /// The same addition from candle's operations.
    pub(super) fn composite(&self, pass: &Pass, layer: &Linear, x: &Tensor) -> Result<Tensor> {
        let b = pass.value(&self.b).narrow(0, layer.first, layer.outputs)?;
        let h = x.broadcast_matmul(&pass.value(&self.a).t()?)?;
        Ok((h.broadcast_matmul(&b.t()?)? * f64::from(self.scale))?)
    }
}

/// `weight += scale * b a`, with `a` of `rank` rows.
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
