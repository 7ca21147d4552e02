//! `TripletLoss`: triplets from the data.

use candle_core::{D, Tensor};

use super::{
    distance::normalize,
    maker::Maker,
    pairwise::{MemberLoss, Members},
};
use crate::Result;

/// `TripletLoss` of sentence-transformers (Hermans et al. 2017, arXiv:1703.07737).
///
/// The anchor must be nearer to its positive than to each negative, by a margin.
pub(super) struct Triplet {
    distance: Distance,
    margin: f64,
}

/// Distance between two embeddings.
#[derive(Clone, Copy)]
enum Distance {
    Cosine,
    Euclidean,
    Manhattan,
}

impl Triplet {
    /// Reads its options.
    pub(super) fn make(m: &mut Maker<'_>) -> Result<Box<dyn MemberLoss>> {
        let known = ["cosine", "euclidean", "manhattan"];
        let distance = m.read.choice("distance_metric", "euclidean", &known)?;
        Ok(Box::new(Self {
            distance: match distance.as_str() {
                "cosine" => Distance::Cosine,
                "manhattan" => Distance::Manhattan,
                _ => Distance::Euclidean,
            },
            margin: m.read.any_number("triplet_margin", 5.0)?,
        }))
    }
}

impl Distance {
    /// Returns the distance between each row of `x` and `y`.
    fn of(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        // As in `torch.nn.functional.pairwise_distance`, which avoids the infinite
        // gradient of the root at 0.
        let difference = || (x - y)?.affine(1.0, 1e-6);
        Ok(match self {
            Self::Cosine => (normalize(x)? * normalize(y)?)?
                .sum(D::Minus1)?
                .affine(-1.0, 1.0)?,
            Self::Euclidean => difference()?.sqr()?.sum(D::Minus1)?.sqrt()?,
            Self::Manhattan => difference()?.abs()?.sum(D::Minus1)?,
        })
    }
}

impl MemberLoss for Triplet {
    fn loss(&self, batch: &Members<'_>) -> Result<Tensor> {
        let parts = batch.all_to_f64()?;
        let [anchor, positive, negatives @ ..] = &parts[..] else {
            return Err(batch.refused());
        };
        if negatives.is_empty() {
            return Err(batch.refused());
        }
        let near = self.distance.of(anchor, positive)?;
        let loss = |negative: &Tensor| -> Result<Tensor> {
            let over = (&near - self.distance.of(anchor, negative)?)?;
            Ok(over.affine(1.0, self.margin)?.relu()?)
        };
        let losses: Vec<Tensor> = negatives.iter().map(loss).collect::<Result<_>>()?;
        Ok(Tensor::cat(&losses, 0)?.mean_all()?)
    }
}
