//! State that the queue shares with the API: leases of workers, status texts of pending
//! jobs, and the queue's health.
//!
//! The queue writes it and the API reads it. The worker's calls renew the leases.

mod health;
mod leases;
mod waits;

pub(crate) use health::Health;
pub(crate) use leases::Leases;
pub(crate) use waits::{Waits, waiting};
