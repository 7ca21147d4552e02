//! The memory in which a training step runs: that of the process or of the GPU.

use candle_core::Device;

use super::{Memory, peak_of};

/// Location of a step's tensors.
pub(crate) enum StepMemory {
    /// Memory of this process.
    Host(Memory),
    /// Memory of a device.
    Device(Device),
}

impl StepMemory {
    /// Returns the memory of a device. `limit` applies to the process only.
    pub(crate) fn of(device: &Device, limit: Option<u64>) -> Self {
        match device.is_cpu() {
            true => Self::Host(Memory::of_this_machine(limit)),
            false => Self::Device(device.clone()),
        }
    }

    /// Returns the bytes in use, if known.
    pub(crate) fn held(&self) -> Option<u64> {
        match self {
            Self::Host(memory) => memory.held(),
            Self::Device(device) => {
                let (free, all) = of_device(device)?;
                Some(all.saturating_sub(free))
            }
        }
    }

    /// Returns the bytes that a step may still allocate, if known.
    pub(crate) fn free(&self) -> Option<u64> {
        match self {
            Self::Host(memory) => memory.free(),
            Self::Device(device) => of_device(device).map(|(free, _)| free),
        }
    }

    /// Runs `work`. Returns the peak of the bytes in use, and the result of `work`.
    pub(crate) fn peak_of<T>(&self, work: impl FnOnce() -> T) -> (Option<u64>, T) {
        peak_of(|| self.held(), work)
    }

    /// Returns a name for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Host(_) => "free memory",
            Self::Device(_) => "free memory of the GPU",
        }
    }
}

/// Returns the free and the total bytes of a device.
#[cfg(feature = "cuda")]
fn of_device(device: &Device) -> Option<(u64, u64)> {
    let device = device.as_cuda_device().ok()?;
    let (free, all) = device.cuda_stream().context().mem_get_info().ok()?;
    Some((free as u64, all as u64))
}

/// Only CUDA devices report their memory.
#[cfg(not(feature = "cuda"))]
fn of_device(_: &Device) -> Option<(u64, u64)> {
    None
}
