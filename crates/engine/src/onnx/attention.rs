//! Texts as inputs, and the blocks of transformers over `[batch, length,
//! width]`.

use super::{
    graph::{Attribute, BATCH, Dim, Edge, Graph, SEQUENCE},
    layers::{activation, layer_norm, linear},
    proto::DataType,
};
use crate::ops::{AttentionConfig, AttentionPool, Block, Finish, NormKind};

/// What is added to a score that doesn't count. Its exponential is 0, and a
/// row of nothing else is still a row of numbers.
const NEVER: f32 = -1e30;

/// The inputs of a model.
pub(crate) enum Inputs {
    /// Token ids with their mask.
    Texts(TextInputs),
    /// Pictures, `[batch, 3, height, width]`, with height and width.
    Images(Edge, [usize; 2]),
    /// Features, `[batch, length]`.
    Features(Edge),
}

/// The inputs of a text model, `[batch, length]`.
pub(crate) struct TextInputs {
    /// Token ids.
    pub(crate) ids: Edge,
    /// Whether a place is a token, not padding.
    pub(crate) mask: Edge,
}

impl TextInputs {
    /// Adds `input_ids` and `attention_mask`, whole numbers of this type, for
    /// texts of any length or of one alone.
    pub(crate) fn new(graph: &mut Graph, kind: DataType, length: Option<usize>) -> Self {
        let dims = [BATCH, length.map_or(SEQUENCE, Dim::Fixed)];
        let ids = graph.input("input_ids", kind, &dims);
        let mask = graph.input("attention_mask", kind, &dims);
        let mask = graph.cast(&mask, DataType::Bool);
        Self { ids, mask }
    }
}

/// Which places see which, as a number added to the scores; nothing is added
/// where all see all.
pub(crate) struct Attendance(Option<Edge>);

impl Attendance {
    /// Every place sees every other.
    pub(crate) fn all() -> Self {
        Self(None)
    }

    /// Every place sees every token; where it is causal, those up to itself.
    pub(crate) fn of_texts(graph: &mut Graph, texts: &TextInputs, causal: bool) -> Self {
        let mut seen = graph.unsqueeze(&texts.mask, &[1, 2]);
        if causal {
            let length = graph.dimension(&texts.ids, 1);
            let axis = graph.ints(&[0]);
            let length = graph.op("Squeeze", &[&length, &axis], &[]);
            let (start, step) = (graph.int(0), graph.int(1));
            let places = graph.op("Range", &[&start, &length, &step], &[]);
            let rows = graph.unsqueeze(&places, &[1]);
            let before = graph.op("LessOrEqual", &[&places, &rows], &[]);
            seen = graph.op("And", &[&seen, &before], &[]);
        }
        let (zero, never) = (graph.scalar(0.0), graph.scalar(NEVER));
        Self(Some(graph.op("Where", &[&seen, &zero, &never], &[])))
    }
}

/// Whether [`block`] knows everything that a block does: all that BERTs, CLIPs
/// and vision transformers are made of.
pub(crate) fn can_write(block: &Block) -> bool {
    let (p, attention) = (&block.params, &block.attention);
    let usual = AttentionConfig::new(attention.width(), attention.heads);
    let scales = |finish: &Option<Finish>| !matches!(finish, Some(Finish::Norm(_)));
    p.norm1.is_some()
        && p.norm2.kind == NormKind::Layer
        && p.head_norms.is_none()
        && p.finish.iter().all(scales)
        && attention.kv_heads == attention.heads
        && attention.scale == usual.scale
        && attention.reach.is_none()
        && attention.rotary.is_none()
        && attention.bias.is_none()
}

/// A transformer block on `[batch, length, width]`.
pub(crate) fn block(graph: &mut Graph, x: &Edge, block: &Block, seen: &Attendance) -> Edge {
    let p = &block.params;
    let norm1 = |graph: &mut Graph, x: &Edge| match &p.norm1 {
        Some(norm) => layer_norm(graph, x, norm),
        None => x.clone(),
    };
    if block.norm_first {
        let normed = norm1(graph, x);
        let attended = attention(graph, &normed, block, seen);
        let attended = finished(graph, attended, &p.finish[0]);
        let h = graph.op("Add", &[x, &attended], &[]);
        let normed = layer_norm(graph, &h, &p.norm2);
        let y = mlp(graph, &normed, block);
        let y = finished(graph, y, &p.finish[1]);
        graph.op("Add", &[&h, &y], &[])
    } else {
        let attended = attention(graph, x, block, seen);
        let attended = finished(graph, attended, &p.finish[0]);
        let h = graph.op("Add", &[x, &attended], &[]);
        let h = norm1(graph, &h);
        let y = mlp(graph, &h, block);
        let y = finished(graph, y, &p.finish[1]);
        let y = graph.op("Add", &[&h, &y], &[]);
        layer_norm(graph, &y, &p.norm2)
    }
}

