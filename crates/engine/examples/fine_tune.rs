//! Executes one run without a server and keeps its artifact, for comparisons with
//! other software.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example fine_tune -- \
//!     config.json train.da artifact.zip
//! ```
//!
//! `config.json` is a run configuration in the format that servers receive. Every data
//! set that it names is read from the same file. The log goes to standard output.

use std::path::PathBuf;

use clap::Parser;
use finetuner_engine::{
    data::Documents,
    job::{self, Observer, Setting},
    source::HubRules,
};
use finetuner_protocol::{Device, DocumentArray, Event, RunConfig, worker::LocalModels};

#[derive(Parser)]
struct Args {
    /// Run configuration as JSON.
    config: PathBuf,
    /// Documents in docarray 0.x's protobuf format.
    data: PathBuf,
    /// Artifact to write, a zip file.
    output: PathBuf,
}

/// Prints the log.
struct Print;

impl Observer for Print {
    fn event(&mut self, event: Event) {
        if let Event::Log { level, message, .. } = event {
            println!("{level:8} {message}");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let config: RunConfig = serde_json::from_slice(&std::fs::read(&args.config)?)?;
    let documents = DocumentArray::from_file_bytes(&std::fs::read(&args.data)?)?;
    let read = |_: &str| -> finetuner_engine::Result<Documents> {
        Ok(Box::new(documents.clone().into_iter().map(Ok)))
    };
    let folder = args.output.with_extension("run");
    std::fs::create_dir_all(&folder)?;
    let setting = Setting {
        device: &Device::Cpu,
        local_models: &LocalModels::Anywhere,
        hub: HubRules::of_this_user(),
        earlier: None,
        read_data: &read,
        folder: &folder,
        checkpoint: None,
    };
    let finished = job::run(&config, &setting, &mut Print)?;
    std::fs::copy(&finished.artifact, &args.output)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
