//! Kernels for rows and elements, compiled for each x86-64 level.
//!
//! [`pulp::Arch`] selects the level at run time. Other CPUs use the baseline. Sums use
//! 16 parallel lanes: this is fast and gives the same result on every machine.

mod activation;
mod adam;
mod curve;
mod elements;
mod fast;
mod math;
mod norm;
mod softmax;
mod winograd;

pub(crate) use activation::{
    gelu, gelu_backward, gelu_tanh, gelu_tanh_backward, quick_gelu, quick_gelu_backward, relu,
    relu_backward, silu, silu_backward,
};
pub(crate) use adam::{AdamStep, adam};
pub(crate) use curve::{Curve, combine_columns, scale_shift_curve, scale_shift_curve_backward};
pub(crate) use elements::{
    add, add_assign, add_squared_differences, finish_tile, largest, multiply_add, multiply_assign,
    weighted_sum,
};
pub(crate) use fast::{
    Activate, fast_gelu, fast_gelu_tanh, fast_quick_gelu, fast_relu, fast_swish,
};
pub(crate) use norm::{
    layer_norm_backward_rows, layer_norm_rows, rms_norm_backward_rows, rms_norm_rows,
};
pub(crate) use softmax::{softmax_backward_row, softmax_row};
pub(crate) use winograd::{PIXELS, POINTS, TILE, TileLine, winograd_input, winograd_output};
