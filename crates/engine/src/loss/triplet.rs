//! Triplets that the data gives.

use candle_core::{D, Tensor};

use super::{
    Maker,
    distance::normalize,
    pairwise::{MemberLoss, Members},
};
use crate::Result;

/// `TripletLoss` of sentence-transformers (Hermans et al. 2017,
/// arXiv:1703.07737): the anchor is nearer to its match than to each of its
/// negatives, by a margin.
pub(super) struct Triplet {
    distance: Distance,
    margin: f64,
}

/// The distance between two embeddings.
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
    /// The distance between row `i` of both.
    fn of(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        // As `torch.nn.functional.pairwise_distance`: no difference is 0, where
        // the root has no gradient.
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
        let parts = batch.all_widened()?;
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
