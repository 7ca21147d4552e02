//! How good embeddings are for search.

mod at_k;
mod metrics;
mod retrieval;

pub(crate) use at_k::AtK;
pub use metrics::{METRICS, Metrics, Relevance};
pub use retrieval::{Distance, Match, Ranking, cos_sim, rank};
