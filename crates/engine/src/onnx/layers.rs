//! Layers over the last dimension of a value.

use std::sync::Arc;

use super::{
    graph::{Attribute, Edge, Graph},
    int8,
    proto::DataType,
};
use crate::{
    Result,
    kernels::simd::Curve,
    ops::{Activation, LayerNorm, Linear, NormKind, Positions, SHORTEST, TokenTables},
    params::Param,
};

/// Writes a linear layer, `x Wᵀ + b`.
pub(crate) fn linear(graph: &mut Graph, x: &Edge, layer: &Linear) -> Edge {
    let y = if graph.int8 {
        int8::product(graph, x, layer)
    } else {
        let weight = graph.transposed(&layer.weight, layer.own(), layer.inputs);
        graph.op("MatMul", &[x, &weight], &[])
    };
    match &layer.bias {
        Some(bias) => {
            let bias = bias_of(graph, bias, layer);
            graph.op("Add", &[&y, &bias], &[])
        }
        None => y,
    }
}

/// Returns a layer's bias, which may be a range of a tensor.
fn bias_of(graph: &mut Graph, bias: &Arc<Param>, layer: &Linear) -> Edge {
    let own = layer.own_bias();
    if own.len() == bias.tensor().elem_count() {
        return graph.weight(bias);
    }
    let (name, bias) = (format!("{}.from_{}", bias.name(), own.start), bias.clone());
    graph.computed(&name, vec![own.len()], move || {
        Ok(bias.to_vec()?[own.clone()].to_vec())
    })
}

/// Writes a linear layer and the normalisation after it as one layer, `x Wᵀ *
/// scale + shift`. `affine` holds scale and shift of each output.
pub(crate) fn affine_columns(
    graph: &mut Graph,
    x: &Edge,
    layer: &Linear,
    affine: (Vec<f32>, Vec<f32>),
) -> Edge {
    let (scale, shift) = affine;
    let (param, name) = (layer.weight.clone(), layer.weight.name().to_owned());
    let dims = vec![layer.outputs, layer.inputs];
    let weight = graph.computed(&format!("{name}.folded"), dims, move || {
        scaled_rows(&param, &scale)
    });
    let bias_name = format!("{name}.shift");
    let bias = graph.computed(&bias_name, vec![layer.outputs], move || Ok(shift.clone()));
    let transposed = Attribute::Int("transB", 1);
    graph.op("Gemm", &[x, &weight, &bias], &[transposed])
}

/// Multiplies each output's row of a weight by its scale.
pub(super) fn scaled_rows(weight: &Arc<Param>, scale: &[f32]) -> Result<Vec<f32>> {
    let mut values = weight.to_vec()?;
    let width = values.len() / scale.len().max(1);
    for (row, scale) in values.chunks_exact_mut(width.max(1)).zip(scale) {
        row.iter_mut().for_each(|x| *x *= scale);
    }
    Ok(values)
}

/// Writes a normalisation of the last dimension.
pub(crate) fn layer_norm(graph: &mut Graph, x: &Edge, norm: &LayerNorm) -> Edge {
    let weight = if norm.kind == NormKind::RmsPlusOne {
        let param = norm.weight.clone();
        let (name, dims) = (
            format!("{}.plus_one", param.name()),
            param.tensor().dims().to_vec(),
        );
        graph.computed(&name, dims, move || {
            Ok(param.to_vec()?.iter().map(|x| x + 1.0).collect())
        })
    } else {
        graph.weight(&norm.weight)
    };
    if matches!(norm.kind, NormKind::Rms | NormKind::RmsPlusOne) {
        let eps = graph.scalar(norm.eps);
        let squares = graph.op("Mul", &[x, x], &[]);
        let given = [
            Attribute::Ints("axes", vec![-1]),
            Attribute::Int("keepdims", 1),
        ];
        let mean = graph.op("ReduceMean", &[&squares], &given);
        let mean = graph.op("Add", &[&mean, &eps], &[]);
        let root = graph.op("Sqrt", &[&mean], &[]);
        let scaled = graph.op("Div", &[x, &root], &[]);
        return graph.op("Mul", &[&scaled, &weight], &[]);
    }
    let given = [
        Attribute::Int("axis", -1),
        Attribute::Float("epsilon", norm.eps),
    ];
    match &norm.bias {
        Some(bias) => {
            let bias = graph.weight(bias);
            graph.op("LayerNormalization", &[x, &weight, &bias], &given)
        }
        None => graph.op("LayerNormalization", &[x, &weight], &given),
    }
}

/// Writes `x * Phi(x)`.
pub(crate) fn gelu(graph: &mut Graph, x: &Edge) -> Edge {
    let (root, one, half) = (
        graph.scalar(std::f32::consts::SQRT_2),
        graph.scalar(1.0),
        graph.scalar(0.5),
    );
    let scaled = graph.op("Div", &[x, &root], &[]);
    let erf = graph.op("Erf", &[&scaled], &[]);
    let shifted = graph.op("Add", &[&erf, &one], &[]);
    let product = graph.op("Mul", &[x, &shifted], &[]);
    graph.op("Mul", &[&product, &half], &[])
}

