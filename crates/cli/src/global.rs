//! The options that all commands share.

use clap::Args;

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of the backend [default: JINA_FINETUNER_REGISTRY, then
    /// http://127.0.0.1:8642]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Project whose runs, data and models are used [default: FINETUNER_PROJECT, then
    /// your personal project]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) project: Option<String>,
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
