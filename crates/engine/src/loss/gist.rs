//! In-batch negatives that a guide model filters.

use candle_core::{D, DType, Tensor};

use super::{
    distance::normalize,
    maker::Maker,
    math::log_sum_exp,
    pairwise::{MemberLoss, Members, to_f64},
};
use crate::Result;

/// `GISTEmbedLoss` (Solatorio 2024, arXiv:2402.16829).
///
/// Each anchor must match its positive among all positives, anchors and further
/// negatives of the batch. A frozen guide model excludes candidates that are too
/// similar to be negatives. Equal to the loss of this name in sentence-transformers.
pub(super) struct Gist {
    temperature: f64,
    margin: f64,
    /// Whether the margin is relative to the positive's similarity.
    relative: bool,
    contrast_anchors: bool,
    contrast_positives: bool,
}

impl Gist {
    /// Reads its options. The plan loads the model named by `guide`.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        m.read.value("guide");
        let known = ["absolute", "relative"];
        Ok(Box::new(Self {
            temperature: m.read.positive("temperature", 0.01)?,
            margin: m.read.any_number("margin", 0.0)?,
            relative: m.read.choice("margin_strategy", "absolute", &known)? == "relative",
            contrast_anchors: m.read.flag("contrast_anchors", true)?,
            contrast_positives: m.read.flag("contrast_positives", true)?,
        }))
    }
}

/// Two sets of rows, of which all pairs are compared.
type Compared<'a> = (&'a Tensor, &'a Tensor);

impl MemberLoss for Gist {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let of = |parts: &[Tensor]| -> Result<Vec<Tensor>> {
            parts.iter().map(|part| normalize(&to_f64(part)?)).collect()
        };
        let (own, guide) = (of(batch.parts)?, of(batch.guide)?);
        let (
            [anchor, positive, negatives @ ..],
            [guide_anchor, guide_positive, guide_negatives @ ..],
        ) = (&own[..], &guide[..])
        else {
            return Err(batch.refused());
        };
        let n = anchor.dim(0)?;
        let found = (guide_anchor * guide_positive)?.sum_keepdim(D::Minus1)?;
        let most = match self.relative {
            true => (&found - found.abs()?.affine(self.margin, 0.0)?)?,
            false => found.affine(1.0, -self.margin)?,
        };
        let mut compared: Vec<(Compared<'_>, Compared<'_>)> =
            vec![((anchor, positive), (guide_anchor, guide_positive))];
        if self.contrast_anchors {
            compared.push(((anchor, anchor), (guide_anchor, guide_anchor)));
        }
        if self.contrast_positives {
            compared.push(((positive, positive), (guide_positive, guide_positive)));
        }
        for (negative, guide_negative) in negatives.iter().zip(guide_negatives) {
            compared.push(((anchor, negative), (guide_anchor, guide_negative)));
        }
        let own_pairs = Tensor::eye(n, DType::F64, anchor.device())?;
        let (mut similarities, mut keep) = (Vec::new(), Vec::new());
        for (place, ((x, y), (guide_x, guide_y))) in compared.into_iter().enumerate() {
            similarities.push(x.matmul(&y.t()?)?);
            let guided = guide_x.matmul(&guide_y.t()?)?;
            let kept = guided.broadcast_le(&most)?.to_dtype(DType::F64)?;
            // The anchor's own positive always counts.
            keep.push(match place {
                0 => kept.maximum(&own_pairs)?,
                _ => kept,
            });
        }
        let logits = (Tensor::cat(&similarities, 1)? / self.temperature)?;
        let wanted = (similarities.swap_remove(0) * own_pairs)?.sum(1)?;
        let all = log_sum_exp(&logits, Some(&Tensor::cat(&keep, 1)?), false, 1)?;
        Ok((all - (wanted / self.temperature)?)?.mean_all()?)
    }
}
