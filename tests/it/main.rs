//! What a user does with the SDK: against a mock server, where the wire itself
//! is in question, and against the real backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
mod bad_input;
mod faults;
mod journey;
mod mock;
mod wire;
