//! Builds the run configuration from `--config FILE` and the options. Options override
//! the file.

use std::path::Path;

use finetuner::{
    HardNegatives, RunConfig,
    protocol::{Data, HyperParameters, Model},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::settings::Settings;
use crate::{
    failure::{Failure, Result},
    sources::extension,
    values::{self, set_path},
};

/// Paths of settings in a run configuration, by the name of their option.
const PLACES: [(&str, &str); 42] = [
    ("model", "model.name"),
    ("model_artifact", "model.artifact"),
    ("freeze", "model.freeze"),
    ("output_dim", "model.output_dim"),
    ("to_onnx", "model.to_onnx"),
    ("multi_modal", "model.multi_modal"),
    ("model_options", "model.options"),
    ("lora", "model.options.lora"),
    ("train_data", "data.train_data"),
    ("more_train_data", "data.more_train_data"),
    ("train_data_weight", "data.train_data_weight"),
    (
        "multi_dataset_batch_sampler",
        "data.multi_dataset_batch_sampler",
    ),
    ("eval_data", "data.eval_data"),
    ("val_split", "data.val_split"),
    ("sampler", "data.sampler"),
    ("num_items_per_class", "data.num_items_per_class"),
    ("num_workers", "data.num_workers"),
    ("image_modality", "data.image_modality"),
    ("text_modality", "data.text_modality"),
    ("epochs", "hyper_parameters.epochs"),
    ("batch_size", "hyper_parameters.batch_size"),
    (
        "gradient_accumulation_steps",
        "hyper_parameters.gradient_accumulation_steps",
    ),
    ("learning_rate", "hyper_parameters.learning_rate"),
    ("loss", "hyper_parameters.loss"),
    ("loss_options", "hyper_parameters.loss_options"),
    ("loss_optimizer", "hyper_parameters.loss_optimizer"),
    (
        "loss_optimizer_options",
        "hyper_parameters.loss_optimizer_options",
    ),
    ("miner", "hyper_parameters.miner"),
    ("miner_options", "hyper_parameters.miner_options"),
    ("optimizer", "hyper_parameters.optimizer"),
    ("optimizer_options", "hyper_parameters.optimizer_options"),
    ("scheduler", "hyper_parameters.scheduler"),
    ("scheduler_options", "hyper_parameters.scheduler_options"),
    ("scheduler_step", "hyper_parameters.scheduler_step"),
    ("prompts", "hyper_parameters.prompts"),
    (
        "mine_hard_negatives",
        "hyper_parameters.mine_hard_negatives",
    ),
    ("corpus", "hyper_parameters.mine_hard_negatives.corpus"),
    ("run_name", "run_name"),
    ("experiment_name", "experiment_name"),
    ("public", "public"),
    ("callbacks", "callbacks"),
    ("hyper_parameters", "hyper_parameters"),
];

/// A run that file and options describe.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) config: RunConfig,
    // The request to create a run contains these beside the configuration.
    pub(super) device: Option<String>,
    pub(super) description: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) note: Option<String>,
}

/// Combines file and options to a run.
///
/// # Errors
/// A usage failure if a setting is unknown or invalid, or if the model or the training
/// data is missing.
pub(super) fn describe(
    file: Option<&Path>,
    settings: &Settings,
    train_data: Option<String>,
) -> Result<Described> {
    let mut config = match file {
        Some(file) => placed(&format!("--config {}", file.display()), read(file)?)?,
        None => Map::new(),
    };
    let options = serde_json::to_value(settings).unwrap_or_default();
    if let Value::Object(options) = options {
        if options.contains_key("model") {
            set_path(&mut config, "model.artifact", Value::Null);
        }
        if options.contains_key("model_artifact") {
            set_path(&mut config, "model.name", Value::Null);
        }
        place(&mut config, options)?;
    }
    if let Some(data) = train_data {
        set_path(&mut config, "data.train_data", data.into());
    }
    add_pairs(&mut config, settings)?;
    let device = text(&mut config, "device")?;
    let description = text(&mut config, "description")?;
    let tags = texts(&mut config, "tags")?;
    let note = text(&mut config, "note")?;
    let config = parsed(config)?;
    let needed = [
        (
            config.data.train_data.is_empty(),
            "the training data is missing: name it after `fit`, or as `train_data` in `--config`",
        ),
        (
            config.model.name.as_deref().unwrap_or_default().is_empty()
                && config.model.artifact.is_none(),
            "the model is missing: give `--model`; `finetuner models` lists the models",
        ),
    ];
    match needed.iter().find(|(is_missing, _)| *is_missing) {
        Some((_, words)) => Err(Failure::usage(*words)),
        None => Ok(Described {
            config,
            device,
            description,
            tags,
            note,
        }),
    }
}

