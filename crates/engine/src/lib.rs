//! Trains embedding models for search, evaluates them, and uses them.
//!
//! This crate takes a run from its configuration to its artifact. It uses candle's
//! tensors and fused CPU operations of its own. It opens no network connection except
//! to the model hub, and no database. The modules, in the order in which a run passes
//! through them:
//!
//! | module | contents |
//! | --- | --- |
//! | [`plan`] | validated run configurations |
//! | [`source`] | model names resolved to folders, artifacts and the hub |
//! | [`data`] | documents read into training examples |
//! | [`prepare`], [`image`], [`cloud`], [`augment`], [`draw`], [`tokenizer`] | images, point clouds and texts converted to tensors |
//! | [`models`], [`params`] | networks and their weights |
//! | [`modules`] | modules of sentence-transformers that follow the network |
//! | [`loss`], [`optim`], [`train`] | the training loop and its parts |
//! | [`lora`] | low-rank adapters |
//! | [`evaluation`] | retrieval, graded data, and their metrics |
//! | [`hard_negatives`] | hard negatives mined from a corpus |
//! | [`job`] | a run from end to end |
//! | [`synthesis`] | training data synthesised from unlabelled texts |
//! | [`infer`], [`quantize`] | inference with saved models, and quantised embeddings |
//!
//! On one machine, the same configuration, data and seed give the same losses.

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
