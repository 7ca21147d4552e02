//! One training step on a batch: its loss and gradients.
//!
//! If the loss splits a batch into mini-batches, gradients are cached (Gao et
//! al. 2021, arXiv:2101.06983). First all mini-batches are embedded without
//! keeping their graphs. The loss of the whole batch gives the gradients of the
//! embeddings. Then each mini-batch is embedded again and backpropagates its
//! part of these. Memory use is that of one mini-batch, and the gradients are
//! those of the whole batch.

use std::ops::Range;

use candle_core::{DType, Tensor, Var, backprop::GradStore};

use super::batches::Batch;
use crate::{
    Error, Result,
    loss::{Beside, Criterion, Target},
    models::{Input, Model},
    ops::{Draws, Pass},
};

/// The loss of a batch on its device. It is read after the backward pass, so
/// that the host does not wait for the device earlier.
struct DeviceLoss {
    value: Tensor,
    /// Sum of each member's embeddings. It is finite only if they all are.
    sums: Vec<Tensor>,
}

impl DeviceLoss {
    fn read(self) -> Result<BatchLoss> {
        let sums = self.sums.iter().map(|sum| sum.to_scalar::<f32>());
        let sums = sums.collect::<candle_core::Result<Vec<f32>>>()?;
        Ok(BatchLoss {
            value: self.value.to_dtype(DType::F32)?.to_scalar()?,
            finite: sums.iter().all(|sum| sum.is_finite()),
        })
    }
}

/// The loss of a batch.
pub(super) struct BatchLoss {
    pub(super) value: f32,
    /// Whether all embeddings are finite. Needed since NaN distances may count
    /// as zero loss.
    finite: bool,
}

impl BatchLoss {
    /// Returns an error if the run has diverged.
    pub(super) fn check(&self, epoch: usize, step: usize) -> Result<()> {
        if !self.value.is_finite() {
            let loss = self.value;
            return Err(Error::Diverged { loss, epoch, step });
        }
        if !self.finite {
            let what = format!("the embeddings of epoch {epoch}, step {step},");
            return Err(Error::NotFinite { what });
        }
        Ok(())
    }
}

/// A batch's position in the run, and its settings.
#[derive(Clone, Copy)]
pub(super) struct BatchSettings {
    /// Number of the batch over all epochs; it seeds random draws.
    pub(super) number: u64,
    /// Weight of the batch's loss in the step.
    pub(super) share: f64,
    /// The run's seed, if training uses dropout.
    pub(super) dropout: Option<u64>,
    /// The run's seed, if adapters use dropout.
    pub(super) adapters: Option<u64>,
}

impl BatchSettings {
    /// Returns the pass for the member `member` of the examples, from example
    /// number `first` on.
    fn pass(&self, model: &Model, member: usize, first: usize) -> Pass {
        let draws = |seed| Draws::new(seed, self.number, member).starting_at(first);
        let pass = model.training().with_draws(self.dropout.map(draws));
        pass.with_adapter_draws(self.adapters.map(draws))
    }
}

/// Computes the loss of a batch without training.
pub(super) fn evaluate(
    model: &Model,
    guide: Option<&Model>,
    criterion: &mut Criterion,
    batch: &Batch,
) -> Result<BatchLoss> {
    let pass = model.inference();
    let guided = guided(guide, batch)?;
    let layers = criterion.layers_of_step(model.earlier_layers(), 0);
    if !layers.is_empty() {
        let (parts, layers) = embed_layers(model, |_| pass.clone(), batch, &layers)?;
        let beside = Beside {
            guide: &guided,
            layers: &layers,
        };
        let (_, loss_value) = loss(model, criterion, &pass, &parts, beside, batch, None)?;
        return loss_value.read();
    }
    let slices = slices(criterion, batch);
    let embed = |(member, input): (usize, &Input)| {
        let x = embed(model, |_| pass.clone(), input, &slices)?;
        model.encode_top(&pass, &x, input.is_texts(member))
    };
    let parts: Vec<Tensor> = members(batch).map(embed).collect::<Result<_>>()?;
    let beside = Beside {
        guide: &guided,
        layers: &[],
    };
    let (_, loss_value) = loss(model, criterion, &pass, &parts, beside, batch, None)?;
    loss_value.read()
}

