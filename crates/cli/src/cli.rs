//! The options that all commands share, and the list of commands.

use clap::{Args, Parser, Subcommand, builder::styling};

use crate::{commands, failure::EXIT_CODES};

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default())
    .placeholder(styling::AnsiColor::Cyan.on_default());

const ENVIRONMENT: &str = "\
Environment:
  JINA_FINETUNER_REGISTRY  the address of the backend, as `--url`
  JINA_AUTH_TOKEN          the token, before any that `login` has stored
  JINA_HUB_ROOT            the folder of the stored token, in place of ~/.jina
  FINETUNER_CACHE          the folder of pulled data, in place of the user's cache folder
  NO_COLOR                 no colours, as `--no-color`
  RUST_LOG                 which log lines to show; `warn` by default";

/// Fine-tune embedding models for your own search: log in, fit, watch, save.
#[derive(Debug, Parser)]
#[command(
    name = "finetuner",
    version,
    styles = STYLES,
    propagate_version = true,
    after_long_help = format!("{ENVIRONMENT}\n\n{EXIT_CODES}"),
    after_help = "`--help` lists the environment variables and the exit codes.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of the backend [default: JINA_FINETUNER_REGISTRY, then
    /// http://127.0.0.1:8642]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Write JSON on standard output: one value, or one value on each line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write no notes, bars and warnings on standard error, only errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Write no colours
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// The most seconds to wait for an answer of the backend [default: 30]
    #[arg(long, global = true, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: Option<u64>,
    /// Run the backend inside this program, without a server
    #[cfg(feature = "embedded")]
    #[arg(long, global = true, conflicts_with = "url")]
    pub(crate) embedded: bool,
    /// Folder of the data, runs and models of `--embedded` [default: `finetuner`
    /// in the user's data folder]
    #[cfg(feature = "embedded")]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<std::path::PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in, in a browser or with a token
    Login(commands::account::Login),
    /// End the session, and forget the stored token
    Logout,
    /// Show who is logged in
    Whoami,
    /// Personal access tokens, for programs
    #[command(subcommand)]
    Token(commands::token::Token),
    /// List the models that can be fine-tuned, and their options
    Models(commands::models::Models),
    /// Store data at the backend under a name
    Push(commands::data::Push),
    /// Fetch data from the backend into a file
    Pull(commands::data::Pull),
    /// Data that was pushed
    #[command(subcommand)]
    Data(commands::data::Data),
    /// Fine-tune a model
    Fit(Box<commands::fit::Fit>),
    /// Follow a run to its end
    Watch(commands::runs::Watch),
    /// List runs
    Runs(commands::runs::Runs),
    /// Show the status of a run
    Status(commands::runs::Named),
    /// Show the log of a run
    Logs(commands::runs::Logs),
    /// Show the metrics of a run, before and after the training
    Metrics(commands::results::Metrics),
    /// Show what example queries found, before and after the training
    Examples(commands::results::Examples),
    /// End a run without a model
    Cancel(commands::runs::Named),
    /// Delete runs with their models
    Delete(commands::runs::Delete),
    /// Save the model of a run in a folder
    Save(commands::save::Save),
    /// Search texts or pictures with a model on this machine
    #[cfg(feature = "local")]
    Search(commands::search::Search),
    /// Write the embeddings of texts or pictures, with a model on this machine
    #[cfg(feature = "local")]
    Encode(commands::encode::Encode),
    /// Make training data of queries and a corpus without labels
    Synthesize(commands::synthesize::Synthesize),
    /// Start a backend for other machines and programs
    #[cfg(feature = "embedded")]
    Serve(commands::serve::Serve),
    /// Carry out one run; `serve` starts this itself
    #[cfg(feature = "embedded")]
    #[command(hide = true)]
    Worker {
        /// The job's name, for people who list processes
        name: Option<String>,
    },
    /// Print the completions of a shell
    Completions(commands::generate::Completions),
    /// Write the man pages into a folder
    Man(commands::generate::Man),
}
