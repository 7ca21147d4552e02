//! Losses of cross-encoders, over their scores of pairs: those of
//! `sentence_transformers.cross_encoder.losses`.

use candle_core::Tensor;

use super::{
    Maker,
    pairwise::{MemberLoss, Members},
};
use crate::{Result, modules::Activation};

/// The scores of a batch's pairs behind the activation of the loss, `[batch]`.
fn scores(batch: &Members<'_>, activation: Activation) -> Result<Tensor> {
    let [logits] = batch.widened()?;
    activation.forward(&logits.flatten_all()?)
}

/// The option `activation_fn`: a class of PyTorch, none by default.
fn activation(m: &Maker<'_>) -> Result<Activation> {
    let Some(value) = m.read.value("activation_fn") else {
        return Ok(Activation::Identity);
    };
    let path = value
        .as_str()
        .ok_or("the name of a class is wanted".to_owned());
    let found = path.and_then(Activation::of_path);
    found.map_err(|reason| m.read.bad("activation_fn", &reason))
}

/// Binary cross-entropy with logits: `pos_weight` counts pairs that belong
/// together so many times.
pub(super) struct BinaryCrossEntropy {
    activation: Activation,
    pos_weight: f64,
}

impl BinaryCrossEntropy {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self {
            activation: activation(m)?,
            pos_weight: m.read.positive("pos_weight", 1.0)?,
        }))
    }
}

impl MemberLoss for BinaryCrossEntropy {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let x = scores(batch, self.activation)?;
        let wanted = batch.scores()?;
        // -log(sigmoid(x)), which does not overflow for large scores.
        let unlike = (x.neg()?.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let weight = wanted.affine(self.pos_weight - 1.0, 1.0)?;
        let other = (wanted.affine(-1.0, 1.0)? * x)?;
        Ok((other + (weight * unlike)?)?.mean_all()?)
    }
}

/// Mean squared difference between scores and those that are wanted.
pub(super) struct Mse {
    activation: Activation,
}

impl Mse {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        Ok(Box::new(Self {
            activation: activation(m)?,
        }))
    }
}

impl MemberLoss for Mse {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let x = scores(batch, self.activation)?;
        Ok((x - batch.scores()?)?.sqr()?.mean_all()?)
    }
}
