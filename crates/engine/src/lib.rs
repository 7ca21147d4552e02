//! Trains embedding models for search, evaluates them, and uses them.
//!
//! Everything from a run's configuration to its artifact, on candle's tensors
//! with fused CPU operations of our own; no network and no database. The way
//! through the crate:
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`plan`] | a run's configuration, checked |
//! | [`source`] | where models come from |
//! | [`data`] | documents to training examples |
//! | [`prepare`], [`image`], [`cloud`], [`augment`], [`draw`], [`tokenizer`] | pictures, point clouds and texts to tensors |
//! | [`models`], [`params`] | networks and their weights |
//! | [`modules`] | what a model of sentence-transformers has behind its network |
//! | [`loss`], [`optim`], [`train`] | the training loop and its parts |
//! | [`lora`] | training small factors in place of a model's weights |
//! | [`evaluation`] | retrieval and its metrics |
//! | [`hard_negatives`] | mining of negatives from a corpus |
//! | [`job`] | a run from end to end |
//! | [`synthesis`] | training data out of texts without labels |
//! | [`infer`], [`quantize`] | embeddings from a saved model, and smaller ones |
//!
//! The same configuration, data and seed give the same losses on one machine.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod artifact;
pub mod augment;
mod callbacks;
pub mod cloud;
pub mod data;
pub mod draw;
mod error;
pub mod evaluation;
mod export;
pub mod hard_negatives;
pub mod image;
pub mod infer;
pub mod job;
mod kernels;
pub mod lora;
pub mod loss;
mod memory;
mod miner;
pub mod models;
pub mod modules;
mod observer;
mod onnx;
mod ops;
pub mod optim;
mod options;
pub mod params;
pub mod plan;
pub mod prepare;
mod python_json;
pub mod quantize;
mod random;
mod record;
mod resume;
pub mod source;
pub mod synthesis;
pub mod tokenizer;
mod torch;
pub mod train;

pub use error::{Error, Result};
pub use kernels::gemm::Precision;
pub use ops::{Concat, Kernels, Pass, Pooler};
