//! The list of all losses, one line each.

use finetuner_protocol::Loss;

use super::{
    batch::MetricLoss,
    batch_triplets::BatchTriplets,
    cosent::CoSent,
    distill::{DistillKlDiv, EmbedDistill},
    gist::Gist,
    maker::Maker,
    neighbours,
    pair_scores::{BinaryCrossEntropy, Mse},
    pairs,
    pairwise::{self, MemberLoss},
    proxies, sigmoid, triplet, triplets,
};
use crate::{Error, Result};

/// Kind of examples that a loss needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossKind {
    /// Text-image pairs.
    Clip,
    /// Examples with labels.
    Labels,
    /// Any number of items per example. Examples are not compared with each other.
    Items,
    /// Pairs.
    Pairs,
    /// Pairs, optionally with negatives.
    ///
    /// All other examples of a batch are negatives too.
    Ranking,
    /// Pairs with a score, for cross-encoders.
    PairScores,
    /// Pairs with a score.
    Scores,
    /// An anchor, a positive and negatives.
    Negatives,
    /// An anchor, a positive and negatives, with a margin for each negative.
    Margins,
}

/// An entry of the list.
pub(super) struct Entry {
    pub(super) name: Loss,
    pub(super) make: Make,
}

/// Constructor of a loss.
pub(super) enum Make {
    /// A loss over the members of examples of this kind.
    Members(LossKind, MakeMembers),
    /// A loss over labels.
    Labels(Traits, MakeLabels),
    /// A loss that combines other losses; see `build`.
    Wrapper,
}