/// Reads a file as an object.
fn read(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("--config", path, &e))?;
    let bad = |reason: String| {
        Failure::usage(format!(
            "`--config {}` can't be read: {}",
            path.display(),
            reason.trim_end()
        ))
    };
    match extension(path).as_str() {
        "toml" => toml::from_str(&text).map_err(|e| bad(e.to_string())),
        "json" => serde_json::from_str(&text).map_err(|e| bad(e.to_string())),
        _ => Err(bad("its name must end with .json or .toml".to_owned())),
    }
}

/// Moves the members of a file to their paths in a run configuration.
fn placed(option: &str, file: Map<String, Value>) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    place(&mut config, file).map_err(|failure| Failure::usage(format!("`{option}`: {failure}")))?;
    Ok(config)
}

/// Moves settings to their paths. Whole parts of a run configuration (`model` as an
/// object, `data`, `hyper_parameters`) stay where they are.
fn place(config: &mut Map<String, Value>, settings: Map<String, Value>) -> Result {
    for (name, value) in settings {
        let place = PLACES.iter().find(|(known, _)| *known == name);
        match (name.as_str(), place, value) {
            ("model" | "data", _, value @ Value::Object(_)) => set_path(config, &name, value),
            ("device" | "description" | "tags" | "note", _, value) => {
                set_path(config, &name, value)
            }
            (_, Some((_, place)), value) => set_path(config, place, value),
            (_, None, _) => {
                return Err(Failure::usage(format!(
                    "`{name}` is not a setting. Settings have the names of the options of \
                     `finetuner fit`, with underscores, such as learning_rate"
                )));
            }
        }
    }
    Ok(())
}

/// Adds the options of the form `KEY=VALUE`, and the callbacks.
fn add_pairs(config: &mut Map<String, Value>, settings: &Settings) -> Result {
    let options = &settings.options;
    for (place, pairs) in [
        ("model.options", &options.model_options),
        ("model.options.lora", &options.lora),
        ("hyper_parameters.loss_options", &options.loss_options),
        (
            "hyper_parameters.loss_optimizer_options",
            &options.loss_optimizer_options,
        ),
        ("hyper_parameters.miner_options", &options.miner_options),
        (
            "hyper_parameters.optimizer_options",
            &options.optimizer_options,
        ),
        (
            "hyper_parameters.scheduler_options",
            &options.scheduler_options,
        ),
        ("hyper_parameters.prompts", &options.prompt),
    ] {
        if !pairs.is_empty() {
            set_path(config, place, values::object(pairs).into());
        }
    }
    if let Some(mining) = mining(&options.mine_hard_negatives)? {
        set_path(
            config,
            "hyper_parameters.mine_hard_negatives",
            mining.into(),
        );
    }
    let evaluation = options.evaluate.as_ref().map(|data| {
        let mut evaluation = values::object(&options.evaluate_options);
        evaluation.insert("query_data".to_owned(), data.as_str().into());
        if let Some(index) = &options.evaluate_index {
            evaluation.insert("index_data".to_owned(), index.as_str().into());
        }
        json!({"name": "EvaluationCallback", "options": evaluation})
    });
    if evaluation.is_some() || !options.callbacks.is_empty() {
        let known = match config.get_mut("callbacks") {
            Some(Value::Array(known)) => std::mem::take(known),
            _ => Vec::new(),
        };
        // It measures before other callbacks read its metrics, those of the file too.
        let all = evaluation.into_iter().chain(known);
        let all: Vec<Value> = all.chain(options.callbacks.iter().cloned()).collect();
        config.insert("callbacks".to_owned(), all.into());
    }
    for pair in &options.set {
        pair.put_into(config);
    }
    Ok(())
}

/// Returns the options of `--mine-hard-negatives`, if there are any.
fn mining(pairs: &[values::Pair]) -> Result<Option<Map<String, Value>>> {
    if pairs.is_empty() {
        return Ok(None);
    }
    let options = values::object(pairs);
    // `HardNegatives` would keep an unknown name without using it.
    let known = serde_json::to_value(HardNegatives::new()).unwrap_or_default();
    let optional = [
        "corpus",
        "range_max",
        "max_score",
        "min_score",
        "absolute_margin",
        "relative_margin",
        "seed",
    ];
    for name in options.keys() {
        if known.get(name).is_none() && !optional.contains(&name.as_str()) {
            return Err(Failure::usage(format!(
                "`--mine-hard-negatives {name}=...`: `{name}` is not an option. The options are those of \
                 sentence-transformers, such as num_negatives, range_min and relative_margin"
            )));
        }
    }
    Ok(Some(options))
}

