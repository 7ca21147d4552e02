//! `completions` and `man`: files for shells and for `man`.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;

use crate::{
    failure::{Failure, Result},
    output::Output,
};

/// `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut program: Command, output: &Output) -> Result {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "finetuner", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        let value = json!({"shell": self.shell.to_string(), "script": script});
        output.either(&value, || script.trim_end().to_owned())
    }
}

/// `man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder, which is created
    folder: PathBuf,
}

impl Man {
    pub(crate) fn run(self, program: Command, output: &Output) -> Result {
        let failed = |e| Failure::file("DIR", &self.folder, &e);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        clap_mangen::generate_to(program, &self.folder).map_err(failed)?;
        output.either(&json!({"path": self.folder}), || {
            format!("Wrote the man pages into {}", self.folder.display())
        })
    }
}
