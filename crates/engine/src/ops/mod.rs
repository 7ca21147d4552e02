//! Differentiable operations, of which models are built.
//!
//! Each has two forms. The *fused* form runs on the CPU: one node of the graph
//! instead of dozens, with a hand-written backward pass, on all threads, with
//! pooled buffers. It holds its parameters and adds their gradients directly to
//! [`Param::grad`], except for frozen ones.
//!
//! The *composite* form consists of candle's primitive operations and runs on
//! any device. Tests compare the fused form with it. Its expensive parts are
//! nodes of their own (`node`) with hand-written backward passes. Gradients of
//! parameters stay in the device's memory.

mod activation;
mod adapter;
mod attention;
mod attention_pool;
mod attention_tensors;
mod batch_norm;
mod block;
mod block_finish;
mod block_fused;
mod block_inference;
mod block_params;
mod block_state;
mod buckets;
mod cloud;
mod conv;
mod conv_layers;
mod conv_maps;
mod conv_pool;
mod conv_tensors;
mod dropout;
mod embeddings;
mod largest;
mod layer_norm;
mod linear;
mod loss;
mod map_rows;
mod node;
mod patches;
mod pool;
mod position;
mod rows;
mod segments;
mod step;
mod tensors;

use std::{ops::Deref, sync::Arc};

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Storage, StorageRef, Tensor, Var,
};

pub(crate) use activation::Activation;
pub(crate) use adapter::{A as ADAPTER_A, B as ADAPTER_B, add_product};
pub(crate) use attention::{Attention, AttentionConfig};
pub(crate) use attention_pool::AttentionPool;
pub(crate) use batch_norm::BatchNorm;
pub(crate) use block::{run_blocks, run_blocks_from};
pub(crate) use block_finish::Finish;
pub(crate) use block_params::{
    BERT_BLOCK, Block, BlockForm, BlockLayers, BlockNames, BlockParams, CLIP_BLOCK,
    DISTILBERT_BLOCK, FinishNames, LayerName,
};
pub(crate) use cloud::{Groups, Point, ball, farthest_points, group, max_of_groups, nearest};
pub(crate) use conv::{ConvKind, ConvNorm, Padding, Shortcut};
pub(crate) use conv_layers::run_layers;
pub(crate) use conv_maps::FeatureMaps;
pub(crate) use conv_pool::{max_pool, scale_channels};
pub(crate) use dropout::{BlockRates, Draws, Site, dropout, dropout_examples};
pub(crate) use embeddings::{Positions, TokenTables, token_embeddings};
pub(crate) use layer_norm::{LayerNorm, NormKind, layer_norm};
pub(crate) use linear::{Linear, linear};
pub(crate) use loss::{SHORTEST, cross_entropy_of_diagonal, normalize};
pub(crate) use patches::{PatchDims, PatchLayers, patch_embeddings};
pub(crate) use pool::pool;
pub use pool::{Concat, Pooler};
pub(crate) use position::{PositionBias, Rotary};
pub(crate) use segments::Segments;
pub(crate) use step::Step;

use crate::{
    Result,
    kernels::{gemm::Precision, pool::Pool},
    params::{Param, Params},
};

/// One forward pass of a model: the settings and buffers that its operations
/// share.
#[derive(Clone)]
pub struct Pass {
    /// candle keeps an operation in its graph only if one of its arguments is a
    /// variable. Fused operations hold their parameters themselves, so in
    /// training this variable represents them.
    anchor: Tensor,
    pool: Pool,
    kernels: Kernels,
    precision: Precision,
    int8: bool,
    training: bool,
    /// Source of dropout masks, in training with dropout.
    draws: Option<Draws>,
    /// Source of the dropout masks of adapters.
    adapters: Option<Draws>,
    /// Whether composite blocks use gradient checkpointing.
    checkpointing: bool,
}

/// Settings of a pass without gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inference {
    /// Whether products round their factors to 8 bits.
    pub(crate) int8: bool,
}

/// The form of operations that a pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Hand-written operations, on the CPU.
    Fused,
    /// candle's primitive operations, on any device.
    Composite,
}

/// Buffers and settings of a model, from which passes are created.
#[derive(Clone)]
pub(crate) struct Runtime {
    pool: Pool,
    anchor: Var,
    pub(crate) kernels: Kernels,
    /// Precision of matrix products in training.
    pub(crate) precision: Precision,
    /// Whether composite blocks use gradient checkpointing in training.
    pub(crate) checkpointing: bool,
}

impl Runtime {
    pub(crate) fn new(params: &Params) -> Result<Self> {
        Ok(Self {
            pool: Pool::default(),
            anchor: Var::zeros(1, candle_core::DType::F32, params.device())?,
            kernels: if params.device().is_cpu() {
                Kernels::Fused
            } else {
                Kernels::Composite
            },
            precision: Precision::Float32,
            checkpointing: false,
        })
    }

