//! Evaluates embeddings: retrieval, and similarity of pairs and triplets.

mod at_k;
mod binary;
mod correlation;
mod decline;
mod graded;
mod metrics;
mod relevance;
mod retrieval;
mod similarity;

pub(crate) use at_k::AtK;
pub(crate) use correlation::{pearson, spearman};
pub use decline::declined;
pub(crate) use graded::{GradedKind, GradedSet, is_graded};
pub use metrics::{METRICS, Metrics};
pub use relevance::Relevance;
pub use retrieval::{Distance, Match, Ranking, cos_sim, rank};
pub(crate) use retrieval::{largest_first, smallest_first};
