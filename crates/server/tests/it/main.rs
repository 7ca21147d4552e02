//! Tests of the server over HTTP, as a browser, and as a process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admin;
mod cache;
mod command;
mod console;
mod console_data;
mod console_forms;
mod console_lists;
mod console_runs;
mod console_security;
mod fields;
mod hostile;
mod hubble;
#[cfg(target_os = "linux")]
mod isolation;
mod limits;
mod logins;
mod mail;
mod oidc;
mod openapi;
mod projects;
mod queue;
mod security;
mod serving;
mod shares;
mod start;
mod storage;
mod support;
mod survival;
mod tls;
mod try_it;
mod uploads;
mod webhooks;
