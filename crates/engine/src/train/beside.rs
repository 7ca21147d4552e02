//! What some losses need of a batch beside its embeddings.

use candle_core::Tensor;

use super::batches::Batch;
use crate::{
    Result,
    models::{Input, Model},
    ops::Pass,
};

/// The embeddings that the model gives which a loss asks, if there is one.
pub(super) fn guided(guide: Option<&Model>, batch: &Batch) -> Result<Vec<Tensor>> {
    let Some(guide) = guide else {
        return Ok(Vec::new());
    };
    let pass = guide.inference();
    let embed = |input: &Input| Ok(guide.encode(&pass, input)?.detach());
    batch.guide.iter().map(embed).collect()
}

/// The embeddings of the last layer, and those of some earlier layers with their
/// numbers.
type Layers = (Vec<Tensor>, Vec<(usize, Vec<Tensor>)>);

/// Embeds each member of a batch by the last layer and by these earlier ones.
pub(super) fn embed(model: &Model, pass: &Pass, batch: &Batch, layers: &[usize]) -> Result<Layers> {
    let inputs = batch.inputs.iter().enumerate();
    if layers.is_empty() {
        let embed = |(member, input): (usize, &Input)| model.encode_member(pass, input, member);
        return Ok((inputs.map(embed).collect::<Result<_>>()?, Vec::new()));
    }
    let mut last = Vec::new();
    let mut earlier: Vec<(usize, Vec<Tensor>)> =
        layers.iter().map(|layer| (*layer, Vec::new())).collect();
    for (_, input) in inputs {
        let mut found = model.encode_layers(pass, input, layers)?;
        last.extend(found.pop());
        for ((_, parts), x) in earlier.iter_mut().zip(found) {
            parts.push(x);
        }
    }
    Ok((last, earlier))
}
