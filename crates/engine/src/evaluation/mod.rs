//! How good embeddings are for search.

mod metrics;
mod retrieval;

pub use metrics::{METRICS, Metrics, Relevance};
pub use retrieval::{Distance, Match, Ranking, cos_sim, rank};
