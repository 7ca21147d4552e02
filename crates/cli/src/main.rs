//! `finetuner`: fine-tuning from the command line, from the data to the saved model.
//!
//! | module | content |
//! | --- | --- |
//! | `cli` | global options and the list of commands |
//! | `commands` | one file per group of commands |
//! | `session` | the client of the selected backend, and the embedded backend |
//! | `output`, `progress` | tables and JSON on standard output, bars on standard error |
//! | `values`, `sources` | values of options, and files as data |
//! | `whole` | files that are written as a whole |
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
mod whole;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::Cli;
use failure::Failure;
use output::Output;
use session::Session;

// Training allocates and frees large buffers continuously.
#[cfg(feature = "embedded")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Searched before parsing, because `--help` and usage errors have colours too.
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
            return output.report(&Failure::failed(format!("can't start threads: {error}")));
        }
    };
    let ended = runtime.block_on(run(cli, &output));
    // A thread that is still computing must not delay the exit.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.report(&failure),
    }
}

/// Runs the command until it is done or Ctrl-C is pressed.
async fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    let session = Session::new(cli.global);
    let ended = tokio::select! {
        ended = cli.command.run(&session, output) => ended,
        () = interrupted() => {
            if session.is_embedded() {
                output.note("Stopping. Press Ctrl-C again to exit immediately");
            }
            Err(Failure::interrupted(session.hint()))
        }
    };
    tokio::select! {
        () = session.close() => ended,
        // Ctrl-C was pressed again while the embedded backend stops.
        () = interrupted() => ended.and(Err(Failure::interrupted(None))),
    }
}

/// Waits for Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without signal handling, Ctrl-C ends the program directly.
        std::future::pending::<()>().await;
    }
}

/// Logs warnings of the SDK and the embedded backend to standard error.
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
