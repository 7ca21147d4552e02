//! Training of models.

mod batch_size;
mod batches;
mod checkpoint;
mod mix;
mod sampler;
mod step;
mod trainer;

pub(crate) use batch_size::choose_batch_size;
pub(crate) use batches::Guide;
pub use checkpoint::{read_checkpoint, write_checkpoint};
pub(crate) use mix::describe as describe_mix;
pub use sampler::Sampling;
pub use trainer::{LearningRate, Position, Step, Trainer, TrainerOptions};
