//! How alike two embeddings are, by the names of sentence-transformers.

/// A similarity: the greater, the more alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Similarity {
    /// Cosine of the angle.
    Cosine,
    /// The product.
    Dot,
    /// The length of the difference, with its sign changed.
    Euclidean,
    /// The sum of the differences of all values, with its sign changed.
    Manhattan,
}

impl Similarity {
    pub(crate) const ALL: [Self; 4] = [Self::Cosine, Self::Dot, Self::Euclidean, Self::Manhattan];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
            Self::Manhattan => "manhattan",
        }
    }

    /// Whether it is a distance with its sign changed.
    pub(crate) fn is_distance(self) -> bool {
        matches!(self, Self::Euclidean | Self::Manhattan)
    }

    pub(crate) fn between(self, x: &[f32], y: &[f32]) -> f32 {
        let pairs = || x.iter().zip(y);
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        match self {
            Self::Cosine => super::cos_sim(x, y),
            Self::Dot => dot(x, y),
            Self::Euclidean => -pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt(),
            Self::Manhattan => -pairs().map(|(x, y)| (x - y).abs()).sum::<f32>(),
        }
    }
}
