//! Training: batches in, better parameters out.

mod batches;
mod checkpoint;
mod memory;
mod mix;
mod sampler;
mod step;
mod trainer;

pub use checkpoint::Checkpoint;
pub use memory::choose_batch_size;
pub(crate) use mix::describe as describe_mix;
pub use sampler::Sampling;
pub(crate) use sampler::shuffled_order;
pub use trainer::{LearningRate, Position, Step, Trainer, TrainerOptions};
