//! Tests of the program `finetuner` as a process, with a real backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
mod data;
mod deletion;
mod embedded;
mod output;
mod program;
mod runs;
mod usage;
