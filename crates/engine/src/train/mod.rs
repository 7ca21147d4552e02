//! Training: batches in, better parameters out.

mod batches;
mod checkpoint;
mod trainer;

pub(crate) use batches::shuffled_order;
pub use batches::{Batches, Pair};
pub use checkpoint::Checkpoint;
pub use trainer::{Position, Step, Trainer, TrainerOptions};
