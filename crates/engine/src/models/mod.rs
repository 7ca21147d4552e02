//! Models that can be trained.
//!
//! A [`Model`] is a network with its weights, and optionally a projection head.
//! A [`ModelConfig`] is its parsed `config.json`. Each architecture has its own
//! file; `registry` lists them.

mod adapted;
mod adapters;
mod alibi_bert;
mod architecture;
mod canonical;
mod classifier;
mod classifier_head;
mod clip;
mod clip_vision;
mod cnn;
mod config;
mod dinov2;
mod efficientnet;
mod encoder;
mod export;
mod gemma3;
mod head;
mod input;
mod kind;
mod llama;
mod mlp;
mod model;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod pointnet;
mod qwen3;
mod rates;
mod registry;
mod resnet;
mod rope;
mod siglip;
mod siglip_vision;
mod sizes;
mod t5;
mod text;
mod two_towers;
mod vision;
mod vit;

pub(crate) use crate::modules::PREFIX as MODULE_PREFIX;
pub(crate) use adapted::{PEFT_PREFIX, SavedAdapter};
pub(crate) use adapters::is_adapter;
pub(crate) use architecture::{Architecture, Network};
pub(crate) use classifier::{describe_classifier, describe_network, is_classifier, new_head};
pub use config::ModelConfig;
pub use export::{OnnxFormat, OnnxInput, TokenType};
pub(crate) use export::{no_onnx, output_name};
pub use head::HeadConfig;
pub(crate) use head::PREFIX as HEAD_PREFIX;
pub use input::Input;
pub use kind::ModelKind;
pub use mlp::MlpConfig;
pub use model::{Model, ModelSetup};
pub(crate) use two_towers::{
    FIRST_LOGIT_SCALE, TEXT as TEXT_TOWER, TWO_TOWERS, VISION as VISION_TOWER, new_projections,
};
