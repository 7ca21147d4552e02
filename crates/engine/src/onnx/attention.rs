//! Text inputs, and transformer blocks over `[batch, length, width]`.

use std::collections::HashMap;

use super::{
    graph::{Attribute, BATCH, Dim, Edge, Graph, SEQUENCE},
    layers::{activation, layer_norm, linear},
    proto::DataType,
};
use crate::ops::{AttentionConfig, AttentionPool, Block, Finish, PositionBias, Rotary};

/// Added to masked scores. Its exponential is 0, and a fully masked row remains
/// finite.
const NEVER: f32 = -1e30;

/// The inputs of a model.
pub(crate) enum Inputs {
    /// Token ids and their mask.
    Texts(TextInputs),
    /// Images, `[batch, 3, height, width]`, with height and width in pixels.
    Images(Edge, [usize; 2]),
    /// Feature vectors, `[batch, length]`.
    Features(Edge),
}

/// The inputs of a text model, `[batch, length]`.
pub(crate) struct TextInputs {
    /// Token ids.
    pub(crate) ids: Edge,
    /// True for tokens, false for padding.
    pub(crate) mask: Edge,
    /// The type of each token; all are 0 if `None`.
    pub(crate) kinds: Option<Edge>,
}

impl TextInputs {
    /// Adds the inputs `input_ids`, `attention_mask` and, if `with_kinds`,
    /// `token_type_ids`, with integers of this type. Texts may have any length
    /// unless `length` fixes it.
    pub(crate) fn new(
        graph: &mut Graph,
        kind: DataType,
        length: Option<usize>,
        with_kinds: bool,
    ) -> Self {
        let dims = [BATCH, length.map_or(SEQUENCE, Dim::Fixed)];
        let ids = graph.input("input_ids", kind, &dims);
        let mask = graph.input("attention_mask", kind, &dims);
        let kinds = with_kinds.then(|| graph.input("token_type_ids", kind, &dims));
        let mask = graph.cast(&mask, DataType::Bool);
        Self { ids, mask, kinds }
    }
}

/// The attention masks and position values of a batch. Values that several
/// blocks use are in the graph once.
#[derive(Default)]
pub(crate) struct AttentionContext {
    /// The length of texts, and their mask; `None` for images, which need no
    /// mask.
    texts: Option<(Edge, Edge)>,
    /// Values to add to the scores, by causality, window and position bias.
    biases: HashMap<(bool, Option<usize>, Option<String>), Option<Edge>>,
    /// Cosines and sines of rotary embeddings, by the bits of their steps.
    rotations: HashMap<Vec<u32>, [Edge; 2]>,
}

impl AttentionContext {
    /// All positions attend to all others.
    pub(crate) fn all() -> Self {
        Self::default()
    }

    /// All positions attend to all tokens, within the limits of each block.
    pub(crate) fn of_texts(graph: &mut Graph, texts: &TextInputs) -> Self {
        let mask = graph.unsqueeze(&texts.mask, &[1, 2]);
        Self {
            texts: Some((graph.dimension(&texts.ids, 1), mask)),
            ..Self::default()
        }
    }

    /// Returns the values that a block adds to its scores, `[batch or 1, heads
    /// or 1, length or 1, length]`.
    fn bias(&mut self, graph: &mut Graph, config: &AttentionConfig) -> Option<Edge> {
        let learned = config.bias.as_ref().map(|bias| match bias {
            PositionBias::Slopes(_) => String::new(),
            PositionBias::Buckets { table, .. } => table.name().to_owned(),
        });
        let key = (config.causal, config.reach, learned);
        if let Some(known) = self.biases.get(&key) {
            return known.clone();
        }
        let bias = self.new_bias(graph, config);
        self.biases.insert(key, bias.clone());
        bias
    }

