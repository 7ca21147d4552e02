//! Adapts operations on slices to candle.

use std::{ops::Deref, sync::Arc};

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Storage, StorageRef, Tensor};

use crate::params::Param;

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
pub(super) struct Fused<O>(pub(super) O);

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
