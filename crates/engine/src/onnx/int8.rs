//! Products in 8 bits, in the form of onnxruntime's `quantize_dynamic`: weights
//! are rounded once, with a scale for each output, and activations as they
//! come, with one scale for all. onnxruntime makes one operator of the five.

use std::{ops::Range, sync::Arc};

use super::{
    graph::{Edge, Graph, Source, part_name},
    proto::DataType,
    rounding::row_scales,
};
use crate::{ops::Linear, params::Param};

/// `x Wᵀ` in 8 bits.
pub(super) fn product(graph: &mut Graph, x: &Edge, layer: &Linear) -> Edge {
    let (param, rows, columns) = (&layer.weight, layer.outputs, layer.inputs);
    let own = layer.own();
    let name = format!("{}.int8", part_name(param, &own));
    let weight = graph.named(name, vec![columns, rows], || Source::Int8 {
        param: param.clone(),
        own: own.clone(),
        rows,
        turned: true,
    });
    let scale = scales(graph, param, own, rows, vec![rows]);
    let [rounded, x_scale, x_zero] = graph.rounded(x);
    let product = graph.op("MatMulInteger", &[&rounded, &weight, &x_zero], &[]);
    let product = graph.cast(&product, DataType::Float);
    let scale = graph.op("Mul", &[&x_scale, &scale], &[]);
    graph.op("Mul", &[&product, &scale], &[])
}

/// Rows of a table, which is kept in 8 bits with a scale for each row.
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
        turned: false,
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