/// Removes a text from the configuration and returns it.
fn text(config: &mut Map<String, Value>, name: &str) -> Result<Option<String>> {
    match config.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Failure::usage(format!(
            "`{name}` is {other}: it must be a text"
        ))),
    }
}

/// Removes a list of texts from the configuration and returns it.
fn texts(config: &mut Map<String, Value>, name: &str) -> Result<Vec<String>> {
    let Some(value) = config.remove(name) else {
        return Ok(Vec::new());
    };
    let texts = serde_json::from_value(value.clone());
    texts.map_err(|_| Failure::usage(format!("`{name}` is {value}: give a list of texts")))
}

/// Parses the configuration. Refuses unknown members, which are usually typing
/// errors.
fn parsed(mut config: Map<String, Value>) -> Result<RunConfig> {
    part::<Model>(&config, "model")?;
    part::<Data>(&config, "data")?;
    part::<HyperParameters>(&config, "hyper_parameters")?;
    // Configurations without `public` are parsed as those of the clients of 2022.
    config.entry("public").or_insert(false.into());
    let config: RunConfig = serde_json::from_value(config.into())
        .map_err(|e| Failure::usage(format!("the run's settings can't be used: {e}")))?;
    match config.unknown_members().first() {
        None => Ok(config),
        Some(name) => Err(Failure::usage(format!(
            "`{name}` is not a setting of a run. `finetuner fit --help` lists the settings; \
             options of the model, the loss and so on go into `model_options`, `loss_options` and \
             so on"
        ))),
    }
}

