//! From the vectors of many places to one.

use super::{
    attention::TextInputs,
    graph::{Attribute, Edge, Graph},
    proto::DataType,
};
use crate::ops::Pooler;

/// Smaller than every value of an embedding.
const LOWEST: f32 = f32::MIN;

/// `[batch, width]` of `[batch, length, width]`; padding doesn't count.
pub(crate) fn pool_texts(graph: &mut Graph, x: &Edge, texts: &TextInputs, pooler: Pooler) -> Edge {
    let mask = graph.unsqueeze(&texts.mask, &[2]);
    match pooler {
        Pooler::Mean => mean(graph, x, &mask),
        Pooler::Cls => {
            let first = graph.int(0);
            graph.op("Gather", &[x, &first], &[Attribute::Int("axis", 1)])
        }
        Pooler::Max => {
            let lowest = graph.scalar(LOWEST);
            let known = graph.op("Where", &[&mask, x, &lowest], &[]);
            let given = [
                Attribute::Ints("axes", vec![1]),
                Attribute::Int("keepdims", 0),
            ];
            graph.op("ReduceMax", &[&known], &given)
        }
        Pooler::GeM { p, eps } => {
            let powers = raised(graph, x, p, eps);
            let mean = mean(graph, &powers, &mask);
            let root = graph.scalar(1.0 / p);
            graph.op("Pow", &[&mean, &root], &[])
        }
    }
}

/// The mean of the places that `mask` (`[batch, length, 1]`) counts.
fn mean(graph: &mut Graph, x: &Edge, mask: &Edge) -> Edge {
    let mask = graph.cast(mask, DataType::Float);
    let (axis, one) = (graph.ints(&[1]), graph.scalar(1.0));
    let sum = |graph: &mut Graph, x: &Edge| {
        graph.op("ReduceSum", &[x, &axis], &[Attribute::Int("keepdims", 0)])
    };
    let counted = graph.op("Mul", &[x, &mask], &[]);
    let total = sum(graph, &counted);
    let count = sum(graph, &mask);
    // A text without any token gets zeros, not a division by zero.
    let count = graph.op("Max", &[&count, &one], &[]);
    graph.op("Div", &[&total, &count], &[])
}

fn raised(graph: &mut Graph, x: &Edge, p: f32, eps: f32) -> Edge {
    let (power, eps) = (graph.scalar(p), graph.scalar(eps));
    let positive = graph.op("Max", &[x, &eps], &[]);
    graph.op("Pow", &[&positive, &power], &[])
}

/// `[batch, channels]` of a map of features `[batch, channels, height, width]`.
pub(crate) fn pool_places(graph: &mut Graph, x: &Edge, pooler: Pooler) -> Edge {
    let pooled = match pooler {
        Pooler::Mean => graph.op("GlobalAveragePool", &[x], &[]),
        Pooler::Max => graph.op("GlobalMaxPool", &[x], &[]),
        Pooler::Cls => {
            let rows = graph.reshape(x, &[0, 0, -1]);
            let first = graph.int(0);
            return graph.op("Gather", &[&rows, &first], &[Attribute::Int("axis", 2)]);
        }
        Pooler::GeM { p, eps } => {
            let powers = raised(graph, x, p, eps);
            let mean = graph.op("GlobalAveragePool", &[&powers], &[]);
            let root = graph.scalar(1.0 / p);
            graph.op("Pow", &[&mean, &root], &[])
        }
    };
    graph.op("Flatten", &[&pooled], &[Attribute::Int("axis", 1)])
}