    fn new_bias(&self, graph: &mut Graph, config: &AttentionConfig) -> Option<Edge> {
        let (length, mask) = self.texts.as_ref()?;
        let mut seen = mask.clone();
        // Distances from query to key, `[length, length]`.
        let needs_distance = config.causal || config.reach.is_some() || config.bias.is_some();
        let distance = needs_distance.then(|| {
            let positions = positions(graph, length);
            let queries = graph.unsqueeze(&positions, &[1]);
            graph.op("Sub", &[&positions, &queries], &[])
        });
        if let Some(distance) = &distance {
            if config.causal {
                let zero = graph.int(0);
                let before = graph.op("LessOrEqual", &[distance, &zero], &[]);
                seen = graph.op("And", &[&seen, &before], &[]);
            }
            if let Some(reach) = config.reach {
                let reach = graph.int(reach as i64);
                let far = graph.op("Abs", &[distance], &[]);
                let near = graph.op("LessOrEqual", &[&far, &reach], &[]);
                seen = graph.op("And", &[&seen, &near], &[]);
            }
        }
        let never = graph.scalar(NEVER);
        let positions = match (&config.bias, &distance) {
            (Some(bias), Some(distance)) => position_bias(graph, bias, distance),
            _ => graph.scalar(0.0),
        };
        Some(graph.op("Where", &[&seen, &positions, &never], &[]))
    }

    /// Applies rotary embeddings to heads, `[batch, length, heads, head]`.
    fn rotated(&mut self, graph: &mut Graph, x: &Edge, rotary: &Rotary) -> Edge {
        let Some((length, _)) = &self.texts else {
            return x.clone();
        };
        let steps = rotary.steps();
        let half = steps.len() as i64;
        let [cos, sin] = self
            .rotations
            .entry(steps.iter().map(|step| step.to_bits()).collect())
            .or_insert_with(|| {
                let positions = positions(graph, length);
                let positions = graph.cast(&positions, DataType::Float);
                let positions = graph.unsqueeze(&positions, &[1, 2]);
                let steps = graph.table("rotary.steps", vec![steps.len()], steps.to_vec());
                let angles = graph.op("Mul", &[&positions, &steps], &[]);
                ["Cos", "Sin"].map(|kind| graph.op(kind, &[&angles], &[]))
            })
            .clone();
        let part = |graph: &mut Graph, from: i64, to: i64| {
            let (from, to, axis) = (graph.ints(&[from]), graph.ints(&[to]), graph.ints(&[3]));
            graph.op("Slice", &[x, &from, &to, &axis], &[])
        };
        let (a, b) = (part(graph, 0, half), part(graph, half, 2 * half));
        let mut product = |x: &Edge, by: &Edge| graph.op("Mul", &[x, by], &[]);
        let (a_cos, b_sin) = (product(&a, &cos), product(&b, &sin));
        let (b_cos, a_sin) = (product(&b, &cos), product(&a, &sin));
        let first = graph.op("Sub", &[&a_cos, &b_sin], &[]);
        let second = graph.op("Add", &[&b_cos, &a_sin], &[]);
        graph.op("Concat", &[&first, &second], &[Attribute::Int("axis", 3)])
    }
}

/// Returns the positions of a text, from 0.
fn positions(graph: &mut Graph, length: &Edge) -> Edge {
    let axis = graph.ints(&[0]);
    let length = graph.op("Squeeze", &[length, &axis], &[]);
    let (start, step) = (graph.int(0), graph.int(1));
    graph.op("Range", &[&start, &length, &step], &[])
}

/// Returns the bias of each head and distance, `[1, heads, length, length]`.
fn position_bias(graph: &mut Graph, bias: &PositionBias, distance: &Edge) -> Edge {
    let rows = match bias {
        PositionBias::Slopes(slopes) => {
            let dims = vec![slopes.len(), 1, 1];
            let slopes = slopes.iter().map(|slope| -slope).collect();
            let slopes = graph.table("attention.slopes", dims, slopes);
            let far = graph.op("Abs", &[distance], &[]);
            let far = graph.cast(&far, DataType::Float);
            graph.op("Mul", &[&far, &slopes], &[])
        }
        PositionBias::Buckets {
            table,
            max_distance,
        } => {
            // A row for each distance. Larger ones share the last row.
            let heads = table.tensor().dims().last().copied().unwrap_or(1);
            let dims = vec![2 * max_distance + 1, heads];
            let (name, bias) = (format!("{}.by_distance", table.name()), bias.clone());
            let limit = *max_distance as i64;
            let rows = graph.computed(&name, dims, move || bias.by_distance());
            let (low, high) = (graph.int(-limit), graph.int(limit));
            let near = graph.op("Clip", &[distance, &low, &high], &[]);
            let row = graph.op("Add", &[&near, &high], &[]);
            let values = graph.op("Gather", &[&rows, &row], &[]);
            graph.transpose(&values, &[2, 0, 1])
        }
    };
    graph.unsqueeze(&rows, &[0])
}

