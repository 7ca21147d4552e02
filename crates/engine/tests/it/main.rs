//! The engine against the field's own code, by fixtures, and whole runs.
#![allow(clippy::unwrap_used, clippy::panic)]

mod adapted_settings;
mod backbones;
mod clip;
mod clouds;
mod encoding;
mod given_negatives;
mod hard_negatives;
mod losses;
mod metrics;
mod onnx;
mod open_clip;
mod precision;
mod preprocessing;
mod quantized;
mod resume;
mod runs;
mod sentence;
mod sentence_losses;
mod settings;
mod siglip;
mod support;
mod tokenizers;
mod towers;
mod vision;
mod weights;
