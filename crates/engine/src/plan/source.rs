//! The model of a run.

use finetuner_protocol::{EFFICIENTNET_SMALL, MINILM_SMALL, RunConfig};
use serde_json::Value;

use super::allowed::Allowed;
use crate::{
    Error, Result,
    models::{MlpConfig, ModelConfig, ModelKind},
    options::OptionReader,
    source::{ModelSource, TowerSources},
};

/// Default embedding dimension of two towers.
const TOWERS_DIM: u64 = 512;

pub(super) fn model_source(
    config: &RunConfig,
    allowed: Allowed,
    read: &OptionReader<'_>,
    notes: &mut Vec<String>,
) -> Result<(ModelSource, ModelKind)> {
    let model = &config.model;
    if let Some(name) = &model.name {
        let source = ModelSource::resolve(name, &allowed.local_models)?;
        if source == ModelSource::Mlp(None) {
            for option in ["input_size", "hidden_sizes", "bias", "activation", "l2"] {
                read.value(option);
            }
            let mut options: Value = match &model.options {
                Some(options) => serde_json::json!(**options),
                None => serde_json::json!({}),
            };
            // The Python client's default.
            let empty = match &options["hidden_sizes"] {
                Value::Null => true,
                Value::Array(sizes) => sizes.is_empty(),
                _ => false,
            };
            if empty && let Some(size) = options["input_size"].as_u64() {
                notes.push(format!(
                    "`hidden_sizes` is empty: the perceptron has one layer of size `input_size` ({size})"
                ));
                options["hidden_sizes"] = vec![size].into();
            }
            let config = MlpConfig::parse(&options)?;
            return Ok((ModelSource::Mlp(Some(config)), ModelKind::Features));
        }
        if let ModelSource::PointNet(defaults) = source {
            let source = ModelSource::PointNet(pointnet(read, defaults)?);
            return Ok((source, ModelKind::PointCloud));
        }
        if source == ModelSource::Towers(None) {
            let towers = towers(config, &allowed, read)?;
            return Ok((ModelSource::Towers(Some(towers)), ModelKind::TextImage));
        }
        let kind = source.kind(&allowed.hub)?;
        return Ok((source, kind));
    }
    let artifact = model.artifact.clone().unwrap_or_default();
    let kind = allowed.earlier.ok_or_else(|| {
        Error::config(
            "model_artifact",
            format!("`{artifact}`: no run on this server has this artifact"),
        )
    })?;
    Ok((ModelSource::Artifact(artifact), kind))
}

/// Returns the `config.json` of a new PointNet++ with the run's options.
fn pointnet(read: &OptionReader<'_>, mut config: Value) -> Result<Value> {
    for name in ["hidden_dim", "embed_dim"] {
        let default = config[name].as_u64().unwrap_or(0) as usize;
        config[name] = read.count(name, default, 1)?.into();
    }
    config["dropout_rate"] = read.number("dropout_rate", 0.1, 0.0, 0.99)?.into();
    let shape = read.choice("input_shape", "bnc", &["bnc", "bcn"])?;
    if shape != "bnc" {
        let wanted = "clouds must be [points, 3], which is `bnc`; transpose them before pushing";
        return Err(read.bad("input_shape", wanted));
    }
    ModelConfig::parse(&config).map_err(|e| Error::config("model_options", e.to_string()))?;
    Ok(config)
}

/// Resolves the models for the towers of a new text-to-image model.
fn towers(config: &RunConfig, allowed: &Allowed, read: &OptionReader<'_>) -> Result<TowerSources> {
    let tower = |option: &str, wanted: ModelKind, example: &str| {
        let name = read.value(option).and_then(Value::as_str).ok_or_else(|| {
            let what = wanted.inputs();
            read.bad(
                option,
                &format!("give the name of a model of {what}, such as `{example}`"),
            )
        })?;
        let source = ModelSource::resolve(name, &allowed.local_models)?;
        let kind = source.kind(&allowed.hub)?.of_network();
        if kind != wanted {
            let reason = format!(
                "that model embeds {}; give a model of {}",
                kind.inputs(),
                wanted.inputs()
            );
            return Err(read.bad(option, &reason));
        }
        Ok(Box::new(source))
    };
    Ok(TowerSources {
        text: tower("text_model", ModelKind::Text, MINILM_SMALL)?,
        image: tower("image_model", ModelKind::Image, EFFICIENTNET_SMALL)?,
        dim: config.model.output_dim.unwrap_or(TOWERS_DIM) as usize,
        // Checked together with the other options.
        seed: read.value("seed").and_then(Value::as_u64).unwrap_or(0),
    })
}
