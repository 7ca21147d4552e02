//! The command line: global options and commands. The files of `commands` implement
//! the commands.

use clap::{CommandFactory, Parser, Subcommand, builder::styling};

use crate::{
    commands,
    failure::{EXIT_CODES, Result},
    global::Global,
    output::Output,
    session::Session,
};

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default())
    .placeholder(styling::AnsiColor::Cyan.on_default());

const ENVIRONMENT: &str = "\
Environment:
  JINA_FINETUNER_REGISTRY  the address of the backend, as `--url`
  JINA_AUTH_TOKEN          the token; takes precedence over a stored one
  FINETUNER_PROJECT        the project, as `--project`
  JINA_HUB_ROOT            the folder of the stored token, instead of ~/.jina
  FINETUNER_CACHE          the folder of pulled data, instead of the user's cache folder
  NO_COLOR                 no colours, as `--no-color`
  RUST_LOG                 the log lines to show; `warn` by default";

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

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in, in a browser or with a token
    Login(commands::account::Login),
    /// End the session and delete the stored token
    Logout,
    /// Show who is logged in
    Whoami,
    /// Manage personal access tokens
    #[command(subcommand)]
    Token(commands::token::Token),
    /// List the models that can be fine-tuned, and their options
    Models(commands::models::Models),
    /// Store data at the backend under a name
    Push(commands::data::Push),
    /// Fetch data from the backend into a file
    Pull(commands::data::Pull),
    /// List, show and delete data that was pushed
    #[command(subcommand)]
    Data(commands::data::Data),
    /// Fine-tune a model
    Fit(Box<commands::fit::Fit>),
    /// Follow a run to its end
    Watch(commands::submitted::Watch),
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
    /// Show, add or remove the tags of a run
    Tag(commands::annotations::Tag),
    /// Show or change the note of a run
    Note(commands::annotations::Note),
    /// Stop a run without a model
    Cancel(commands::runs::Named),
    /// Delete runs with their models
    Delete(commands::runs::Delete),
    /// Save the model of a run in a folder
    Save(commands::save::Save),
    /// Search texts or images with a model on this machine
    #[cfg(feature = "local")]
    Search(commands::search::Search),
    /// Compute embeddings of texts or images with a model on this machine
    #[cfg(feature = "local")]
    Encode(commands::encode::Encode),
    /// Create training data from queries and a corpus without labels
    Synthesize(commands::synthesize::Synthesize),
    /// Start a backend for other machines and programs
    #[cfg(feature = "embedded")]
    Serve(commands::serve::Serve),
    /// Execute one run; started by `serve`
    #[cfg(feature = "embedded")]
    #[command(hide = true)]
    Worker {
        /// Name of the job, shown in process lists
        name: Option<String>,
    },
    /// Print the completions of a shell
    Completions(commands::generate::Completions),
    /// Write the man pages into a folder
    Man(commands::generate::Man),
}

impl Command {
    /// Runs the command.
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        match self {
            Self::Login(options) => options.run(session, output).await,
            Self::Logout => commands::account::logout(session, output).await,
            Self::Whoami => commands::account::whoami(session, output).await,
            Self::Token(action) => action.run(session, output).await,
            Self::Models(options) => options.run(output),
            Self::Push(options) => options.run(session, output).await,
            Self::Pull(options) => options.run(session, output).await,
            Self::Data(action) => action.run(session, output).await,
            Self::Fit(options) => options.run(session, output).await,
            Self::Watch(options) => options.run(session, output).await,
            Self::Runs(options) => options.run(session, output).await,
            Self::Status(named) => commands::runs::status(&named, session, output).await,
            Self::Logs(options) => options.run(session, output).await,
            Self::Metrics(options) => options.run(session, output).await,
            Self::Examples(options) => options.run(session, output).await,
            Self::Tag(options) => options.run(session, output).await,
            Self::Note(options) => options.run(session, output).await,
            Self::Cancel(named) => commands::runs::cancel(&named, session, output).await,
            Self::Delete(options) => options.run(session, output).await,
            Self::Save(options) => options.run(session, output).await,
            #[cfg(feature = "local")]
            Self::Search(options) => options.run(output).await,
            #[cfg(feature = "local")]
            Self::Encode(options) => options.run(output).await,
            Self::Synthesize(options) => options.run(session, output).await,
            // `main` starts these, because they have their own runtime and log.
            #[cfg(feature = "embedded")]
            Self::Serve(_) | Self::Worker { .. } => Ok(()),
            Self::Completions(options) => options.run(Cli::command(), output),
            Self::Man(options) => options.run(Cli::command(), output),
        }
    }
}
