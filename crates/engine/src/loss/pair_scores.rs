//! Losses over the scores of a cross-encoder.
//!
//! They are those of `sentence_transformers.cross_encoder.losses`.

use candle_core::Tensor;

use super::{
    maker::Maker,
    pairwise::{MemberLoss, Members},
};
use crate::{Result, modules::Activation};

/// Returns the scores of a batch's pairs after the activation, `[batch]`.
fn scores(batch: &Members<'_>, activation: Activation) -> Result<Tensor> {
    let [logits] = batch.to_f64()?;
    activation.forward(&logits.flatten_all()?)
}

/// Reads the option `activation_fn`: a PyTorch class, by default none.
fn activation(m: &Maker<'_>) -> Result<Activation> {
    let Some(value) = m.read.value("activation_fn") else {
        return Ok(Activation::Identity);
    };
    let path = value.as_str().ok_or("give the name of a class".to_owned());
    let found = path.and_then(Activation::of_path);
    found.map_err(|reason| m.read.bad("activation_fn", &reason))
}

/// Binary cross-entropy with logits. `pos_weight` is the weight of positive pairs.
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
        // -log(sigmoid(x)), in a form that does not overflow.
        let unlike = (x.neg()?.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let weight = wanted.affine(self.pos_weight - 1.0, 1.0)?;
        let other = (wanted.affine(-1.0, 1.0)? * x)?;
        Ok((other + (weight * unlike)?)?.mean_all()?)
    }
}

/// Mean squared error between scores and targets.
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
