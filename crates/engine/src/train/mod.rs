//! Training: batches in, better parameters out.

mod batches;
mod checkpoint;
mod trainer;

pub use batches::{Batches, Pair};
pub use checkpoint::Checkpoint;
pub use trainer::{Position, Step, Trainer, TrainerOptions};