pub(super) type MakeMembers = fn(&mut Maker<'_>) -> Result<Box<dyn MemberLoss>>;
pub(super) type MakeLabels = fn(&mut Maker<'_>) -> Result<Box<dyn MetricLoss>>;

/// Use of a batch by a loss over labels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Traits {
    /// Compares the examples of a batch.
    Compares,
    /// Compares examples, and supports a memory of earlier batches.
    Remembers,
    /// Classifies with one weight per class. It needs no pairs in a batch.
    Classifies,
}

const fn labels(name: Loss, traits: Traits, make: MakeLabels) -> Entry {
    Entry {
        name,
        make: Make::Labels(traits, make),
    }
}

const fn members(name: Loss, kind: LossKind, make: MakeMembers) -> Entry {
    Entry {
        name,
        make: Make::Members(kind, make),
    }
}

const fn wrapper(name: Loss) -> Entry {
    Entry {
        name,
        make: Make::Wrapper,
    }
}

use Traits::{Classifies, Compares, Remembers};

/// All losses that can be used for training.
#[rustfmt::skip]
const LOSSES: &[Entry] = &[
    members(Loss::BinaryCrossEntropy, LossKind::PairScores, BinaryCrossEntropy::make),
    members(Loss::AnglE, LossKind::Scores, CoSent::make_angle),
    members(Loss::CachedMultipleNegativesRanking, LossKind::Ranking, pairwise::MultipleNegatives::make_cached),
    members(Loss::Clip, LossKind::Clip, pairwise::Clip::make),
    members(Loss::CoSent, LossKind::Scores, CoSent::make),
    members(Loss::CosineSimilarity, LossKind::Scores, pairwise::CosineSimilarity::make),
    members(Loss::Mse, LossKind::PairScores, Mse::make),
    members(Loss::DistillKlDiv, LossKind::Negatives, DistillKlDiv::make),
    members(Loss::EmbedDistill, LossKind::Items, EmbedDistill::make),
    members(Loss::Gist, LossKind::Ranking, Gist::make),
    members(Loss::MarginMse, LossKind::Margins, pairwise::MarginMse::make),
    members(Loss::MultipleNegativeRanking, LossKind::Ranking, pairwise::MultipleNegatives::make),
    members(Loss::SigLip, LossKind::Clip, sigmoid::SigLip::make),
    members(Loss::Triplet, LossKind::Negatives, triplet::Triplet::make),
    members(Loss::VicReg, LossKind::Pairs, pairwise::VicReg::make),
    wrapper(Loss::AdaptiveLayer),
    wrapper(Loss::CrossBatchMemory),
    wrapper(Loss::Matryoshka),
    wrapper(Loss::Matryoshka2d),
    wrapper(Loss::MultipleLosses),
    labels(Loss::Angular, Remembers, triplets::Angular::make),
    labels(Loss::ArcFace, Classifies, proxies::MarginSoftmax::make_arc_face),
    labels(Loss::BatchAllTriplet, Compares, BatchTriplets::make_all),
    labels(Loss::BatchHardSoftMarginTriplet, Compares, BatchTriplets::make_soft),
    labels(Loss::BatchHardTriplet, Compares, BatchTriplets::make_hard),
    labels(Loss::BatchSemiHardTriplet, Compares, BatchTriplets::make_semi_hard),
    labels(Loss::CentroidTriplet, Compares, triplets::CentroidTriplet::make),
    labels(Loss::Circle, Remembers, pairs::Circle::make),
    labels(Loss::Contrastive, Remembers, pairs::Contrastive::make),
    labels(Loss::CosFace, Classifies, proxies::MarginSoftmax::make_cos_face),
    labels(Loss::FastAp, Compares, neighbours::FastAp::make),
    labels(Loss::GeneralizedLiftedStructure, Remembers, pairs::GeneralizedLiftedStructure::make),
    labels(Loss::IntraPairVariance, Remembers, pairs::IntraPairVariance::make),
    labels(Loss::LargeMarginSoftmax, Classifies, proxies::MarginSoftmax::make_large_margin),
    labels(Loss::LiftedStructure, Remembers, pairs::LiftedStructure::make),
    labels(Loss::Margin, Remembers, triplets::Margin::make),
    labels(Loss::MultiSimilarity, Remembers, pairs::MultiSimilarity::make),
    labels(Loss::Nca, Remembers, neighbours::Nca::make),
    labels(Loss::NormalizedSoftmax, Classifies, proxies::NormalizedSoftmax::make),
    labels(Loss::NPairs, Compares, neighbours::NPairs::make),
    labels(Loss::NtXent, Remembers, pairs::NtXent::make),
    labels(Loss::NtXentMisspelled, Compares, pairs::NtXent::make),
    labels(Loss::ProxyAnchor, Classifies, proxies::ProxyAnchor::make),
    labels(Loss::ProxyNca, Classifies, proxies::ProxyNca::make),
    labels(Loss::SignalToNoiseRatioContrastive, Remembers, pairs::Contrastive::make_snr),
    labels(Loss::SoftTriple, Classifies, proxies::SoftTriple::make),
    labels(Loss::SphereFace, Classifies, proxies::MarginSoftmax::make_sphere_face),
    labels(Loss::SupCon, Remembers, pairs::SupCon::make),
    labels(Loss::TripletMargin, Remembers, triplets::TripletMargin::make),
    labels(Loss::TupletMargin, Remembers, pairs::TupletMargin::make),
];

/// Returns the entry of a loss.
///
/// # Errors
/// [`Error::Config`] if the loss can't be used for training.
pub(super) fn find(loss: &Loss) -> Result<&'static Entry> {
    if let Some(entry) = LOSSES.iter().find(|entry| entry.name == *loss) {
        return Ok(entry);
    }
    let reason = match loss {
        Loss::BaseMetricLossFunction
        | Loss::GenericPair
        | Loss::EmbeddingRegularizerMixin
        | Loss::WeightRegularizerMixin => {
            format!("`{loss}` is a base class: choose a loss that is derived from it")
        }
        other => {
            let known: Vec<&str> = Loss::KNOWN.iter().map(Loss::as_str).collect();
            format!("`{other}` is unknown; the losses are {}", known.join(", "))
        }
    };
    Err(Error::config("loss", reason))
}

/// Returns the losses that support a memory of earlier batches.
pub(super) fn with_memory() -> impl Iterator<Item = &'static Loss> {
    let entries = LOSSES.iter();
    let remembers = |entry: &&Entry| matches!(entry.make, Make::Labels(Remembers, _));
    entries.filter(remembers).map(|entry| &entry.name)
}
