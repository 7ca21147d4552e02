//! Differentiable operations, of which models are built.
//!
//! Each has two forms. The *fused* form runs on the CPU: one node of the graph
//! instead of dozens, with a hand-written backward pass, on all threads, with
//! pooled buffers. It holds its parameters and adds their gradients directly to
//! [`Param::grad`], except for frozen ones.
//!
//! The *composite* form consists of candle's primitive operations and runs on
//! any device. Tests compare the fused form with it. Its expensive parts are
//! nodes of their own (`node`) with hand-written backward passes. Gradients of
//! parameters stay in the device's memory.

mod activation;
mod adapter;
mod attention;
mod attention_pool;
mod attention_tensors;
mod batch_norm;
mod block;
mod block_finish;
mod block_fused;
mod block_inference;
mod block_params;
mod block_state;
mod buckets;
mod cloud;
mod conv;
mod conv_layers;
mod conv_maps;
mod conv_pool;
mod conv_tensors;
mod draws;
mod dropout;
mod embeddings;
mod fused;
mod largest;
mod layer_norm;
mod linear;
mod loss;
mod map_rows;
mod node;
mod pass;
mod patches;
mod pool;
mod position;
mod rows;
mod segments;
mod step;
mod tensors;

pub(crate) use activation::Activation;
pub(crate) use adapter::{A as ADAPTER_A, B as ADAPTER_B, add_product};
pub(crate) use attention::{Attention, AttentionConfig};
pub(crate) use attention_pool::AttentionPool;
pub(crate) use batch_norm::BatchNorm;
pub(crate) use block::{run_blocks, run_blocks_from};
pub(crate) use block_finish::Finish;
pub(crate) use block_params::{
    BERT_BLOCK, Block, BlockForm, BlockLayers, BlockNames, CLIP_BLOCK, DISTILBERT_BLOCK,
    FinishNames, LayerName,
};
pub(crate) use cloud::{
    Groups, Point, concatenate_groups, farthest_points, max_of_groups, nearest, points_within,
};
pub(crate) use conv::{ConvKind, ConvNorm, Padding, Shortcut};
pub(crate) use conv_layers::run_layers;
pub(crate) use conv_maps::FeatureMaps;
pub(crate) use conv_pool::{max_pool, scale_channels};
pub(crate) use draws::Draws;
pub(crate) use dropout::{BlockRates, Site, dropout, dropout_examples};
pub(crate) use embeddings::{Positions, TokenTables, token_embeddings};
pub(crate) use fused::{FusedOp, argument, floats, with_grad};
pub(crate) use layer_norm::{LayerNorm, NormKind, layer_norm};
pub(crate) use linear::{Linear, linear};
pub(crate) use loss::{SHORTEST, cross_entropy_of_diagonal, normalize};
pub(crate) use pass::{Inference, Runtime};
pub use pass::{Kernels, Pass};
pub(crate) use patches::{PatchDims, PatchLayers, patch_embeddings};
pub(crate) use pool::pool;
pub use pool::{Concat, Pooler};
pub(crate) use position::{PositionBias, Rotary};
pub(crate) use segments::Segments;
pub(crate) use step::Step;

#[cfg(test)]
pub(crate) mod testing;
