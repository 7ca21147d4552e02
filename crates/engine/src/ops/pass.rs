//! A forward pass of a model, and the settings from which passes are created.

use candle_core::{CustomOp3, Tensor, Var};

use super::{
    draws::Draws,
    fused::{Fused, FusedOp},
};
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
    pub(super) anchor: Tensor,
    pub(super) pool: Pool,
    pub(super) kernels: Kernels,
    pub(super) precision: Precision,
    pub(super) int8: bool,
    pub(super) training: bool,
    /// Source of dropout masks, in training with dropout.
    pub(super) draws: Option<Draws>,
    /// Source of the dropout masks of adapters.
    pub(super) adapters: Option<Draws>,
    /// Whether composite blocks use gradient checkpointing.
    pub(super) checkpointing: bool,
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

    pub(super) fn draws(&self) -> Option<Draws> {
        self.draws
    }

    /// Returns the pass for the block `number` of a network.
    pub(super) fn in_block(&self, number: usize) -> Self {
        let draws = self.draws.map(|draws| draws.within(number as u64));
        Self {
            draws,
            ..self.clone()
        }
    }

    /// Returns a pass with the same precision and dropout that saves nothing
    /// for gradients.
    pub(super) fn without_graph(&self) -> Self {
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
