//! The settings of a training step that layers share.

use super::Draws;
use crate::kernels::{gemm::Precision, pool::Pool};

/// Settings and buffers of a training step.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) precision: Precision,
    pub(crate) pool: &'a Pool,
    /// Source of the dropout masks of adapters, if they have dropout.
    pub(crate) adapters: Option<Draws>,
}
