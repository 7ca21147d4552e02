//! Nodes: composite operations with hand-written backward passes, which replace
//! several of candle's primitive operations by one node of the graph, on any
//! device.
//!
//! candle's own graph keeps every intermediate result, and adds each gradient
//! to zeros first. A node keeps only its inputs and recomputes the rest in the
//! backward pass. It holds its parameters and accumulates their gradients
//! directly, like fused operations.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Shape, Storage, Tensor,
    backend::BackendStorage,
};

use super::Pass;
use crate::Result;

/// Gradients of up to three inputs.
type Gradients = [Option<Tensor>; 3];

/// Adds the output `y` of an operation on `x` to the graph. `back` computes the
/// input's gradient from that of `y`. Without training it returns `y` itself.
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

/// Like [`node`], for up to three inputs. `back` gets a flag for each input: whether its
/// gradient is needed.
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
    // candle copies the memory of `y` from its beginning.
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
    /// The output, until it is in the graph.
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
            candle_core::bail!("the forward pass of a node runs once")
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
            _ => candle_core::bail!("inputs are on the CPU, the output is not"),
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
            _ => candle_core::bail!("inputs are on a GPU, the output is not"),
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
            _ => candle_core::bail!("inputs are on a GPU, the output is not"),
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
