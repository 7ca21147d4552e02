//! The program `finetuner` as a process, against a real backend in the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
mod data;
mod embedded;
mod output;
mod program;
mod runs;
mod usage;
