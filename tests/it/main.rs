//! Tests of the SDK: with a mock server for details of the wire format, and with the
//! real backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
mod bad_input;
mod catalogue;
mod configurations;
mod data;
mod errors;
mod faults;
mod files;
mod history;
mod journey;
mod login;
mod meshes;
mod mock;
mod models;
mod outage;
mod process;
mod proxies;
mod push;
mod retries;
mod runs;
mod saving;
mod secrets;
mod service;
mod streams;
mod synthesis;
mod tokens;
mod wire;