/// Writes a transformer block over `[batch, length, width]`.
pub(crate) fn block(
    graph: &mut Graph,
    x: &Edge,
    block: &Block,
    seen: &mut AttentionContext,
) -> Edge {
    let p = &block.params;
    let norm1 = |graph: &mut Graph, x: &Edge| match &p.norm1 {
        Some(norm) => layer_norm(graph, x, norm),
        None => x.clone(),
    };
    if block.norm_first {
        let normed = norm1(graph, x);
        let attended = attention(graph, &normed, block, seen);
        let h = graph.op("Add", &[x, &attended], &[]);
        let normed = layer_norm(graph, &h, &p.norm2);
        let y = mlp(graph, &normed, block);
        graph.op("Add", &[&h, &y], &[])
    } else {
        let attended = attention(graph, x, block, seen);
        let h = graph.op("Add", &[x, &attended], &[]);
        let h = norm1(graph, &h);
        let y = mlp(graph, &h, block);
        let y = graph.op("Add", &[&h, &y], &[]);
        layer_norm(graph, &y, &p.norm2)
    }
}

fn finished(graph: &mut Graph, x: Edge, finish: &Option<Finish>) -> Edge {
    match finish {
        None => x,
        Some(Finish::Scale(scale)) => {
            let scale = graph.weight(scale);
            graph.op("Mul", &[&x, &scale], &[])
        }
        Some(Finish::Norm(norm)) => layer_norm(graph, &x, norm),
    }
}

fn mlp(graph: &mut Graph, x: &Edge, block: &Block) -> Edge {
    let p = &block.params;
    let hidden = linear(graph, x, &p.fc1);
    let mut hidden = activation(graph, &hidden, block.activation);
    if let Some(gate) = &p.gate {
        let gate = linear(graph, x, gate);
        hidden = graph.op("Mul", &[&hidden, &gate], &[]);
    }
    let y = linear(graph, &hidden, &p.fc2);
    finished(graph, y, &p.finish[1])
}

fn attention(graph: &mut Graph, x: &Edge, block: &Block, seen: &mut AttentionContext) -> Edge {
    let (p, config) = (&block.params, &block.attention);
    let head = config.head as i64;
    let split = |graph: &mut Graph, layer, heads: usize| {
        let y = linear(graph, x, layer);
        graph.reshape(&y, &[0, 0, heads as i64, head])
    };
    let mut query = split(graph, &p.query, config.heads);
    let mut key = split(graph, &p.key, config.kv_heads);
    let mut value = split(graph, &p.value, config.kv_heads);
    if let Some([of_queries, of_keys]) = &p.head_norms {
        query = layer_norm(graph, &query, of_queries);
        key = layer_norm(graph, &key, of_keys);
    }
    if let Some(rotary) = &config.rotary {
        query = seen.rotated(graph, &query, rotary);
        key = seen.rotated(graph, &key, rotary);
    }
    if config.kv_heads != config.heads {
        // The key and value head of each query head.
        let group = config.heads / config.kv_heads;
        let heads: Vec<i64> = (0..config.heads)
            .map(|head| (head / group) as i64)
            .collect();
        let heads = graph.ints(&heads);
        let spread = |graph: &mut Graph, x: &Edge| {
            graph.op("Gather", &[x, &heads], &[Attribute::Int("axis", 2)])
        };
        (key, value) = (spread(graph, &key), spread(graph, &value));
    }
    let query = graph.transpose(&query, &[0, 2, 1, 3]);
    let key = graph.transpose(&key, &[0, 2, 3, 1]);
    let value = graph.transpose(&value, &[0, 2, 1, 3]);
    let mut scores = graph.op("MatMul", &[&query, &key], &[]);
    if config.scale != 1.0 {
        let scale = graph.scalar(config.scale);
        scores = graph.op("Mul", &[&scores, &scale], &[]);
    }
    if let Some(bias) = seen.bias(graph, config) {
        scores = graph.op("Add", &[&scores, &bias], &[]);
    }
    let weights = graph.op("Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
    let mixed = graph.op("MatMul", &[&weights, &value], &[]);
    let mixed = graph.transpose(&mixed, &[0, 2, 1, 3]);
    let mixed = graph.reshape(&mixed, &[0, 0, config.width() as i64]);
    let y = linear(graph, &mixed, &p.out);
    finished(graph, y, &p.finish[0])
}

/// Writes attention pooling of `[batch, length, width]` to `[batch, width]`.
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
