//! The artifact of a run: a zip with one folder, named like the run.
//!
//! ```text
//! <run>/config.json, model.safetensors, tokenizer.json, preprocessor_config.json, ...
//!                        the model in Hugging Face layout: `from_pretrained` opens the folder
//! <run>/config.yml       the run's configuration
//! <run>/metadata.yml     when, where and how long; the metrics
//! <run>/metrics.yml      metrics before and after
//! <run>/models/input-map.yml, models/<part>/metadata.yml
//!                        the parts of the model, as the Python Finetuner names them
//! ```

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use finetuner_protocol::RunConfig;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    Error, Result,
    evaluation::Metrics,
    image::ImageProcessor,
    models::Clip,
    params::{Precision, write_safetensors},
    source::ModelDescription,
};

/// What an artifact says about its run.
pub(crate) struct RunRecord<'a> {
    pub(crate) config: &'a RunConfig,
    pub(crate) device: &'a str,
    pub(crate) duration: Duration,
    pub(crate) before: &'a Metrics,
    pub(crate) after: &'a Metrics,
}

/// Writes the artifact into `folder`.
pub(crate) fn write(
    folder: &Path,
    model: &Clip,
    processor: &ImageProcessor,
    description: &ModelDescription,
    record: &RunRecord<'_>,
) -> Result<PathBuf> {
    let weights = folder.join("model.safetensors");
    write_safetensors(&weights, &model.params().snapshot()?, Precision::F32)?;

    let path = folder.join("artifact.zip");
    let mut zip = Zip::create(&path, &record.config.run_name)?;
    zip.yaml("config.yml", &json!(record.config))?;
    zip.yaml("metadata.yml", &metadata(record))?;
    zip.yaml("metrics.yml", &metrics(record))?;
    zip.yaml(
        "models/input-map.yml",
        &json!({"clip-text": ["text"], "clip-vision": ["image"]}),
    )?;
    for part in parts(model) {
        let name = part["name"].as_str().unwrap_or_default().to_owned();
        zip.yaml(&format!("models/{name}/metadata.yml"), &part)?;
    }
    let json = |value: &Value| serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
    let config = json(&description.config).map_err(|e| Error::io(&path, e))?;
    zip.bytes("config.json", &config)?;
    let preprocessor = json(&processor.to_json()).map_err(|e| Error::io(&path, e))?;
    zip.bytes("preprocessor_config.json", &preprocessor)?;
    let mut files: Vec<_> = description.side_files.iter().collect();
    files.sort();
    for (name, bytes) in files {
        zip.bytes(name, bytes)?;
    }
    zip.file("model.safetensors", &weights)?;
    zip.finish()?;
    std::fs::remove_file(&weights).map_err(|e| Error::io(&weights, e))?;
    Ok(path)
}

fn metrics(record: &RunRecord<'_>) -> Value {
    json!({"before": record.before, "after": record.after})
}

fn metadata(record: &RunRecord<'_>) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    json!({
        "name": record.config.run_name,
        "experiment": record.config.experiment_name,
        "device": record.device,
        "duration": record.duration.as_secs_f64(),
        "timestamp": now.map_or(0, |t| t.as_secs()),
        "finetuner_version": env!("CARGO_PKG_VERSION"),
        "model_type": "safetensors",
        "metrics": metrics(record),
        "example_results": {"before": {}, "after": {}},
        "product": "finetuner",
        "artifact_type": "run",
    })
}

/// The two towers as the Python Finetuner describes models. Both are in the
/// one file of weights.
fn parts(model: &Clip) -> [Value; 2] {
    let config = model.config();
    let size = config.vision_config.image_size;
    let part = |name: &str, input: &str, shape: Value, dtype: &str| {
        json!({
            "name": name,
            "task": "text-to-image",
            "architecture": "transformer",
            "input_names": [input],
            "input_shapes": [shape],
            "input_dtypes": [dtype],
            "output_name": "embedding",
            "output_shape": ["batch-size", config.projection_dim],
            "weights": "../../model.safetensors",
        })
    };
    [
        part(
            "clip-text",
            "input_ids",
            json!(["batch-size", "sequence-length"]),
            "int32",
        ),
        part(
            "clip-vision",
            "pixel_values",
            json!(["batch-size", 3, size, size]),
            "float32",
        ),
    ]
}

/// A zip whose files all lie in one folder.
struct Zip<'a> {
    zip: ZipWriter<File>,
    path: &'a Path,
    folder: String,
}

impl<'a> Zip<'a> {
    fn create(path: &'a Path, folder: &str) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        Ok(Self {
            zip: ZipWriter::new(file),
            path,
            folder: folder.to_owned(),
        })
    }

    fn start(&mut self, name: &str, method: CompressionMethod) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .large_file(method == CompressionMethod::Stored);
        self.zip
            .start_file(format!("{}/{name}", self.folder), options)
            .map_err(|e| Error::io(self.path, e.into()))
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.start(name, CompressionMethod::Deflated)?;
        self.zip
            .write_all(bytes)
            .map_err(|e| Error::io(self.path, e))
    }

    fn yaml(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = serde_saphyr::to_string(value)
            .map_err(|e| Error::io(self.path, std::io::Error::other(e.to_string())))?;
        self.bytes(name, text.as_bytes())
    }

    /// Weights are noise to a compressor, so they are stored as they are.
    fn file(&mut self, name: &str, from: &Path) -> Result<()> {
        self.start(name, CompressionMethod::Stored)?;
        let mut file = File::open(from).map_err(|e| Error::io(from, e))?;
        std::io::copy(&mut file, &mut self.zip).map_err(|e| Error::io(self.path, e))?;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.zip
            .finish()
            .and_then(|file| file.sync_all().map_err(Into::into))
            .map_err(|e| Error::io(self.path, e.into()))
    }
}
