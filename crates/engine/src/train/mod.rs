//! Training: batches in, better parameters out.

mod batches;
mod beside;
mod checkpoint;
mod memory;
mod sampler;
mod trainer;

pub(crate) use batches::Guide;
pub use checkpoint::Checkpoint;
pub use memory::choose_batch_size;
pub use sampler::Sampling;
pub(crate) use sampler::shuffled_order;
pub use trainer::{LearningRate, Position, Step, Trainer, TrainerOptions};
