//! `save`: saves the model of a run as a folder.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::runs::Named;
use crate::{failure::Result, output::Output, progress::Transfer, session::Session};

/// `save`.
#[derive(Debug, Args)]
pub(crate) struct Save {
    #[command(flatten)]
    named: Named,
    /// Folder, which is created [default: the name of the run]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Save the artifact as RUN.zip in the folder of `--output` [default: the
    /// current folder]
    #[arg(long)]
    zip: bool,
    /// Also write the model as ONNX into this folder
    #[cfg(feature = "local")]
    #[arg(long, value_name = "DIR", conflicts_with = "zip")]
    onnx: Option<PathBuf>,
}

impl Save {
    pub(crate) async fn run(self, session: &Session, output: &Output) -> Result {
        let run = self.named.find(session).await?;
        let save = match self.zip {
            true => run.save_artifact(self.output.unwrap_or_else(|| ".".into())),
            false => run.save_model(self.output.unwrap_or_else(|| self.named.name().into())),
        };
        let transfer = Transfer::new(*output, "Saving");
        let saved = save.on_progress(transfer.watcher()).await?;
        drop(transfer);
        #[cfg(feature = "local")]
        let onnx = self.onnx;
        #[cfg(not(feature = "local"))]
        let onnx: Option<PathBuf> = None;
        #[cfg(feature = "local")]
        if let Some(folder) = &onnx {
            write_onnx(saved.clone(), folder.clone()).await?;
        }
        let value = json!({"run": self.named.name(), "path": saved, "onnx": onnx});
        let text = match onnx {
            Some(onnx) => format!("{}\n{}", saved.display(), onnx.display()),
            None => saved.display().to_string(),
        };
        output.either(&value, || text)
    }
}

#[cfg(feature = "local")]
async fn write_onnx(model: PathBuf, folder: PathBuf) -> Result {
    let written = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)
            .map_err(|e| crate::failure::Failure::file("--onnx", &folder, &e))?;
        finetuner::local::get_model(model)?.save_onnx(folder)?;
        Ok(())
    });
    written.await?
}