/// Computes the loss of a batch in training, and accumulates the gradients of
/// model and loss.
pub(super) fn train(
    model: &Model,
    guide: Option<&Model>,
    criterion: &mut Criterion,
    batch: &Batch,
    settings: BatchSettings,
) -> Result<BatchLoss> {
    let guided = guided(guide, batch)?;
    let slices = slices(criterion, batch);
    if slices.len() > 1 {
        return train_cached(model, &guided, criterion, batch, settings, &slices);
    }
    let layers = criterion.layers_of_step(model.earlier_layers(), settings.number);
    let pass = |member: usize| settings.pass(model, member, 0);
    let (parts, layers) = match layers.is_empty() {
        true => {
            let encode = |(member, input): (usize, &Input)| {
                model.encode_member(&pass(member), input, member)
            };
            let parts = members(batch).map(encode).collect::<Result<_>>()?;
            (parts, Vec::new())
        }
        false => embed_layers(model, pass, batch, &layers)?,
    };
    let beside = Beside {
        guide: &guided,
        layers: &layers,
    };
    let (_, loss_value) = backward(model, criterion, &parts, beside, batch, settings)?;
    loss_value.read()
}

/// Like [`train`], with the graph of one mini-batch at a time.
fn train_cached(
    model: &Model,
    guided: &[Tensor],
    criterion: &mut Criterion,
    batch: &Batch,
    settings: BatchSettings,
    slices: &[Range<usize>],
) -> Result<BatchLoss> {
    let embed = |(member, input): (usize, &Input)| {
        let embedded = embed(
            model,
            |first| settings.pass(model, member, first),
            input,
            slices,
        )?;
        Ok(Var::from_tensor(&embedded)?)
    };
    let leaves: Vec<Var> = members(batch).map(embed).collect::<Result<_>>()?;
    let finish = |(leaf, (member, input)): (&Var, (usize, &Input))| {
        // Fused operations pass no gradient to a variable itself.
        let x = leaf.as_tensor().affine(1.0, 0.0)?;
        let pass = settings.pass(model, member, 0);
        model.encode_top(&pass, &x, input.is_texts(member))
    };
    let parts = leaves.iter().zip(members(batch)).map(finish);
    let parts: Vec<Tensor> = parts.collect::<Result<_>>()?;
    let beside = Beside {
        guide: guided,
        layers: &[],
    };
    let (grads, loss_value) = backward(model, criterion, &parts, beside, batch, settings)?;
    drop(parts);
    if !model.trains_trunk() {
        return loss_value.read();
    }
    for (leaf, (member, input)) in leaves.iter().zip(members(batch)) {
        let Some(grad) = grads.get(leaf) else {
            continue;
        };
        for range in slices {
            // The same dropout masks as in the first pass.
            let pass = settings.pass(model, member, range.start);
            let x = model.encode_trunk(&pass, &input.slice(range.clone())?)?;
            let grad = grad.narrow(0, range.start, range.len())?;
            // The gradient of this sum with respect to `x` is `grad`.
            let product = (x * grad)?.sum_all()?;
            model.params().collect(&product.backward()?)?;
        }
    }
    loss_value.read()
}

/// Returns the guide's embeddings, if the loss has a guide.
fn guided(guide: Option<&Model>, batch: &Batch) -> Result<Vec<Tensor>> {
    let Some(guide) = guide else {
        return Ok(Vec::new());
    };
    let pass = guide.inference();
    let embed = |input: &Input| Ok(guide.encode(&pass, input)?.detach());
    batch.guide.iter().map(embed).collect()
}

