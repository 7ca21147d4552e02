//! Optimizers. Names, formulas, options and defaults follow `torch.optim`.

mod adam;
mod choose;
mod gradients;
mod rule;
mod rules;
mod schedule;
mod stepper;
mod tensors;

pub use adam::Adam;
pub use choose::{OptimizerSpec, layer_scales};
pub(crate) use gradients::{clip_gradients, not_finite};
pub use rule::Optimizer;
pub use schedule::{Schedule, ScheduleSpec};
