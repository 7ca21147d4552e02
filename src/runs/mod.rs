//! Runs and experiments: finding, following and saving them.

mod annotations;
mod artifact;
mod checkpoints;
mod experiment;
mod experiments;
mod logs;
mod results;
mod run;
mod table;
mod watch;

pub use artifact::SaveArtifact;
#[cfg(fuzzing)]
pub(crate) use artifact::unpack_bytes;
#[cfg(feature = "local")]
pub(crate) use artifact::{recover, unpack_temporarily};
pub use checkpoints::ResumeFrom;
pub use experiment::Experiment;
pub(crate) use experiments::DEFAULT_EXPERIMENT;
pub use experiments::ListAllRuns;
pub use logs::LogStream;
pub use results::{ExamplesTable, MetricsTable};
pub use run::Run;
pub(crate) use table::{Align, Table};
pub use watch::{RunProgress, Update, Watch};
