//! Parses and validates submissions of runs.

use finetuner_protocol::{
    Callback, Config, Data, HyperParameters, Model, NewRun, RunConfig, RunTask, SynthesisConfig,
    check_name,
};
use serde_json::Value;

use super::annotations::invalid_annotation;
use crate::{
    checks::{MAX_DESCRIPTION, check_length},
    error::{ApiError, Result},
    json,
};

/// Parses the submission of a training or synthesis run for an experiment.
pub(crate) fn read_submission(body: &Value, experiment: &str) -> Result<NewRun> {
    let sent_config = body.get("config").map(ToString::to_string);
    check_length("config", sent_config.as_deref(), MAX_CONFIG)?;
    let mut new: NewRun = json::from_value(body, "")?;
    check_name("run_name", &new.name).map_err(|e| ApiError::unprocessable(e.to_string()))?;
    check_length("description", new.description.as_deref(), MAX_DESCRIPTION)?;
    new.annotations().map_err(|e| invalid_annotation(&e))?;
    let makes_data = new.task == Some(RunTask::Generation);
    // The experiment of the address and the name beside the configuration take
    // precedence.
    match &mut new.config {
        Config::Training(config) if !makes_data => {
            refuse(&config.unknown_members())?;
            config.run_name.clone_from(&new.name);
            experiment.clone_into(&mut config.experiment_name);
        }
        Config::Synthesis(config) if new.task != Some(RunTask::Training) => {
            refuse(&config.unknown_members())?;
            config.run_name.clone_from(&new.name);
            experiment.clone_into(&mut config.experiment_name);
        }
        _ if makes_data => return Err(not_a_synthesis(&body["config"])),
        _ => return Err(not_a_training(&body["config"])),
    }
    Ok(new)
}

/// Refuses unknown members of a configuration.
fn refuse(unknown: &[String]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = unknown
        .iter()
        .map(|name| format!("`config.{name}`"))
        .collect();
    Err(ApiError::unprocessable(format!(
        "{}: unknown member; check its name and its place",
        names.join(", ")
    )))
}

/// Returns the error for a configuration that is not one of a synthesis run.
fn not_a_synthesis(config: &Value) -> ApiError {
    let needed = "`config` is not that of a synthesis run, which `task` announces: it needs `data`, \
                  `relation_mining` and `cross_encoder`";
    if config.get("relation_mining").is_none() {
        return ApiError::unprocessable(needed);
    }
    let read = json::from_value::<SynthesisConfig>(config, "config");
    read.err()
        .unwrap_or_else(|| ApiError::unprocessable(needed))
}

/// Maximum size of a run's configuration, in bytes.
const MAX_CONFIG: usize = 256 << 10;

/// Returns the error for a configuration that is not one of a training run.
pub(super) fn not_a_training(config: &Value) -> ApiError {
    let needed = "`config` is not that of a training run: it needs a `model` and `data`";
    if config.get("model").is_none() || config.get("data").is_none() {
        return ApiError::unprocessable(needed);
    }
    let check = || {
        json::from_value::<Model>(&config["model"], "config.model")?;
        json::from_value::<Data>(&config["data"], "config.data")?;
        if let Some(parameters) = config.get("hyper_parameters") {
            json::from_value::<HyperParameters>(parameters, "config.hyper_parameters")?;
        }
        if let Some(callbacks) = config.get("callbacks") {
            let callbacks = json::from_value::<Vec<Value>>(callbacks, "config.callbacks")?;
            for (i, callback) in callbacks.into_iter().enumerate() {
                Callback::from_json(callback).map_err(|e| {
                    ApiError::unprocessable(format!("`config.callbacks[{i}]`: {e}"))
                })?;
            }
        }
        json::from_value::<RunConfig>(config, "config").map(drop)
    };
    match check() {
        Err(error) => error,
        Ok(()) => ApiError::unprocessable(needed),
    }
}
