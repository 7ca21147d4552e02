//! The models that can be trained.

mod clip;
mod clip_random;

pub use clip::{Clip, ClipConfig, TextConfig, VisionConfig};