    /// Returns a pass that [`Params::backward`] can differentiate.
    pub(crate) fn training(&self) -> Pass {
        self.pass(true)
    }

    /// Returns a pass that saves nothing for gradients.
    pub(crate) fn inference(&self) -> Pass {
        self.pass(false)
    }

    fn pass(&self, training: bool) -> Pass {
        Pass {
            anchor: if training {
                self.anchor.as_tensor().clone()
            } else {
                self.anchor.as_detached_tensor()
            },
            pool: self.pool.clone(),
            kernels: self.kernels,
            precision: if training {
                self.precision
            } else {
                Precision::Float32
            },
            int8: false,
            training,
            draws: None,
            adapters: None,
            checkpointing: self.checkpointing,
        }
    }
}

impl Pass {
    /// Sets whether products round their factors to 8 bits. Only fused
    /// operations in inference do so.
    #[must_use]
    pub fn with_int8(self, int8: bool) -> Self {
        Self { int8, ..self }
    }

    /// Enables dropout in a training pass.
    #[must_use]
    pub(crate) fn with_draws(self, draws: Option<Draws>) -> Self {
        let draws = draws.filter(|_| self.training);
        Self { draws, ..self }
    }

    /// Enables dropout of adapter inputs in a training pass.
    #[must_use]
    pub(crate) fn with_adapter_draws(self, draws: Option<Draws>) -> Self {
        let adapters = draws.filter(|_| self.training);
        Self { adapters, ..self }
    }

    /// Returns whether dropout is enabled.
    pub(crate) fn has_draws(&self) -> bool {
        self.draws.is_some()
    }

    fn draws(&self) -> Option<Draws> {
        self.draws
    }

    /// Returns the pass for the block `number` of a network.
    fn in_block(&self, number: usize) -> Self {
        let draws = self.draws.map(|draws| draws.within(number as u64));
        Self {
            draws,
            ..self.clone()
        }
    }

    /// Returns a pass with the same precision and dropout that saves nothing
    /// for gradients.
    fn without_graph(&self) -> Self {
        Self {
            training: false,
            ..self.clone()
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the inference settings, unless the pass is for training.
    pub(crate) fn inference(&self) -> Option<Inference> {
        (!self.training).then_some(Inference { int8: self.int8 })
    }

    pub(crate) fn is_fused(&self) -> bool {
        self.kernels == Kernels::Fused
    }

    /// Returns a parameter's tensor for composite operations, detached if it
    /// needs no gradient.
    pub(crate) fn value(&self, param: &Param) -> Tensor {
        if self.training && param.is_trainable() {
            param.tensor().clone()
        } else {
            param.tensor().detach()
        }
    }

    /// Runs a fused operation on `x`.
    pub(crate) fn apply<O: FusedOp>(&self, x: &Tensor, op: O) -> Result<Tensor> {
        let x = x.contiguous()?;
        Ok(if self.training {
            x.apply_op2(&self.anchor, Fused(op))?
        } else {
            x.apply_op2_no_bwd(&self.anchor, &Fused(op))?
        })
    }

    /// Runs an operation on `x` and an optional second input.
    pub(crate) fn apply3<O: CustomOp3 + Send + Sync + 'static>(
        &self,
        x: &Tensor,
        second: Option<&Tensor>,
        op: O,
    ) -> Result<Tensor> {
        let x = x.contiguous()?;
        let second = second.unwrap_or(&self.anchor).contiguous()?;
        Ok(if self.training {
            x.apply_op3(&second, &self.anchor, op)?
        } else {
            x.apply_op3_no_bwd(&second, &self.anchor, &op)?
        })
    }

    /// Runs a fused operation that holds its own input.
    pub(crate) fn apply_source<O: FusedOp>(&self, op: O) -> Result<Tensor> {
        self.apply(&self.anchor, op)
    }
}

/// A CPU operation on one activation, which holds its parameters.
pub(crate) trait FusedOp: Send + Sync + 'static {
    const NAME: &'static str;

    /// Returns the output and its shape.
    fn forward(&self, x: &[f32], shape: &[usize]) -> candle_core::Result<(Vec<f32>, Vec<usize>)>;

    /// Accumulates the gradients of trainable parameters, and returns that of
    /// `x` if `wanted`.
    fn backward(
        &self,
        x: &[f32],
        shape: &[usize],
        g: &[f32],
        wanted: bool,
    ) -> candle_core::Result<Option<Vec<f32>>>;
}

