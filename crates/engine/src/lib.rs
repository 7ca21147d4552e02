//! The engine.
pub mod augment;
mod error;
pub mod evaluation;
pub mod image;
mod kernels;
pub mod loss;
pub mod models;
mod ops;
pub mod optim;
pub mod params;
pub mod tokenizer;
pub mod train;
pub use error::{Error, Result};
pub use ops::{Kernels, Pass};
