//! `finetuner`: fine-tuning, from the data to the saved model, without a program.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `cli` | the options that all commands share, and the list of commands |
//! | `commands` | one file for each group of commands |
//! | `session` | the client of the chosen backend, and the backend inside the program |
//! | `output`, `progress` | tables and JSON on standard output, bars on standard error |
//! | `values`, `sources` | values of options, and files as data |
//! | `failure` | errors as one sentence, and exit codes |

mod cli;
mod commands;
mod failure;
mod global;
mod output;
mod progress;
mod session;
mod sources;
mod values;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::Cli;
use failure::Failure;
use output::Output;
use session::Session;

// Training frees and takes large buffers all the time.
#[cfg(feature = "embedded")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Looked for before parsing, for the colours of `--help` and of usage errors.
    if std::env::args_os().any(|argument| argument == "--no-color") {
        anstream::ColorChoice::Never.write_global();
    }
    let cli = Cli::parse();
    let output = Output::new(&cli.global);
    #[cfg(feature = "embedded")]
    if let cli::Command::Serve(options) = &cli.command {
        return commands::serve::run(&cli.global, options);
    }
    #[cfg(feature = "embedded")]
    if let cli::Command::Worker { .. } = &cli.command {
        return commands::serve::worker();
    }
    begin_log(cli.global.quiet);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output.report(&Failure::failed(format!(
                "no threads can be started: {error}"
            )));
        }
    };
    let ended = runtime.block_on(run(cli, &output));
    // A thread that still computes must not keep the program.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.report(&failure),
    }
}

/// Carries out the command, until it is done or Ctrl-C is pressed.
async fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    let session = Session::new(cli.global);
    let ended = tokio::select! {
        ended = cli.command.run(&session, output) => ended,
        () = interrupted() => {
            if session.is_embedded() {
                output.note("Stopping. Ctrl-C once more ends the program at once");
            }
            Err(Failure::interrupted(session.hint()))
        }
    };
    tokio::select! {
        () = session.close() => ended,
        // Pressed once more while the backend inside the program stops.
        () = interrupted() => ended.and(Err(Failure::interrupted(None))),
    }
}

/// Waits for Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without signals, Ctrl-C ends the program by itself.
        std::future::pending::<()>().await;
    }
}

/// Warnings of the SDK and of the backend inside the program, on standard error.
fn begin_log(quiet: bool) {
    let level = if quiet { "error" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::colours_on_standard_error())
        .with_target(false)
        .without_time()
        .init();
}
