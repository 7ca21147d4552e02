//! 8-bit products in the form of onnxruntime's `quantize_dynamic`. Weights are
//! rounded once, with a scale per output. Activations are rounded at run time,
//! with one scale. onnxruntime fuses the five operators into one.

use std::{ops::Range, sync::Arc};

use super::{
    graph::{Edge, Graph, Source, part_name},
    proto::DataType,
    rounding::row_scales,
};
use crate::{ops::Linear, params::Param};

/// Writes `x Wᵀ` in 8 bits.
pub(super) fn product(graph: &mut Graph, x: &Edge, layer: &Linear) -> Edge {
    let (param, rows, columns) = (&layer.weight, layer.outputs, layer.inputs);
    let own = layer.own();
    let name = format!("{}.int8", part_name(param, &own));
    let weight = graph.named(name, vec![columns, rows], || Source::Int8 {
        param: param.clone(),
        own: own.clone(),
        rows,
        transposed: true,
    });
    let scale = scales(graph, param, own, rows, vec![rows]);
    let [rounded, x_scale, x_zero] = graph.rounded(x);
    let product = graph.op("MatMulInteger", &[&rounded, &weight, &x_zero], &[]);
    let product = graph.cast(&product, DataType::Float);
    let scale = graph.op("Mul", &[&x_scale, &scale], &[]);
    graph.op("Mul", &[&product, &scale], &[])
}

/// Looks up rows of a table that is stored in 8 bits, with a scale per row.
pub(super) fn lookup(graph: &mut Graph, ids: &Edge, table: &Arc<Param>) -> Edge {
    let dims = table.tensor().dims().to_vec();
    let rows = dims.first().copied().unwrap_or(1);
    let own = 0..table.tensor().elem_count();
    let scale = scales(graph, table, own.clone(), rows, vec![rows, 1]);
    let name = format!("{}.int8", table.name());
    let table = graph.named(name, dims, || Source::Int8 {
        param: table.clone(),
        own,
        rows,
        transposed: false,
    });
    let rounded = graph.op("Gather", &[&table, ids], &[]);
    let rounded = graph.cast(&rounded, DataType::Float);
    let scale = graph.op("Gather", &[&scale, ids], &[]);
    graph.op("Mul", &[&rounded, &scale], &[])
}

fn scales(
    graph: &mut Graph,
    param: &Arc<Param>,
    own: Range<usize>,
    rows: usize,
    dims: Vec<usize>,
) -> Edge {
    let name = format!("{}.scale", part_name(param, &own));
    let param = param.clone();
    graph.computed(&name, dims, move || {
        Ok(row_scales(&param.to_vec()?[own.clone()], rows))
    })
}