/// Adapts a [`FusedOp`] to candle.
struct Fused<O>(O);

impl<O: FusedOp> CustomOp2 for Fused<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _anchor: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (out, shape) = self.0.forward(argument(x, layout)?, layout.dims())?;
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _anchor: &Tensor,
        _result: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let wanted = x.track_op() && !x.is_variable();
        let dx = self
            .0
            .backward(&floats(x)?, x.dims(), &floats(&g)?, wanted)?;
        let dx = dx
            .map(|dx| Tensor::from_vec(dx, x.shape(), x.device()))
            .transpose()?;
        Ok((dx, None))
    }
}

/// Returns the elements of an operation's argument.
pub(crate) fn argument<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => candle_core::bail!("expected a contiguous f32 tensor on the CPU"),
    }
}

/// Read access to the elements of a contiguous f32 tensor on the CPU.
pub(crate) struct Floats<'a> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
}

pub(crate) fn floats(tensor: &Tensor) -> candle_core::Result<Floats<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Floats {
            storage,
            start,
            end,
        }),
        _ => candle_core::bail!("expected a contiguous f32 tensor on the CPU"),
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.start..self.end],
            // `floats` accepts no other storage.
            _ => &[],
        }
    }
}

/// Runs `add` on a parameter's gradient, unless the parameter is frozen.
pub(crate) fn with_grad(param: &Arc<Param>, add: impl FnOnce(&mut [f32])) {
    if let Some(mut grad) = param.grad() {
        add(&mut grad);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Comparison of fused and composite forms.

    use std::collections::HashMap;

    use candle_core::Device;

    use super::*;

    /// Returns pseudorandom numbers, the same in every run.
    pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
            })
            .collect()
    }

    pub(crate) fn params(shapes: &[(&str, &[usize])], frozen: &[&str]) -> Params {
        let tensors: HashMap<_, _> = shapes
            .iter()
            .enumerate()
            .map(|(i, (name, shape))| {
                let n = shape.iter().product();
                let data = noise(i as u64 + 1, n).iter().map(|x| x * 0.4).collect();
                (name.to_string(), (shape.to_vec(), data))
            })
            .collect();
        Params::new(tensors, &Device::Cpu, |name| !frozen.contains(&name)).unwrap()
    }

    pub(crate) fn close(a: &[f32], b: &[f32], what: &str) {
        assert_eq!(a.len(), b.len(), "{what}");
        let scale = b.iter().fold(0.1f32, |m, x| m.max(x.abs()));
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            assert!((x - y).abs() <= 2e-5 * scale, "{what}[{i}]: {x} and {y}");
        }
    }

    /// Compares values, input gradients and parameter gradients of both forms
    /// of `op`.
    pub(crate) fn compare(
        params: &Params,
        x: &Tensor,
        op: impl Fn(&Pass, &Tensor) -> Result<Tensor>,
    ) {
        compare_with(params, x, None, op);
    }

    /// The same, with dropout by `draws`.
    pub(crate) fn compare_with(
        params: &Params,
        x: &Tensor,
        draws: Option<Draws>,
        op: impl Fn(&Pass, &Tensor) -> Result<Tensor>,
    ) {
        let mut runtime = Runtime::new(params).unwrap();
        let mut seen = Vec::new();
        for kernels in [Kernels::Fused, Kernels::Composite] {
            runtime.kernels = kernels;
            params.zero_grad();
            let x = Var::from_tensor(x).unwrap();
            // A preceding operation, so that the input is tracked as in a
            // model.
            let input = (x.as_tensor() * 1.0).unwrap();
            let y = op(&runtime.training().with_draws(draws), &input).unwrap();
            let still = op(&runtime.inference().with_draws(draws), &input.detach()).unwrap();
            assert!(!still.track_op());
            let weights =
                Tensor::from_vec(noise(99, y.elem_count()), y.shape(), y.device()).unwrap();
            let loss = (&y * weights).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            params.collect(&grads).unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            if draws.is_none() {
                close(&flat(&still), &flat(&y), "inference");
            }
            seen.push((
                flat(&y),
                grads.get(&x).map(flat).unwrap_or_default(),
                params
                    .iter()
                    .map(|p| p.grad().map(|g| g.clone()).unwrap_or_default())
                    .collect::<Vec<_>>(),
            ));
        }
        close(&seen[0].0, &seen[1].0, "value");
        close(&seen[0].1, &seen[1].1, "input gradient");
        for (i, param) in params.iter().enumerate() {
            close(&seen[0].2[i], &seen[1].2[i], param.name());
            assert!(
                !param.is_trainable() || seen[0].2[i].iter().any(|g| *g != 0.0),
                "no gradient: {}",
                param.name()
            );
        }
    }
}
