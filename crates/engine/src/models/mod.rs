//! The models that can be trained.

mod clip;

pub use clip::{Clip, ClipConfig, TextConfig, VisionConfig};