/// Writes the activation of an MLP.
pub(super) fn activation(graph: &mut Graph, x: &Edge, kind: Activation) -> Edge {
    match kind {
        Activation::Gelu => gelu(graph, x),
        Activation::QuickGelu => {
            let factor = graph.scalar(1.702);
            let scaled = graph.op("Mul", &[x, &factor], &[]);
            let gate = graph.op("Sigmoid", &[&scaled], &[]);
            graph.op("Mul", &[x, &gate], &[])
        }
        Activation::GeluTanh => {
            // x * sigmoid(2 u), with u = sqrt(2 / pi) * (x + 0.044715 x^3).
            let (cubic, one, factor) = (
                graph.scalar(0.044_715),
                graph.scalar(1.0),
                graph.scalar(2.0 * (2.0 / std::f32::consts::PI).sqrt()),
            );
            let square = graph.op("Mul", &[x, x], &[]);
            let square = graph.op("Mul", &[&square, &cubic], &[]);
            let shifted = graph.op("Add", &[&square, &one], &[]);
            let scaled = graph.op("Mul", &[&shifted, &factor], &[]);
            let scaled = graph.op("Mul", &[&scaled, x], &[]);
            let gate = graph.op("Sigmoid", &[&scaled], &[]);
            graph.op("Mul", &[x, &gate], &[])
        }
        Activation::Relu => graph.op("Relu", &[x], &[]),
        Activation::Silu => curve(graph, x, Curve::Swish),
    }
}

/// Writes the activation of a convolutional layer or a multilayer perceptron.
pub(crate) fn curve(graph: &mut Graph, x: &Edge, kind: Curve) -> Edge {
    match kind {
        Curve::Identity => x.clone(),
        Curve::Relu => graph.op("Relu", &[x], &[]),
        Curve::Relu6 => {
            let (low, high) = (graph.scalar(0.0), graph.scalar(6.0));
            graph.op("Clip", &[x, &low, &high], &[])
        }
        Curve::Swish => {
            let gate = graph.op("Sigmoid", &[x], &[]);
            graph.op("Mul", &[x, &gate], &[])
        }
    }
}

/// Normalises rows to length 1, like `ops::normalize`.
pub(crate) fn normalize(graph: &mut Graph, x: &Edge) -> Edge {
    let given = [
        Attribute::Ints("axes", vec![-1]),
        Attribute::Int("keepdims", 1),
    ];
    let length = graph.op("ReduceL2", &[x], &given);
    let shortest = graph.scalar(SHORTEST as f32);
    let length = graph.op("Max", &[&length, &shortest], &[]);
    graph.op("Div", &[x, &length], &[])
}

/// Writes `token[id] + position[i] + kind[type]`, `[batch, length, width]`, for
/// ids and types `[batch, length]`. Without types all tokens have type 0.
pub(crate) fn token_embeddings(
    graph: &mut Graph,
    ids: &Edge,
    kinds: Option<&Edge>,
    tables: &TokenTables,
) -> Edge {
    if let (Some(kinds), Some(table)) = (kinds, &tables.kind) {
        let others = TokenTables {
            kind: None,
            ..tables.clone()
        };
        let tokens = embed_tokens(graph, ids, &others);
        let table = graph.weight(table);
        let kinds = graph.op("Gather", &[&table, kinds], &[]);
        return graph.op("Add", &[&tokens, &kinds], &[]);
    }
    embed_tokens(graph, ids, tables)
}

/// Does the same with type 0, if the model has token types.
fn embed_tokens(graph: &mut Graph, ids: &Edge, tables: &TokenTables) -> Edge {
    let tokens = if graph.int8 {
        int8::lookup(graph, ids, &tables.token)
    } else {
        let table = graph.weight(&tables.token);
        graph.op("Gather", &[&table, ids], &[])
    };
    let positions = match &tables.position {
        Positions::None { .. } => {
            let Some(kind) = &tables.kind else {
                return tokens;
            };
            first_row(graph, kind)
        }
        Positions::Table(table) => {
            let table = with_kind(graph, table, tables.kind.as_ref());
            let length = graph.dimension(ids, 1);
            let (start, axis) = (graph.ints(&[0]), graph.ints(&[0]));
            graph.op("Slice", &[&table, &start, &length, &axis], &[])
        }
        Positions::AfterPadding(table, padding) => {
            let table = with_kind(graph, table, tables.kind.as_ref());
            let ids = graph.cast(ids, DataType::Int64);
            let (padding, axis) = (graph.int(i64::from(*padding)), graph.int(1));
            let is_padding = graph.op("Equal", &[&ids, &padding], &[]);
            let counts = graph.op("Not", &[&is_padding], &[]);
            let counts = graph.cast(&counts, DataType::Int64);
            let number = graph.op("CumSum", &[&counts, &axis], &[]);
            let number = graph.op("Mul", &[&number, &counts], &[]);
            let row = graph.op("Add", &[&number, &padding], &[]);
            graph.op("Gather", &[&table, &row], &[])
        }
    };
    graph.op("Add", &[&tokens, &positions], &[])
}

/// Returns the first row of a table.
fn first_row(graph: &mut Graph, table: &Arc<Param>) -> Edge {
    let width = table.tensor().dims().last().copied().unwrap_or(1);
    let (name, table) = (format!("{}.first", table.name()), table.clone());
    graph.computed(&name, vec![width], move || {
        let mut values = table.to_vec()?;
        values.truncate(width);
        Ok(values)
    })
}

/// Returns a position table with the embedding of token type 0 added to each
/// row.
fn with_kind(graph: &mut Graph, position: &Arc<Param>, kind: Option<&Arc<Param>>) -> Edge {
    let Some(kind) = kind else {
        return graph.weight(position);
    };
    let (position, kind) = (position.clone(), kind.clone());
    let name = format!("{}.with_kind", position.name());
    let dims = position.tensor().dims().to_vec();
    graph.computed(&name, dims, move || {
        let (mut rows, kind) = (position.to_vec()?, kind.to_vec()?);
        let width = position.tensor().dims().last().copied().unwrap_or(1);
        for row in rows.chunks_exact_mut(width) {
            row.iter_mut().zip(&kind).for_each(|(x, k)| *x += k);
        }
        Ok(rows)
    })
}
