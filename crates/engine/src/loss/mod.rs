//! Losses: what training makes smaller.

mod clip;

pub use clip::{MAX_LOGIT_SCALE, clip_loss};
