//! `serve`: starts the same backend as `finetuner-server serve`, with the same options.

use std::{ffi::OsString, process::ExitCode};

use clap::{Args, Parser};
use finetuner_server::command;

use crate::global::Global;

/// `serve`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Serve {
    /// Options of `finetuner-server serve`, such as --address and
    /// --runs-at-once; `finetuner serve --help` lists them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTIONS"
    )]
    options: Vec<OsString>,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) fn run(global: &Global, serve: &Serve) -> ExitCode {
    let mut words: Vec<OsString> = vec!["finetuner".into(), "serve".into()];
    // If `--data` precedes the options of `serve`, clap parses it as the global option.
    if let Some(folder) = &global.data {
        words.extend(["--data".into(), folder.into()]);
    }
    words.extend(serve.options.iter().cloned());
    command::Command::parse_from(words).run()
}

/// Executes one run for the backend that started this process.
pub(crate) fn worker() -> ExitCode {
    command::Command::parse_from(["finetuner", "worker"]).run()
}
