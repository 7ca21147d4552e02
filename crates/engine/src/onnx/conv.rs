//! Convolutional layers, with channels first: `[batch, channels, height,
//! width]`.

use super::{
    graph::{Attribute, Edge, Graph},
    layers::{curve, scaled_rows},
};
use crate::{
    Error, Result,
    ops::{ConvKind, ConvNorm, Linear},
};

/// Writes `curve(norm(conv(x)) + residual)`, with the normalisation's running
/// statistics merged into the convolution.
pub(crate) fn conv_norm(
    graph: &mut Graph,
    x: &Edge,
    layer: &ConvNorm,
    residual: Option<&Edge>,
) -> Result<Edge> {
    let Some(weight) = layer.weight.clone() else {
        return Err(Error::checkpoint("a convolution has no weights"));
    };
    let (scale, shift) = layer.norm.scale_and_shift()?;
    let name = weight.name().to_owned();
    let dims = weight.tensor().dims().to_vec();
    let groups = match layer.kind {
        ConvKind::Depthwise => layer.outputs,
        ConvKind::Full | ConvKind::None => 1,
    };
    let kernel = graph.computed(&format!("{name}.folded"), dims, move || {
        scaled_rows(&weight, &scale)
    });
    let bias_name = format!("{name}.shift");
    let bias = graph.computed(&bias_name, vec![layer.outputs], move || Ok(shift.clone()));
    let (before, after) = layer.padding.sides();
    let [before, after, size, stride] =
        [before, after, layer.kernel, layer.stride].map(|n| n as i64);
    let given = [
        Attribute::Ints("kernel_shape", vec![size, size]),
        Attribute::Ints("strides", vec![stride, stride]),
        Attribute::Ints("pads", vec![before, before, after, after]),
        Attribute::Int("group", groups as i64),
    ];
    let mut y = graph.op("Conv", &[x, &kernel, &bias], &given);
    if let Some(residual) = residual {
        y = graph.op("Add", &[&y, residual], &[]);
    }
    Ok(curve(graph, &y, layer.curve))
}

/// Writes a linear layer over channels, with its weight as a 1x1 convolution's,
/// `[outputs, inputs, 1, 1]`.
pub(crate) fn pointwise(graph: &mut Graph, x: &Edge, layer: &Linear) -> Edge {
    let weight = graph.weight(&layer.weight);
    match &layer.bias {
        Some(bias) => {
            let bias = graph.weight(bias);
            graph.op("Conv", &[x, &weight, &bias], &[])
        }
        None => graph.op("Conv", &[x, &weight], &[]),
    }
}
