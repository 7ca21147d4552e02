//! The commands, one file for each group.

pub(crate) mod account;
pub(crate) mod data;
#[cfg(feature = "local")]
pub(crate) mod encode;
pub(crate) mod fit;
pub(crate) mod generate;
#[cfg(feature = "local")]
mod items;
pub(crate) mod models;
pub(crate) mod results;
pub(crate) mod runs;
pub(crate) mod save;
#[cfg(feature = "local")]
pub(crate) mod search;
#[cfg(feature = "embedded")]
pub(crate) mod serve;
mod submitted;
pub(crate) mod synthesize;
pub(crate) mod token;

use crate::{cli::Command, failure::Result, output::Output, session::Session};

/// Carries out a command.
pub(crate) async fn run(session: &Session, output: &Output, command: Command) -> Result {
    match command {
        Command::Login(options) => options.run(session, output).await,
        Command::Logout => account::logout(session, output).await,
        Command::Whoami => account::whoami(session, output).await,
        Command::Token(action) => action.run(session, output).await,
        Command::Models(options) => options.run(output),
        Command::Push(options) => options.run(session, output).await,
        Command::Pull(options) => options.run(session, output).await,
        Command::Data(action) => action.run(session, output).await,
        Command::Fit(options) => options.run(session, output).await,
        Command::Watch(options) => options.run(session, output).await,
        Command::Runs(options) => options.run(session, output).await,
        Command::Status(named) => runs::status(&named, session, output).await,
        Command::Logs(options) => options.run(session, output).await,
        Command::Metrics(options) => options.run(session, output).await,
        Command::Examples(options) => options.run(session, output).await,
        Command::Cancel(named) => runs::cancel(&named, session, output).await,
        Command::Delete(options) => options.run(session, output).await,
        Command::Save(options) => options.run(session, output).await,
        #[cfg(feature = "local")]
        Command::Search(options) => options.run(output).await,
        #[cfg(feature = "local")]
        Command::Encode(options) => options.run(output).await,
        Command::Synthesize(options) => options.run(session, output).await,
        // `main` starts these, which have a runtime and a log of their own.
        #[cfg(feature = "embedded")]
        Command::Serve(_) | Command::Worker { .. } => Ok(()),
        Command::Completions(options) => options.run(output),
        Command::Man(options) => options.run(output),
    }
}
