//! Values read from a run's configuration for display.

use finetuner_protocol::RunTask;
use serde_json::Value;

use crate::{database::RunRow, redaction::shown_config};

/// Returns whether a run generates training data (synthesis) instead of a model.
pub(super) fn makes_data(run: &RunRow) -> bool {
    run.task == RunTask::Generation.as_str()
}

/// Returns a run's configuration without secrets.
pub(super) fn config_of(run: &RunRow) -> Value {
    shown_config(&run.config)
}

/// Returns the name of the model that a run trains, or of the models that a
/// synthesis run uses.
pub(super) fn model_of(run: &RunRow, config: &Value) -> String {
    models_of(run, config).join(", ")
}

/// Returns the names of these models separately.
pub(super) fn models_of(run: &RunRow, config: &Value) -> Vec<String> {
    match makes_data(run) {
        true => models_of_synthesis(config).concat(),
        false => texts(&config["model"]["name"]),
    }
}

/// Returns the relation miners and the cross-encoder of a synthesis run.
pub(super) fn models_of_synthesis(config: &Value) -> [Vec<String>; 2] {
    [
        texts(&config["relation_mining"]["models"]),
        texts(&config["cross_encoder"]),
    ]
}

/// Returns the strings in a value that is a string or a list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Returns a hyper-parameter as text; empty if it is not set.
pub(super) fn setting(config: &Value, field: &str) -> String {
    match &config["hyper_parameters"][field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
