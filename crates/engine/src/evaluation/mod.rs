//! How good embeddings are for search.

mod at_k;
mod metrics;
mod relevance;
mod retrieval;

pub(crate) use at_k::AtK;
pub use metrics::{METRICS, Metrics};
pub use relevance::Relevance;
pub use retrieval::{Distance, Match, Ranking, cos_sim, rank};
