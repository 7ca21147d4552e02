//! The processor and the precision that a run gets, and why not what it asked
//! for.

use candle_core::Device;
use finetuner_protocol::{Device as AskedDevice, Level};

use crate::{Precision, models::ModelKind};

/// The device that a run gets, and a warning where it isn't the one asked for.
/// `needs_cpu` says that a part of the model runs on the CPU alone.
#[must_use]
pub fn choose_device(
    asked: &AskedDevice,
    kind: ModelKind,
    needs_cpu: bool,
) -> (Device, Option<String>) {
    if *asked == AskedDevice::Cpu {
        return (Device::Cpu, None);
    }
    let on_cpu = |why: &str| {
        let warning = format!("the device `{asked}` was asked for, but {why}: training on the CPU");
        (Device::Cpu, Some(warning))
    };
    if matches!(kind, ModelKind::Image | ModelKind::PointCloud) || needs_cpu {
        return on_cpu(
            "convolutional networks, networks of point clouds and projection heads are trained on \
             the CPU in this version",
        );
    }
    match accelerator() {
        Some(device) => (device, None),
        None => on_cpu("this machine has none"),
    }
}

/// The precision that a run gets on a device, and what the log says where
/// another one than [`Precision::Float32`] was asked for.
#[must_use]
pub fn choose_precision(asked: Precision, device: &Device) -> (Precision, Option<(Level, String)>) {
    let instead = |why: &str| {
        let note = format!("`precision` is bfloat16, but {why}: training in float32");
        (Precision::Float32, Some((Level::Warning, note)))
    };
    match asked {
        Precision::Float32 => (asked, None),
        Precision::Bfloat16 if !device.is_cpu() => instead("that is for the CPU"),
        Precision::Bfloat16 if !asked.is_available() => {
            instead("this machine's CPU has no instructions for it (AMX or AVX-512 BF16)")
        }
        Precision::Bfloat16 => {
            let speed = asked.relative_speed();
            let note = format!("Products in bfloat16 are {speed:.2} times as fast as in float32");
            let note = if speed > 1.0 {
                (Level::Info, note)
            } else {
                let advice = "on this CPU: leave `precision` out, float32 is also more exact";
                (Level::Warning, format!("{note} {advice}"))
            };
            (asked, Some(note))
        }
    }
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
