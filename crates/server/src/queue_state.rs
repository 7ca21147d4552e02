//! State that the queue shares with the API: leases, where jobs wait, and
//! whether the queue works.
//!
//! The queue writes it and the API reads it. The worker's calls renew the leases.

mod health;
mod leases;
mod waits;

pub(crate) use health::Health;
pub(crate) use leases::Leases;
pub(crate) use waits::{Waits, waiting};
