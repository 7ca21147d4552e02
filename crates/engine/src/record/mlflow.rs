//! MLflow's file store: `mlruns/<experiment>/<run>/` with a file per metric.
//! Show it with `mlflow ui --backend-store-uri <folder>`.

use std::path::Path;

use finetuner_protocol::{RunConfig, callback::MLFlowLogger};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::history::History;
use crate::{Error, Result};

/// Returns the first bytes of a text's hash as hexadecimal digits.
fn digits(text: &str, bytes: usize) -> String {
    hex::encode(&Sha256::digest(text)[..bytes])
}

/// Returns a file name of at most 200 bytes. Different names stay different.
fn short(name: &str) -> String {
    const LONGEST: usize = 200;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let end = digits(name, 4);
    let starts = name.char_indices().map(|(start, _)| start);
    let cut = starts
        .take_while(|start| start + end.len() < LONGEST)
        .last();
    format!("{}-{end}", &name[..cut.unwrap_or(0)])
}

pub(super) fn write(
    folder: &Path,
    history: &History,
    config: &RunConfig,
    options: &MLFlowLogger,
) -> Result<()> {
    let experiment_name = match options.experiment.as_str() {
        "" => &config.experiment_name,
        name => name,
    };
    // MLflow's IDs: a number for the experiment, 32 hexadecimal digits for the
    // run.
    let number = u64::from_str_radix(&digits(experiment_name, 7), 16).unwrap_or(1);
    let experiment_id = number.to_string();
    let rows = history.rows();
    let (start, end) = match (rows.first(), rows.last()) {
        (Some(first), Some(last)) => (first.time, last.time),
        _ => (0.0, 0.0),
    };
    let milliseconds = |seconds: f64| (seconds * 1000.0) as u64;
    let run_name = &config.run_name;
    let run_id = digits(&format!("{experiment_name}/{run_name}/{start}"), 16);
    let experiment = folder.join(&experiment_id);
    let run = experiment.join(&run_id);
    for part in ["metrics", "params", "tags"] {
        let path = run.join(part);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
    }
    let write = |path: &Path, text: &str| {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        std::fs::write(path, text).map_err(|e| Error::io(path, e))
    };
    let yaml = |path: &Path, value: &Value| {
        let text = serde_saphyr::to_string(value)
            .map_err(|e| Error::io(path, std::io::Error::other(e.to_string())))?;
        write(path, &text)
    };
    yaml(
        &experiment.join("meta.yaml"),
        &json!({
            "artifact_location": format!("./{experiment_id}"),
            "creation_time": milliseconds(start),
            "experiment_id": experiment_id,
            "last_update_time": milliseconds(end),
            "lifecycle_stage": "active",
            "name": experiment_name,
        }),
    )?;
    yaml(
        &run.join("meta.yaml"),
        &json!({
            "artifact_uri": format!("./{experiment_id}/{run_id}/artifacts"),
            "end_time": milliseconds(end),
            "entry_point_name": "",
            "experiment_id": experiment_id,
            "lifecycle_stage": "active",
            "run_id": run_id,
            "run_name": run_name,
            "run_uuid": run_id,
            "source_name": "finetuner",
            "source_type": 4,
            "source_version": "",
            "start_time": milliseconds(start),
            "status": 3,
            "tags": [],
            "user_id": "finetuner",
        }),
    )?;
    write(&run.join("tags/mlflow.runName"), run_name)?;
    // MLflow detects a run by its folders, and a zip omits empty ones.
    let model = "The model is in the parent folder of `logs`.\n";
    write(&run.join("artifacts/model.txt"), model)?;
    let hyper = &config.hyper_parameters;
    let params = [
        ("model", config.model.name.clone().unwrap_or_default()),
        ("loss", hyper.loss.to_string()),
        ("optimizer", hyper.optimizer.to_string()),
        ("epochs", hyper.epochs.to_string()),
    ];
    for (name, value) in params {
        write(&run.join("params").join(name), &value)?;
    }
    for (name, points) in history.curves() {
        let lines: String = points
            .iter()
            .map(|p| format!("{} {} {}\n", milliseconds(p.time), p.value, p.step))
            .collect();
        // A caption may contain characters that a file name can't, and be longer.
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || "/_-. ".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let name = name.replace("..", "_");
        let parts: Vec<String> = name.split('/').map(short).collect();
        write(&run.join("metrics").join(parts.join("/")), &lines)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_and_stay_different() {
        assert_eq!(short("recall_at_k"), "recall_at_k");
        let [one, other] = ["recall", "precision"].map(|end| short(&("é".repeat(200) + end)));
        assert!(one.len() <= 200 && other.len() <= 200 && one != other);
        assert!(one.starts_with("ééé"), "{one}");
    }
}
