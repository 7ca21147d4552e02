//! `models`: the list of backbones.

use clap::Args;
use finetuner::{Task, describe_models, list_model_options};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    output::{self, Output},
};

/// `models`.
#[derive(Debug, Args)]
pub(crate) struct Models {
    /// Show the options of this model instead
    model: Option<String>,
    /// Only models of this task: text-to-text, text-to-image, image-to-image or
    /// mesh-to-mesh
    #[arg(long, conflicts_with = "model")]
    task: Option<String>,
}

impl Models {
    pub(crate) fn run(self, output: &Output) -> Result {
        if let Some(model) = self.model {
            return options(&model, output);
        }
        let mut models = describe_models();
        if let Some(name) = self.task {
            let task = Task::from(name.as_str());
            if matches!(task, Task::Other(_)) {
                let known: Vec<&str> = Task::KNOWN.iter().map(Task::as_str).collect();
                return Err(Failure::usage(format!(
                    "`--task {name}` is not a task. Use one of {}",
                    known.join(", ")
                )));
            }
            models = models.task(&task);
        }
        let models = models.backbones();
        if output.is_json() {
            let models: Vec<Value> = models
                .iter()
                .map(|model| {
                    json!({
                        "name": model.name, "aliases": model.aliases, "task": model.task,
                        "output_dim": model.output_dim, "architecture": model.architecture,
                        "description": model.description, "onnx": model.onnx,
                    })
                })
                .collect();
            return output.value(&models);
        }
        let rows = models.iter().map(|model| {
            vec![
                model.name.to_owned(),
                model.task.to_string(),
                model.output_dim.to_string(),
                model.architecture.to_owned(),
                model.description.to_owned(),
            ]
        });
        let header = ["model", "task", "dim", "architecture", "description"];
        output.line(&output::table(&header, rows))
    }
}

fn options(model: &str, output: &Output) -> Result {
    let options = list_model_options(model).ok_or_else(|| {
        Failure::not_found(format!(
            "the list has no model `{model}`; `finetuner models` shows it. A model of the \
             Hugging Face hub that is not in the list can be fine-tuned by its name"
        ))
    })?;
    if output.is_json() {
        let options: Vec<Value> = options
            .iter()
            .map(|option| {
                // The default is JSON in a text.
                let default = option
                    .default
                    .and_then(|text| serde_json::from_str(text).ok());
                let default: Value = default.unwrap_or_default();
                json!({"name": option.name, "type": option.kind, "default": default})
            })
            .collect();
        return output.value(&options);
    }
    let rows = options.iter().map(|option| {
        let default = option.default.unwrap_or("none (required)");
        vec![
            option.name.to_owned(),
            option.kind.to_owned(),
            default.to_owned(),
        ]
    });
    output.line(&output::table(&["option", "type", "default"], rows))
}
