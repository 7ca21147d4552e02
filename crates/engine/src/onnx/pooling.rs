//! Pooling of many positions into one vector.

use super::{
    attention::TextInputs,
    graph::{Attribute, Edge, Graph},
    proto::DataType,
};
use crate::{Error, Result, ops::Pooler};

/// A value below all those of embeddings.
const LOWEST: f32 = f32::MIN;

/// Pools `[batch, length, width]` to `[batch, width]`, without padding.
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
        Pooler::MeanSqrtLength => {
            let weights = graph.cast(&mask, DataType::Float);
            let (total, count) = weighted(graph, x, &weights);
            let root = graph.op("Sqrt", &[&count], &[]);
            graph.op("Div", &[&total, &root], &[])
        }
        Pooler::WeightedMean => {
            let weights = numbers(graph, texts, &mask);
            let (total, sum) = weighted(graph, x, &weights);
            graph.op("Div", &[&total, &sum], &[])
        }
        Pooler::LastToken => {
            let numbers = numbers(graph, texts, &mask);
            let given = [Attribute::Ints("axes", vec![1])];
            let last = graph.op("ReduceMax", &[&numbers], &given);
            let is_last = graph.op("Equal", &[&numbers, &last], &[]);
            let weights = graph.cast(&is_last, DataType::Float);
            weighted(graph, x, &weights).0
        }
        Pooler::Concat(poolers) => {
            let parts: Vec<Edge> = poolers
                .poolers()
                .map(|(pooler, _)| pool_texts(graph, x, texts, pooler))
                .collect();
            let parts: Vec<&Edge> = parts.iter().collect();
            graph.op("Concat", &parts, &[Attribute::Int("axis", -1)])
        }
    }
}

/// Returns the position of each token, from 1, and 0 for padding: `[batch,
/// length, 1]`.
fn numbers(graph: &mut Graph, texts: &TextInputs, mask: &Edge) -> Edge {
    let length = graph.dimension(&texts.ids, 1);
    let axis = graph.ints(&[0]);
    let length = graph.op("Squeeze", &[&length, &axis], &[]);
    let (zero, step) = (graph.int(0), graph.int(1));
    let positions = graph.op("Range", &[&zero, &length, &step], &[]);
    let positions = graph.op("Add", &[&positions, &step], &[]);
    let positions = graph.cast(&positions, DataType::Float);
    let positions = graph.unsqueeze(&positions, &[0, 2]);
    let mask = graph.cast(mask, DataType::Float);
    graph.op("Mul", &[&positions, &mask], &[])
}

/// Returns the sum over positions, weighted by `[batch, length, 1]`, and the
/// sum of the weights.
fn weighted(graph: &mut Graph, x: &Edge, weights: &Edge) -> (Edge, Edge) {
    let (axis, one) = (graph.ints(&[1]), graph.scalar(1.0));
    let sum = |graph: &mut Graph, x: &Edge| {
        graph.op("ReduceSum", &[x, &axis], &[Attribute::Int("keepdims", 0)])
    };
    let counted = graph.op("Mul", &[x, weights], &[]);
    let total = sum(graph, &counted);
    let weight = sum(graph, weights);
    // Avoids a division by zero for a text without tokens.
    let weight = graph.op("Max", &[&weight, &one], &[]);
    (total, weight)
}

/// Returns the mean over the positions in `mask` (`[batch, length, 1]`).
fn mean(graph: &mut Graph, x: &Edge, mask: &Edge) -> Edge {
    let mask = graph.cast(mask, DataType::Float);
    let (total, count) = weighted(graph, x, &mask);
    graph.op("Div", &[&total, &count], &[])
}

fn raised(graph: &mut Graph, x: &Edge, p: f32, eps: f32) -> Edge {
    let (power, eps) = (graph.scalar(p), graph.scalar(eps));
    let positive = graph.op("Max", &[x, &eps], &[]);
    graph.op("Pow", &[&positive, &power], &[])
}

/// Pools a feature map `[batch, channels, height, width]` to `[batch,
/// channels]`.
///
/// # Errors
/// [`Error::Data`] for poolers that depend on token positions.
pub(crate) fn pool_map(graph: &mut Graph, x: &Edge, pooler: Pooler) -> Result<Edge> {
    let pooled = match pooler {
        Pooler::Mean => graph.op("GlobalAveragePool", &[x], &[]),
        Pooler::Max => graph.op("GlobalMaxPool", &[x], &[]),
        Pooler::Cls => {
            let rows = graph.reshape(x, &[0, 0, -1]);
            let first = graph.int(0);
            return Ok(graph.op("Gather", &[&rows, &first], &[Attribute::Int("axis", 2)]));
        }
        Pooler::GeM { p, eps } => {
            let powers = raised(graph, x, p, eps);
            let mean = graph.op("GlobalAveragePool", &[&powers], &[]);
            let root = graph.scalar(1.0 / p);
            graph.op("Pow", &[&mean, &root], &[])
        }
        other => {
            let names = other.names().unwrap_or_default().join(", ");
            let reason = format!("images pooled by {names} can't be exported to ONNX");
            return Err(Error::data(reason));
        }
    };
    Ok(graph.op("Flatten", &[&pooled], &[Attribute::Int("axis", 1)]))
}
