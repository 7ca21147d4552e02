//! `finetuner-server`; see [`finetuner_server::command`].

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use finetuner_server::command::Command;
use tracing_subscriber::EnvFilter;

// Training frees and takes large buffers all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Command::parse().run()
}
