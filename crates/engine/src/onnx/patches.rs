//! The patch embedding layer of a vision transformer.

use super::graph::{Attribute, Edge, Graph};
use crate::ops::{PatchDims, PatchLayers};

/// Writes `[class; patches Wᵀ + bias] + position` for images `[batch, 3,
/// height, width]`, as `[batch, tokens, width]`.
pub(crate) fn patch_embeddings(
    graph: &mut Graph,
    pixels: &Edge,
    dims: PatchDims,
    layers: &PatchLayers,
) -> Edge {
    let (width, patch) = (dims.width as i64, dims.patch as i64);
    let kernel = graph.weight(&layers.kernel);
    let given = [
        Attribute::Ints("kernel_shape", vec![patch, patch]),
        Attribute::Ints("strides", vec![patch, patch]),
    ];
    let patches = match &layers.bias {
        Some(bias) => {
            let bias = graph.weight(bias);
            graph.op("Conv", &[pixels, &kernel, &bias], &given)
        }
        None => graph.op("Conv", &[pixels, &kernel], &given),
    };
    let patches = graph.reshape(&patches, &[0, width, -1]);
    let mut x = graph.transpose(&patches, &[0, 2, 1]);
    if let Some(class) = &layers.class {
        let class = graph.weight(class);
        let class = graph.reshape(&class, &[1, 1, width]);
        let batch = graph.dimension(pixels, 0);
        let ones = graph.ints(&[1, 1]);
        let shape = graph.op("Concat", &[&batch, &ones], &[Attribute::Int("axis", 0)]);
        let class = graph.op("Expand", &[&class, &shape], &[]);
        x = graph.op("Concat", &[&class, &x], &[Attribute::Int("axis", 1)]);
    }
    if let Some(position) = &layers.position {
        let position = graph.weight(position);
        x = graph.op("Add", &[&x, &position], &[]);
    }
    x
}
