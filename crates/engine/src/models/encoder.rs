//! The network shared by all text encoders: embedding tables, blocks, norms and
//! pooling. Architectures differ in the parts that they supply.

use candle_core::Tensor;

use super::{Input, Network, rates::Rates};
use crate::{
    Error, Result,
    onnx::{self, AttentionContext, Edge, Graph, Inputs},
    ops::{
        Block, BlockForm, BlockLayers, LayerNorm, Pass, Pooler, Site, TokenTables, dropout,
        layer_norm, pool, run_blocks_from, token_embeddings,
    },
    params::Params,
    tokenizer::TokenBatch,
};

/// A text model, from token ids to one vector per text.
pub(super) struct TextEncoder {
    pub(super) tables: TokenTables,
    /// Factor of the token embeddings.
    pub(super) scale: Option<f64>,
    /// Norm after the embeddings.
    pub(super) first_norm: Option<LayerNorm>,
    pub(super) blocks: Vec<Block>,
    /// Norm after the last block.
    pub(super) last_norm: Option<LayerNorm>,
    pub(super) pooler: Pooler,
    pub(super) rates: Rates,
}

impl TextEncoder {
    /// Returns the embeddings of the given earlier layers, then those of the
    /// last layer.
    fn encode_texts(
        &self,
        pass: &Pass,
        texts: &TokenBatch,
        layers: &[usize],
    ) -> Result<Vec<Tensor>> {
        let segments = texts.segments();
        let norm = |x: Tensor, norm: Option<&LayerNorm>| match norm {
            Some(norm) => layer_norm(pass, &x, norm),
            None => Ok(x),
        };
        let mut x = token_embeddings(pass, &texts.ids, &texts.kinds, &segments, &self.tables)?;
        if let Some(scale) = self.scale {
            x = (x * scale)?;
        }
        let x = norm(x, self.first_norm.as_ref())?;
        let embeddings = (Site::Embeddings, self.rates.embeddings);
        let mut x = dropout(pass, &x, embeddings, &segments, None)?;
        let only = self.pooler.only(&segments);
        let mut found = Vec::with_capacity(layers.len() + 1);
        let mut done = 0;
        let mut order: Vec<usize> = (0..layers.len()).collect();
        order.sort_by_key(|index| layers[*index]);
        for index in &order {
            let layer = layers[*index].min(self.blocks.len());
            let blocks = &self.blocks[done..layer];
            x = run_blocks_from(done, blocks, pass, &x, &segments, None)?;
            done = layer;
            found.push((*index, pool(pass, &x, &segments, self.pooler)?));
        }
        found.sort_by_key(|(index, _)| *index);
        let rest = &self.blocks[done..];
        let x = run_blocks_from(done, rest, pass, &x, &segments, only.as_deref())?;
        let x = norm(x, self.last_norm.as_ref())?;
        let output = (Site::Output, self.rates.output);
        let x = dropout(pass, &x, output, &segments, only.as_deref())?;
        let last = match only {
            Some(_) => x,
            None => pool(pass, &x, &segments, self.pooler)?,
        };
        let found = found.into_iter().map(|(_, x)| x);
        Ok(found.chain([last]).collect())
    }
}

impl Network for TextEncoder {
    fn encode(&self, pass: &Pass, input: &Input) -> Result<Option<Tensor>> {
        match input {
            Input::Texts(texts) => Ok(self.encode_texts(pass, texts, &[])?.pop()),
            _ => Ok(None),
        }
    }

    fn earlier_layers(&self) -> usize {
        self.blocks.len()
    }

    fn encode_layers(
        &self,
        pass: &Pass,
        input: &Input,
        layers: &[usize],
    ) -> Result<Option<Vec<Tensor>>> {
        match input {
            Input::Texts(texts) => self.encode_texts(pass, texts, layers).map(Some),
            _ => Ok(None),
        }
    }

    fn onnx(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Option<Edge>> {
        let Inputs::Texts(texts) = inputs else {
            return Ok(None);
        };
        let norm = |graph: &mut Graph, x: Edge, norm: &Option<LayerNorm>| match norm {
            Some(norm) => onnx::layer_norm(graph, &x, norm),
            None => x,
        };
        let mut x = onnx::token_embeddings(graph, &texts.ids, texts.kinds.as_ref(), &self.tables);
        if let Some(scale) = self.scale {
            let scale = graph.scalar(scale as f32);
            x = graph.op("Mul", &[&x, &scale], &[]);
        }
        let mut x = norm(graph, x, &self.first_norm);
        let mut seen = AttentionContext::of_texts(graph, texts);
        for block in &self.blocks {
            x = onnx::block(graph, &x, block, &mut seen);
        }
        let x = norm(graph, x, &self.last_norm);
        Ok(Some(onnx::pool_texts(graph, &x, texts, self.pooler)))
    }
}

/// Loads the blocks `{name}.0`, `{name}.1` and so on.
pub(super) fn load_blocks(
    params: &Params,
    layers: &BlockLayers,
    name: &str,
    count: usize,
    form: &BlockForm,
) -> Result<Vec<Block>> {
    (0..count)
        .map(|layer| layers.load(params, &format!("{name}.{layer}"), form))
        .collect()
}

/// Returns an error about a `config.json`.
pub(super) fn bad_config(reason: impl std::fmt::Display) -> Error {
    Error::config_json(reason)
}

/// Refuses sizes of 0.
pub(super) fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(bad_config(format!("`{name}` is 0"))),
        None => Ok(()),
    }
}

/// Refuses a width that is not a multiple of the number of heads.
pub(super) fn check_heads(field: &str, width: usize, heads: usize) -> Result<()> {
    if width == 0 || heads == 0 || !width.is_multiple_of(heads) {
        return Err(bad_config(format!(
            "`{field}` {width} is not a multiple of the number of heads, {heads}"
        )));
    }
    Ok(())
}
