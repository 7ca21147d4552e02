//! The artifact of a run: a zip with one folder, named like the run.
//!
//! ```text
//! <run>/config.json, model.safetensors, tokenizer.json, preprocessor_config.json, ...
//!                        the model in Hugging Face layout: `from_pretrained` loads the folder
//! <run>/config.yml       the run's configuration
//! <run>/metadata.yml     time, device and duration; the metrics
//! <run>/metrics.yml      metrics before and after fine-tuning
//! <run>/models/input-map.yml, models/<part>/metadata.yml
//!                        the parts of the model, under the Python Finetuner's names
//! <run>/models/<part>/model.onnx
//!                        the part as ONNX, if the run asked for it; or `model.pt`, in
//!                        PyTorch's format
//! <run>/modules.json, 1_Pooling/config.json, 2_Dense/model.safetensors, ...,
//! sentence_bert_config.json, config_sentence_transformers.json
//!                        for sentence-transformers, if it is a text model: all modules,
//!                        with the projection head, and the prompts
//! <run>/finetuner.json, projection_head.safetensors
//!                        the pooler, and the projection head as trained, with its
//!                        normalisations; a CLIP has one head per tower
//! <run>/adapter/adapter_config.json, adapter_model.safetensors
//!                        the adapters of a LoRA run in PEFT's layout:
//!                        `PeftModel.from_pretrained` adds them to the backbone. The
//!                        weights above contain them already
//! <run>/logs/            TensorBoard's event file, and the files of the run's loggers
//! ```

mod parts;
mod state_dict;

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use finetuner_protocol::RunConfig;
use parts::parts;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    Error, Result,
    evaluation::Metrics,
    models::{
        HEAD_PREFIX, MODULE_PREFIX, Model, ModelKind, OnnxFormat, SavedAdapter, is_adapter, no_onnx,
    },
    modules::{self, Pooling, Saved},
    params::{
        FloatFormat, RawTensor, encode_safetensors,
        stream::{self, Entry},
        write_safetensors,
    },
    prepare::Preparer,
    python_json,
    source::{EXTRAS_FILE, Extras, HEAD_FILE, LoadedModel, ModelDescription, Origin},
    torch,
};

/// A part of a model in ONNX format.
const ONNX_FILE: &str = "model.onnx";
/// External weights of an ONNX part that exceeds the size limit of one file.
const ONNX_DATA_FILE: &str = "model.onnx.data";

/// PEFT's description of the run's adapters.
const ADAPTER_CONFIG_FILE: &str = "adapter/adapter_config.json";
/// The run's adapter weights.
const ADAPTER_WEIGHTS_FILE: &str = "adapter/adapter_model.safetensors";

/// A part's weights in PyTorch's format.
const TORCH_FILE: &str = "model.pt";

/// Returns whether `model_options.torch` asks for the parts in PyTorch's format.
fn wants_torch(config: &RunConfig) -> bool {
    let options = config.model.options.as_ref();
    options.is_some_and(|options| options.get("torch") == Some(&true.into()))
}

/// Checks before training that the model can be saved in all requested formats.
///
/// Returns notes for the log about parts that a format leaves out.
///
/// # Errors
/// [`Error::Config`] if a format is impossible for this model.
pub(crate) fn check_forms(loaded: &LoadedModel, config: &RunConfig) -> Result<Vec<String>> {
    let (model, description) = (&loaded.model, &loaded.description);
    let parts = parts(model, &loaded.preparer, description, config);
    if config.model.to_onnx {
        for part in &parts {
            let graph = match part.onnx {
                Some(input) => model.onnx(input, OnnxFormat::Float32),
                None => Err(no_onnx(model.kind())),
            };
            graph.map_err(|e| match e {
                Error::Data(reason) => Error::config("to_onnx", reason),
                other => other,
            })?;
        }
    }
    if !wants_torch(config) {
        return Ok(Vec::new());
    }
    let missing = |part: &&parts::Part| part.state_dict(model, description).is_none();
    let missing: Vec<_> = parts.iter().filter(missing).collect();
    if missing.len() == parts.len() {
        return Err(Error::config(
            "model_options.torch",
            "true: the Python client builds BERTs, DistilBERTs, CLIPs and the ResNets 50 and 152 \
             itself, without projection heads, and pools images by the mean; use `to_onnx` for \
             other models",
        ));
    }
    let note = |part: &parts::Part| {
        let name = part.name();
        format!(
            "The Python client can't build `{name}` itself, so the artifact has no {TORCH_FILE} for it"
        )
    };
    Ok(missing.into_iter().map(note).collect())
}

/// The facts about a run that its artifact records.
pub(crate) struct RunRecord<'a> {
    pub(crate) config: &'a RunConfig,
    pub(crate) device: &'a str,
    pub(crate) duration: Duration,
    pub(crate) before: &'a Metrics,
    pub(crate) after: &'a Metrics,
}

