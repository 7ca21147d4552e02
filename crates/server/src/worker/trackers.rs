//! Trackers that follow a run while it goes: MLflow and Weights & Biases, over
//! their HTTP APIs. They need an address or a key.
//!
//! A tracker never fails or slows a run. Each has a task and a queue of its own.
//! Requests to a tracker that can't be reached are repeated, with growing pauses.
//! Rows that don't fit into the queue meanwhile are left out, and the run's log
//! says so. The files in the artifact hold everything.

mod mlflow;
mod requests;
mod rows;
mod setup;
mod tasks;
mod tracker;
mod wandb;

pub(super) use rows::End;
pub(super) use setup::{Environment, Tracked};
pub(super) use tasks::Trackers;

#[cfg(test)]
mod tests;
