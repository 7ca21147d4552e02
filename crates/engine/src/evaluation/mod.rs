//! How good embeddings are for search.

mod at_k;
mod correlation;
mod metrics;
mod relevance;
mod retrieval;

pub(crate) use at_k::AtK;
pub(crate) use correlation::{pearson, spearman};
pub use metrics::{METRICS, Metrics};
pub use relevance::Relevance;
pub use retrieval::{Distance, Match, Ranking, cos_sim, rank};