/// Writes the artifact into `folder`, with all files of the folder `logs`.
pub(crate) fn write(
    folder: &Path,
    model: &Model,
    preparer: &Preparer,
    description: &ModelDescription,
    logs: &Path,
    record: &RunRecord<'_>,
) -> Result<PathBuf> {
    let adapter = model.saved_adapter()?;
    model.merge_adapters()?;
    let params = model
        .params()
        .iter()
        .filter(|param| !is_adapter(param.name()));
    let params: Vec<_> = params.collect();
    for param in &params {
        if !param.read(|values| values.iter().all(|value| value.is_finite()))? {
            let what = format!("the weights `{}` of the trained model", param.name());
            return Err(Error::NotFinite { what });
        }
    }
    let of = |prefix: &str| -> Result<HashMap<String, RawTensor>> {
        let of = params
            .iter()
            .filter(|param| param.name().starts_with(prefix));
        let of = of.map(|p| {
            Ok((
                p.name().to_owned(),
                (p.tensor().dims().to_vec(), p.to_vec()?),
            ))
        });
        of.collect()
    };
    let (head, layers) = (of(HEAD_PREFIX)?, of(MODULE_PREFIX)?);
    let architecture = model.config().architecture();
    let weights = folder.join("model.safetensors");
    let body = params.iter().filter(|param| {
        !param.name().starts_with(HEAD_PREFIX) && !param.name().starts_with(MODULE_PREFIX)
    });
    let body = body.map(|param| {
        let entry = Entry::of_param("", param);
        Entry {
            name: architecture.saved_name(&entry.name),
            ..entry
        }
    });
    let body: Vec<Entry<'_>> = body.collect();
    stream::write(&weights, &body)?;
    drop(body);
    let head_weights = folder.join(HEAD_FILE);
    let setup = model.setup();
    if setup.head.is_some() {
        write_safetensors(&head_weights, &head, FloatFormat::F32)?;
    }

    let path = folder.join("artifact.zip");
    let mut zip = Zip::create(&path, &record.config.run_name)?;
    zip.yaml("config.yml", &json!(record.config))?;
    zip.yaml(
        "metadata.yml",
        &metadata(record, model, &description.origins),
    )?;
    zip.yaml("metrics.yml", &metrics(record))?;
    let parts = parts(model, preparer, description, record.config);
    let inputs = parts.iter().map(|part| {
        let name = part.metadata["name"].as_str().unwrap_or_default();
        (name.to_owned(), part.inputs.clone())
    });
    let inputs: serde_json::Map<String, Value> = inputs.collect();
    zip.yaml("models/input-map.yml", &inputs.into())?;
    for part in &parts {
        let name = &part.folder;
        zip.yaml(&format!("models/{name}/metadata.yml"), &part.metadata)?;
    }
    zip.bytes("config.json", &python_json::to_bytes(&description.config)?)?;
    if let Some(processor) = &preparer.processor {
        zip.json("preprocessor_config.json", &processor.to_json())?;
    }
    let mut files: Vec<_> = description.side_files.iter().collect();
    files.sort();
    for (name, bytes) in files {
        zip.bytes(name, bytes)?;
    }
    let is_clip = model.kind() == ModelKind::TextImage;
    let modules = modules(model, description, &layers, &head)?;
    let own = modules.own_list.is_some();
    let extras = Extras {
        pooler: setup.pooler.filter(|_| !is_clip),
        head: setup.head,
        head_modules: modules.head,
        // Other text models store this in the files of sentence-transformers.
        max_tokens: description.max_tokens.filter(|_| is_clip || own),
        include_prompt: description.include_prompt || !own,
        modules: modules.own_list,
    };
    if !is_clip || extras != Extras::default() {
        zip.json(EXTRAS_FILE, &extras.to_json())?;
    }
    for (name, bytes) in modules.files {
        zip.bytes(&name, &bytes)?;
    }
    zip.file("model.safetensors", &weights)?;
    if let Some(adapter) = &adapter {
        zip.json(
            ADAPTER_CONFIG_FILE,
            &adapter_config(model, adapter, description, record),
        )?;
        let bytes = encode_safetensors(&adapter.tensors, FloatFormat::F32)?;
        zip.start(ADAPTER_WEIGHTS_FILE, CompressionMethod::Stored)?;
        zip.zip.write_all(&bytes).map_err(|e| Error::io(&path, e))?;
    }
    if setup.head.is_some() {
        zip.file(HEAD_FILE, &head_weights)?;
        std::fs::remove_file(&head_weights).map_err(|e| Error::io(&head_weights, e))?;
    }
    let models = folder.join("models");
    for part in &parts {
        std::fs::create_dir_all(&models).map_err(|e| Error::io(&models, e))?;
        if let Some(input) = part.onnx.filter(|_| record.config.model.to_onnx) {
            model.save_onnx(&models.join(ONNX_FILE), input, OnnxFormat::Float32)?;
        }
        if let Some(tensors) = part
            .state_dict(model, description)
            .filter(|_| wants_torch(record.config))
        {
            torch::write(&models.join(TORCH_FILE), &tensors)?;
        }
        for file in [ONNX_FILE, ONNX_DATA_FILE, TORCH_FILE] {
            let path = models.join(file);
            if path.is_file() {
                zip.file(&format!("models/{}/{file}", part.folder), &path)?;
            }
        }
        std::fs::remove_dir_all(&models).map_err(|e| Error::io(&models, e))?;
    }
    zip.folder("logs", logs)?;
    zip.finish()?;
    std::fs::remove_file(&weights).map_err(|e| Error::io(&weights, e))?;
    Ok(path)
}

