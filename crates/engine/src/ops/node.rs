//! Composite operations with a way back written by hand: one node of the graph
//! for several of candle's primitive operations, on any device.
//!
//! candle's own graph keeps every intermediate result, and adds each gradient
//! to zeros first. A node keeps its inputs alone and makes the rest again on
//! the way back. Parameters live inside the operation, and their gradients are
//! added straight to theirs, as in fused operations.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Shape, Storage, Tensor,
    backend::BackendStorage,
};

use super::Pass;
use crate::Result;

/// The gradients of up to three inputs.
type Gradients = [Option<Tensor>; 3];

/// Puts the result `y` of an operation on `x` into the graph; `back` is given
/// the gradient of `y`. In a pass without training it is `y` itself.
pub(super) fn node(
    pass: &Pass,
    x: &Tensor,
    y: Tensor,
    back: impl Fn(&Tensor, bool) -> candle_core::Result<Option<Tensor>> + Send + Sync + 'static,
) -> Result<Tensor> {
    node_of(pass, [Some(x), None, None], y, move |g, [wanted, ..]| {
        Ok([back(g, wanted)?, None, None])
    })
}

/// The same for an operation on up to three inputs; `back` is told which
/// gradients are wanted.
pub(super) fn node_of(
    pass: &Pass,
    inputs: [Option<&Tensor>; 3],
    y: Tensor,
    back: impl Fn(&Tensor, [bool; 3]) -> candle_core::Result<Gradients> + Send + Sync + 'static,
) -> Result<Tensor> {
    let y = y.detach();
    if !pass.training {
        return Ok(y);
    }
    // The way into the graph copies the memory of `y` from its beginning.
    let y = match y.is_contiguous() && y.layout().start_offset() == 0 {
        true => y,
        false => y.force_contiguous()?,
    };
    let [a, b, c] = inputs.map(|input| input.unwrap_or(&pass.anchor));
    let node = Node {
        y: Mutex::new(Some(y)),
        back,
    };
    Ok(a.apply_op3(b, c, node)?)
}

struct Node<B> {
    /// The result, until it is in the graph.
    y: Mutex<Option<Tensor>>,
    back: B,
}

impl<B> Node<B> {
    fn give<S>(
        &self,
        of: impl FnOnce(&Storage, &Layout) -> candle_core::Result<S>,
    ) -> candle_core::Result<(S, Shape)> {
        let y = self.y.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(y) = y else {
            candle_core::bail!("a node goes forward once")
        };
        let (storage, layout) = y.storage_and_layout();
        Ok((of(&storage, layout)?, y.shape().clone()))
    }
}

impl<B> CustomOp3 for Node<B>
where
    B: Fn(&Tensor, [bool; 3]) -> candle_core::Result<Gradients> + Send + Sync,
{
    fn name(&self) -> &'static str {
        "node"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.give(|storage, layout| match storage {
            Storage::Cpu(storage) => storage.try_clone(layout),
            _ => candle_core::bail!("inputs on the CPU and a result elsewhere"),
        })
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.give(|storage, layout| match storage {
            Storage::Cuda(storage) => storage.try_clone(layout),
            _ => candle_core::bail!("inputs on a GPU and a result elsewhere"),
        })
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.give(|storage, layout| match storage {
            Storage::Metal(storage) => storage.try_clone(layout),
            _ => candle_core::bail!("inputs on a GPU and a result elsewhere"),
        })
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _result: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = [a, b, c].map(|x| x.track_op() && !x.is_variable());
        let [a, b, c] = (self.back)(&g.detach().contiguous()?, wanted)?;
        Ok((a, b, c))
    }
}
