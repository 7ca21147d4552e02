//! The memory that a training step needs: that of the process, or that of the
//! device which computes.

use candle_core::Device;

use super::{Memory, peak_of};

/// Where the tensors of a step are.
pub(crate) enum Room {
    /// In the memory of this process.
    Host(Memory),
    /// In that of a device.
    Device(Device),
}

impl Room {
    /// That of a device; `limit` is the most that this process may hold.
    pub(crate) fn of(device: &Device, limit: Option<u64>) -> Self {
        match device.is_cpu() {
            true => Self::Host(Memory::of_this_machine(limit)),
            false => Self::Device(device.clone()),
        }
    }

    /// Bytes that are taken, where that is known.
    pub(crate) fn held(&self) -> Option<u64> {
        match self {
            Self::Host(memory) => memory.held(),
            Self::Device(device) => {
                let (free, all) = of_device(device)?;
                Some(all.saturating_sub(free))
            }
        }
    }

    /// Bytes that a step may still take, where that is known.
    pub(crate) fn free(&self) -> Option<u64> {
        match self {
            Self::Host(memory) => memory.free(),
            Self::Device(device) => of_device(device).map(|(free, _)| free),
        }
    }

    /// The most bytes that were held while `work` ran, and what `work` gave.
    pub(crate) fn peak_of<T>(&self, work: impl FnOnce() -> T) -> (Option<u64>, T) {
        peak_of(|| self.held(), work)
    }

    /// The name of the memory, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Host(_) => "free memory",
            Self::Device(_) => "free memory of the GPU",
        }
    }
}

/// Bytes that are free on a device, and all that it has.
#[cfg(feature = "cuda")]
fn of_device(device: &Device) -> Option<(u64, u64)> {
    let device = device.as_cuda_device().ok()?;
    let (free, all) = device.cuda_stream().context().mem_get_info().ok()?;
    Some((free as u64, all as u64))
}

/// Other devices don't tell.
#[cfg(not(feature = "cuda"))]
fn of_device(_: &Device) -> Option<(u64, u64)> {
    None
}