/// Returns PEFT's `adapter_config.json`.
///
/// The backbone is named by its hub repository and commit, or else by the name in the
/// run's configuration.
fn adapter_config(
    model: &Model,
    adapter: &SavedAdapter,
    description: &ModelDescription,
    record: &RunRecord<'_>,
) -> Value {
    let given = &record.config.model;
    let base = match description.origins.as_slice() {
        [origin] => Some((origin.name.as_str(), Some(origin.commit.as_str()))),
        _ => given
            .name
            .as_ref()
            .or(given.artifact.as_ref())
            .map(|name| (name.as_str(), None)),
    };
    let lora = model.setup().lora.as_ref();
    lora.map_or(Value::Null, |lora| lora.to_json(&adapter.layers, base))
}

/// Returns the files that let sentence-transformers load a text model.
///
/// There are none for other models.
fn modules(
    model: &Model,
    description: &ModelDescription,
    layers: &HashMap<String, RawTensor>,
    head: &HashMap<String, RawTensor>,
) -> Result<modules::Files> {
    let longest = description.max_tokens;
    let setup = model.setup();
    if let Some(files) = description.classifier_files(setup.activation)? {
        return Ok(modules::Files::of(files));
    }
    let (ModelKind::Text, Some(longest)) = (model.kind(), longest) else {
        return Ok(modules::Files::default());
    };
    let folded = setup.head.map(|config| config.folded(head));
    Saved {
        pooling: Pooling {
            pooler: setup.pooler.unwrap_or(Pooling::default().pooler),
            include_prompt: description.include_prompt,
        },
        width: model.config().dim(),
        layers: &setup.modules,
        tensors: layers,
        head: folded.transpose()?,
        prompts: &description.prompts,
        sentence: &description.sentence,
        longest,
    }
    .files()
}

fn metrics(record: &RunRecord<'_>) -> Value {
    json!({"before": record.before, "after": record.after})
}

/// The note in `metadata.yml` for models with a projection head.
const HEAD_NOTE: &str = "config.json and model.safetensors are the backbone alone. The embeddings of \
                         this run come from the projection head on top of it, which other \
                         libraries leave out; finetuner.json describes it";

fn metadata(record: &RunRecord<'_>, model: &Model, origins: &[Origin]) -> Value {
    let backbones = origins.iter().map(
        |origin| json!({"name": origin.name, "revision": origin.revision, "commit": origin.commit}),
    );
    let backbones: Vec<Value> = backbones.collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let head = model.setup().head.map(|head| {
        json!({
            "weights": HEAD_FILE,
            "inputs": head.inputs,
            "outputs": head.outputs,
            "backbone_frozen": model.setup().freeze,
            "note": HEAD_NOTE,
        })
    });
    json!({
        "name": record.config.run_name,
        "experiment": record.config.experiment_name,
        "device": record.device,
        "duration": record.duration.as_secs_f64(),
        "timestamp": now.map_or(0, |t| t.as_secs()),
        "finetuner_version": env!("CARGO_PKG_VERSION"),
        "model_type": "safetensors",
        "backbones": backbones,
        "metrics": metrics(record),
        "example_results": {"before": {}, "after": {}},
        "product": "finetuner",
        "artifact_type": "run",
        "projection_head": head,
    })
}

/// A zip whose files are all in one folder.
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

    fn json(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from);
        self.bytes(name, &text.map_err(|e| Error::io(self.path, e))?)
    }

    /// Adds all files of a folder, recursively.
    ///
    /// Does nothing if the folder does not exist.
    fn folder(&mut self, name: &str, from: &Path) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(from) else {
            return Ok(());
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let name = format!("{name}/{file}");
            if path.is_dir() {
                self.folder(&name, &path)?;
            } else {
                let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
                self.bytes(&name, &bytes)?;
            }
        }
        Ok(())
    }

    /// Adds a file uncompressed: weights do not compress.
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
