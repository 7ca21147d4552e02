//! Selection of the device and the precision of a run, with reasons if they
//! differ from the request.

use candle_core::Device;
use finetuner_protocol::{Device as AskedDevice, Level};

use crate::Precision;

/// Returns the device of a run, and a warning if it differs from the requested
/// one.
#[must_use]
pub fn choose_device(asked: &AskedDevice) -> (Device, Option<String>) {
    if *asked == AskedDevice::Cpu {
        return (Device::Cpu, None);
    }
    match accelerator() {
        Some(device) => (device, None),
        None => {
            let warning = format!(
                "the run requests the device `{asked}`, but this machine has none: training on the CPU"
            );
            (Device::Cpu, Some(warning))
        }
    }
}

/// Returns the precision of a run on a device, and a log entry if the request
/// is not [`Precision::Float32`].
#[must_use]
pub fn choose_precision(asked: Precision, device: &Device) -> (Precision, Option<(Level, String)>) {
    let instead = |why: &str| {
        let name = asked.name();
        let note = format!("`precision` is {name}, but {why}: training in float32");
        (Precision::Float32, Some((Level::Warning, note)))
    };
    match asked {
        Precision::Float32 => (asked, None),
        Precision::Tf32 if !device.is_cuda() => instead("tf32 is only for NVIDIA GPUs"),
        _ if !device.is_cpu() => {
            let name = asked.name();
            let note = format!("Matrix products of layers use {name}, everything else float32");
            (asked, Some((Level::Info, note)))
        }
        _ if !asked.is_available() => {
            instead("this machine's CPU has no instructions for it (AMX or AVX-512 BF16)")
        }
        Precision::Bfloat16 | Precision::Tf32 => {
            let speed = asked.relative_speed();
            let note =
                format!("Matrix products in bfloat16 are {speed:.2} times as fast as in float32");
            let note = if speed > 1.0 {
                (Level::Info, note)
            } else {
                let advice = "on this CPU: omit `precision`, since float32 is also more exact";
                (Level::Warning, format!("{note} {advice}"))
            };
            (asked, Some(note))
        }
    }
}

/// Returns a warning if a GPU setting has no effect on the CPU.
#[must_use]
pub(crate) fn check_checkpointing(asked: bool, device: &Device) -> Option<(Level, String)> {
    (asked && device.is_cpu()).then(|| {
        let note = "`gradient_checkpointing` has no effect on the CPU, where blocks save only \
                    what is expensive to recompute";
        (Level::Warning, note.to_owned())
    })
}

fn accelerator() -> Option<Device> {
    if cfg!(feature = "cuda") {
        Device::new_cuda(0).ok()
    } else if cfg!(feature = "metal") {
        Device::new_metal(0).ok()
    } else {
        None
    }
}