/// The output of a half, with the factors that its elements have.
fn finished(graph: &mut Graph, x: Edge, finish: &Option<Finish>) -> Edge {
    match finish {
        Some(Finish::Scale(scale)) => {
            let scale = graph.weight(scale);
            graph.op("Mul", &[&x, &scale], &[])
        }
        _ => x,
    }
}

fn mlp(graph: &mut Graph, x: &Edge, block: &Block) -> Edge {
    let hidden = linear(graph, x, &block.params.fc1);
    let mut hidden = activation(graph, &hidden, block.activation);
    if let Some(gate) = &block.params.gate {
        let gate = linear(graph, x, gate);
        hidden = graph.op("Mul", &[&hidden, &gate], &[]);
    }
    linear(graph, &hidden, &block.params.fc2)
}

fn attention(graph: &mut Graph, x: &Edge, block: &Block, seen: &Attendance) -> Edge {
    let p = &block.params;
    let (heads, width) = (block.attention.heads as i64, p.query.outputs as i64);
    let mut split = |layer, order: &[i64]| {
        let y = linear(graph, x, layer);
        let y = graph.reshape(&y, &[0, 0, heads, width / heads]);
        graph.transpose(&y, order)
    };
    let query = split(&p.query, &[0, 2, 1, 3]);
    let key = split(&p.key, &[0, 2, 3, 1]);
    let value = split(&p.value, &[0, 2, 1, 3]);
    let scores = graph.op("MatMul", &[&query, &key], &[]);
    let root = graph.scalar(((width / heads) as f32).sqrt());
    let mut scores = graph.op("Div", &[&scores, &root], &[]);
    if let Some(bias) = &seen.0 {
        scores = graph.op("Add", &[&scores, bias], &[]);
    }
    let weights = graph.op("Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
    let mixed = graph.op("MatMul", &[&weights, &value], &[]);
    let mixed = graph.transpose(&mixed, &[0, 2, 1, 3]);
    let mixed = graph.reshape(&mixed, &[0, 0, width]);
    linear(graph, &mixed, &p.out)
}

/// `[batch, width]` of `[batch, length, width]`, pooled by attention.
pub(crate) fn attention_pool(graph: &mut Graph, x: &Edge, pool: &AttentionPool) -> Edge {
    let AttentionConfig {
        heads, head, scale, ..
    } = pool.attention;
    let width = (heads * head) as i64;
    let mut split = |x: &Edge, layer, order: &[i64]| {
        let y = linear(graph, x, layer);
        let y = graph.reshape(&y, &[0, 0, heads as i64, head as i64]);
        graph.transpose(&y, order)
    };
    let key = split(x, &pool.key, &[0, 2, 3, 1]);
    let value = split(x, &pool.value, &[0, 2, 1, 3]);
    let probe = graph.weight(&pool.probe);
    let query = linear(graph, &probe, &pool.query);
    let query = graph.reshape(&query, &[1, heads as i64, 1, head as i64]);
    let scores = graph.op("MatMul", &[&query, &key], &[]);
    let scale = graph.scalar(scale);
    let scores = graph.op("Mul", &[&scores, &scale], &[]);
    let weights = graph.op("Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
    let mixed = graph.op("MatMul", &[&weights, &value], &[]);
    let mixed = graph.reshape(&mixed, &[-1, width]);
    let h = linear(graph, &mixed, &pool.out);
    let y = layer_norm(graph, &h, &pool.norm);
    let y = linear(graph, &y, &pool.fc1);
    let y = activation(graph, &y, pool.activation);
    let y = linear(graph, &y, &pool.fc2);
    graph.op("Add", &[&h, &y], &[])
}
