//! The list of backbones as a table.

use std::fmt;

use finetuner_protocol::{BACKBONES, ModelOption, Task, backbone::Backbone, find_backbone};

use crate::runs::{Align, Table};

const TITLE: &str = "Finetuner backbones";
const COLUMNS: [&str; 5] = ["model", "task", "output_dim", "architecture", "description"];

/// Returns the names of all backbones.
#[must_use]
pub fn list_models() -> Vec<&'static str> {
    BACKBONES.iter().map(|backbone| backbone.name).collect()
}

/// Returns the `model_options` of a backbone; `None` if there is no such backbone.
///
/// ```
/// let options = finetuner::list_model_options("bert-base-en").unwrap();
/// assert!(options.iter().any(|option| option.name == "pooler"));
/// ```
#[must_use]
pub fn list_model_options(model: &str) -> Option<&'static [ModelOption]> {
    find_backbone(model).map(|backbone| backbone.options)
}

/// Returns all backbones as a printable table.
///
/// ```
/// use finetuner::Task;
///
/// println!("{}", finetuner::describe_models());
/// println!("{}", finetuner::describe_models().task(&Task::TextToImage));
/// ```
pub fn describe_models() -> ModelTable {
    ModelTable {
        task: None,
        backbones: BACKBONES.iter().collect(),
    }
}

/// Table of backbones, from [`describe_models`].
///
/// ```no_run
/// println!("{}", finetuner::describe_models());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ModelTable {
    task: Option<Task>,
    backbones: Vec<&'static Backbone>,
}

impl ModelTable {
    /// Keeps only the backbones for one task.
    pub fn task(mut self, task: &Task) -> Self {
        self.backbones.retain(|backbone| backbone.task == *task);
        self.task = Some(task.clone());
        self
    }

    /// Returns the backbones in the order of the table.
    ///
    /// ```no_run
    /// for backbone in finetuner::describe_models().backbones() {
    ///     println!("{}", backbone.name);
    /// }
    /// ```
    #[must_use]
    pub fn backbones(&self) -> &[&'static Backbone] {
        &self.backbones
    }
}

impl fmt::Display for ModelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.backbones.iter().map(|backbone| {
            vec![
                backbone.name.to_owned(),
                backbone.task.to_string(),
                backbone.output_dim.to_string(),
                backbone.architecture.to_owned(),
                backbone.description.to_owned(),
            ]
        });
        let table = Table {
            title: match &self.task {
                Some(task) => format!("{TITLE}: {task}"),
                None => TITLE.to_owned(),
            },
            title_centred: true,
            header: Some(COLUMNS.map(str::to_owned).to_vec()),
            rows: rows.collect(),
            align: Align::Right,
        };
        table.fmt(f)
    }
}
