//! `finetuner-server`; see [`finetuner_server::command`].

use std::process::ExitCode;

use clap::Parser;
use finetuner_server::command::Command;

// Training frees and takes large buffers all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Command::parse().run()
}
