//! The configuration of a run, as pages show it.

use finetuner_protocol::RunTask;
use serde_json::Value;

use crate::{database::RunRow, redaction::shown_config};

/// Whether a run makes training data.
pub(super) fn makes_data(run: &RunRow) -> bool {
    run.task == RunTask::Generation.as_str()
}

/// A run's configuration without secrets.
pub(super) fn config_of(run: &RunRow) -> Value {
    shown_config(&run.config)
}

/// The model that a run trains, or those that a synthesis run uses.
pub(super) fn model_of(run: &RunRow, config: &Value) -> String {
    models_of(run, config).join(", ")
}

/// The names of those models.
pub(super) fn models_of(run: &RunRow, config: &Value) -> Vec<String> {
    match makes_data(run) {
        true => models_of_synthesis(config).concat(),
        false => texts(&config["model"]["name"]),
    }
}

/// The relation miners and the cross-encoder of a synthesis run.
pub(super) fn models_of_synthesis(config: &Value) -> [Vec<String>; 2] {
    [
        texts(&config["relation_mining"]["models"]),
        texts(&config["cross_encoder"]),
    ]
}

/// A text, or those of a list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// A hyper-parameter as a text; empty if the configuration does not name it.
pub(super) fn setting(config: &Value, field: &str) -> String {
    match &config["hyper_parameters"][field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