/// Embeddings of the last layer, and those of earlier layers with their
/// numbers.
type Layers = (Vec<Tensor>, Vec<(usize, Vec<Tensor>)>);

/// Embeds each member of a batch by the last layer and by earlier ones. `pass`
/// returns the pass for a member.
fn embed_layers(
    model: &Model,
    pass: impl Fn(usize) -> Pass,
    batch: &Batch,
    layers: &[usize],
) -> Result<Layers> {
    let mut last = Vec::new();
    let mut earlier: Vec<(usize, Vec<Tensor>)> =
        layers.iter().map(|layer| (*layer, Vec::new())).collect();
    for (member, input) in members(batch) {
        let mut found = model.encode_layers(&pass(member), input, layers)?;
        last.extend(found.pop());
        for ((_, parts), x) in earlier.iter_mut().zip(found) {
            parts.push(x);
        }
    }
    Ok((last, earlier))
}

/// Returns the inputs of a batch with their member numbers.
fn members(batch: &Batch) -> impl Iterator<Item = (usize, &Input)> {
    batch.inputs.iter().enumerate()
}

/// Returns the range of each mini-batch.
fn slices(criterion: &Criterion, batch: &Batch) -> Vec<Range<usize>> {
    let count = batch.len();
    let size = criterion.mini_batch().unwrap_or(count).max(1);
    let starts = (0..count).step_by(size);
    starts.map(|start| start..count.min(start + size)).collect()
}

/// Returns the output of the model's trunk without gradients. `pass` returns
/// the pass for the mini-batch that starts at an example.
fn embed(
    model: &Model,
    pass: impl Fn(usize) -> Pass,
    input: &Input,
    slices: &[Range<usize>],
) -> Result<Tensor> {
    if let [_] = slices {
        return Ok(model.encode_trunk(&pass(0), input)?.detach());
    }
    let parts = slices.iter().map(|range| {
        let part = input.slice(range.clone())?;
        Ok(model.encode_trunk(&pass(range.start), &part)?.detach())
    });
    let parts: Vec<Tensor> = parts.collect::<Result<_>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// Computes the loss of embeddings; for training if `settings` are given.
fn loss(
    model: &Model,
    criterion: &mut Criterion,
    pass: &Pass,
    parts: &[Tensor],
    beside: Beside<'_>,
    batch: &Batch,
    settings: Option<BatchSettings>,
) -> Result<(Tensor, DeviceLoss)> {
    let sums = parts.iter().map(|part| part.detach().sum_all());
    let sums = sums.collect::<candle_core::Result<_>>()?;
    let target = Target {
        labels: &batch.classes,
        scores: &batch.scores,
    };
    let number = settings.map_or(0, |settings| settings.number);
    let training = settings.is_some();
    let tensor = criterion.loss_beside(model, pass, parts, beside, target, number, training)?;
    let loss_value = DeviceLoss {
        value: tensor.detach(),
        sums,
    };
    let share = settings.map_or(1.0, |settings| settings.share);
    let tensor = match share == 1.0 {
        true => tensor,
        false => tensor.affine(share, 0.0)?,
    };
    Ok((tensor, loss_value))
}

/// Computes the loss of embeddings in training, and accumulates the gradients of
/// model and loss. Returns all gradients.
fn backward(
    model: &Model,
    criterion: &mut Criterion,
    parts: &[Tensor],
    beside: Beside<'_>,
    batch: &Batch,
    settings: BatchSettings,
) -> Result<(GradStore, DeviceLoss)> {
    let pass = model.training();
    let settings = Some(settings);
    let (tensor, loss_value) = loss(model, criterion, &pass, parts, beside, batch, settings)?;
    let grads = tensor.backward()?;
    model.params().collect(&grads)?;
    criterion.params().collect(&grads)?;
    Ok((grads, loss_value))
}