/// Parses a part of the configuration, so that an error names the member.
fn part<T: DeserializeOwned>(config: &Map<String, Value>, name: &str) -> Result {
    let Some(value) = config.get(name) else {
        return Ok(());
    };
    match serde_path_to_error::deserialize::<_, T>(value) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!(
            "`{name}.{}` of the run can't be used: {}",
            error.path(),
            error.inner()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        settings: Settings,
    }

    fn describe_of(options: &str, file: Option<(&str, &str)>) -> Result<Described> {
        let words = std::iter::once("fit").chain(options.split_whitespace());
        let options = Options::try_parse_from(words).map_err(|e| Failure::usage(e.to_string()))?;
        let folder = tempfile::tempdir()?;
        let path = file.map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).map(|()| path)
        });
        let path = path.transpose()?;
        describe(path.as_deref(), &options.settings, Some("train".to_owned()))
    }

    #[test]
    fn each_option_sets_its_configuration_field() {
        let described = describe_of(
            "--model clip-small --freeze --output-dim 8 --to-onnx --epochs 3 --batch-size 4 \
             --learning-rate 0.5 --loss CLIPLoss --loss-option temperature=0.1 --lora r=4 \
             --option seed=7 --scheduler-option num_warmup_steps=2 --prompt anchor=q: \
             --more-train-data more=0.5 --val-split 0.25 --device cpu --description words --tag a --tag b \
             --mine-hard-negatives num_negatives=2 --corpus all --callback EarlyStopping:patience=3 \
             --evaluate test --evaluate-option limit=4 --set data.num_workers=2",
            None,
        )
        .unwrap();
        let config = serde_json::to_value(&described.config).unwrap();
        for (place, expected) in [
            ("/model/name", json!("clip-small")),
            ("/model/freeze", json!(true)),
            ("/model/output_dim", json!(8)),
            ("/model/to_onnx", json!(true)),
            ("/model/options/lora/r", json!(4)),
            ("/model/options/seed", json!(7)),
            ("/data/train_data", json!("train")),
            ("/data/more_train_data/0/weight", json!(0.5)),
            ("/data/val_split", json!(0.25)),
            ("/data/num_workers", json!(2)),
            ("/hyper_parameters/epochs", json!(3)),
            ("/hyper_parameters/learning_rate", json!(0.5)),
            ("/hyper_parameters/loss", json!("CLIPLoss")),
            ("/hyper_parameters/loss_options/temperature", json!(0.1)),
            (
                "/hyper_parameters/scheduler_options/num_warmup_steps",
                json!(2),
            ),
            ("/hyper_parameters/prompts/anchor", json!("q:")),
            (
                "/hyper_parameters/mine_hard_negatives/num_negatives",
                json!(2),
            ),
            ("/hyper_parameters/mine_hard_negatives/corpus", json!("all")),
            ("/callbacks/0/options/query_data", json!("test")),
            ("/callbacks/0/options/limit", json!(4)),
            ("/callbacks/1/name", json!("EarlyStopping")),
            ("/callbacks/1/options/patience", json!(3)),
        ] {
            assert_eq!(config.pointer(place), Some(&expected), "{place}");
        }
        assert_eq!(described.device.as_deref(), Some("cpu"));
        assert_eq!(described.description.as_deref(), Some("words"));
        assert_eq!(described.tags, ["a", "b"]);
    }

    #[test]
    fn a_prompt_keeps_the_space_at_its_end() {
        let words = ["fit", "--model", "a", "--prompt", "anchor=query: "];
        let options = Options::try_parse_from(words).unwrap();
        let described = describe(None, &options.settings, Some("train".to_owned())).unwrap();
        let prompts = serde_json::to_value(described.config.hyper_parameters.prompts).unwrap();
        assert_eq!(prompts["anchor"], "query: ");
    }

    #[test]
    fn command_line_options_override_the_config_file() {
        let toml = "model = \"a\"\nepochs = 3\nlearning_rate = 0.1\n[loss_options]\nmargin = 0.3\n";
        let described = describe_of("--epochs 4 --loss-option power=2", Some(("a.toml", toml)));
        let config = described.unwrap().config;
        assert_eq!(config.model.name.as_deref(), Some("a"));
        let hyper = config.hyper_parameters;
        assert_eq!((hyper.epochs, hyper.learning_rate), (4, Some(0.1)));
        let options = serde_json::to_value(hyper.loss_options).unwrap();
        assert_eq!(options, json!({"margin": 0.3, "power": 2}));
    }

    #[test]
    fn a_config_file_can_be_a_complete_run_configuration() {
        let json = json!({
            "model": {"name": "a", "freeze": true},
            "data": {"train_data": "other"},
            "hyper_parameters": {"epochs": 2},
            "callbacks": [{"name": "BestModelCheckpoint", "options": {}}],
        });
        let text = json.to_string();
        let file = Some(("a.json", text.as_str()));
        let described = describe_of("", file).unwrap();
        assert!(described.config.model.freeze);
        assert_eq!(described.config.hyper_parameters.epochs, 2);
        assert_eq!(described.config.data.train_data, "train");
        assert_eq!(described.config.callbacks.len(), 1);
        // An evaluation comes before the callbacks that may read its metrics.
        let described = describe_of("--evaluate test --callback EarlyStopping", file).unwrap();
        let callbacks = described.config.callbacks.iter();
        assert_eq!(
            callbacks
                .map(|callback| callback.name())
                .collect::<Vec<_>>(),
            ["EvaluationCallback", "BestModelCheckpoint", "EarlyStopping"]
        );
    }

    #[test]
    fn invalid_options_and_files_are_errors_that_name_them() {
        for (options, file, words) in [
            ("", None, "--model"),
            (
                "--model a --mine-hard-negatives x=1",
                None,
                "`--mine-hard-negatives x=...`",
            ),
            ("--model a --set model.x=1", None, "`model.x`"),
            ("", Some(("a.toml", "modle = \"a\"")), "`modle`"),
            ("", Some(("a.toml", "model = ")), "a.toml"),
            ("", Some(("a.yaml", "model: a")), ".json or .toml"),
            (
                "",
                Some(("a.json", r#"{"model": "a", "epochs": "x"}"#)),
                "epochs",
            ),
            ("--model a --loss Nothing", None, "--loss"),
            ("--model a --learning-rate nan", None, "--learning-rate"),
            ("--model a --loss-option margin", None, "KEY=VALUE"),
        ] {
            let failure = describe_of(options, file).unwrap_err();
            assert!(failure.to_string().contains(words), "{options} {failure}");
        }
    }

    #[test]
    fn every_argument_maps_to_the_configuration() {
        let others = [
            "device",
            "description",
            "tags",
            "note",
            "prompt",
            "evaluate",
            "evaluate_index",
            "evaluate_options",
            "set",
        ];
        for argument in <Options as clap::CommandFactory>::command().get_arguments() {
            let id = argument.get_id().as_str();
            let has_place = PLACES.iter().any(|(name, _)| *name == id);
            assert!(has_place || others.contains(&id), "{id}");
        }
    }
}
