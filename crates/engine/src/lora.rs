//! Low-rank adaptation (LoRA; Hu et al. 2021, arXiv:2106.09685).
//!
//! Selects the layers whose weights are adapted by two small trained factors. Options
//! have the names, defaults and meaning of PEFT's `LoraConfig` for the task
//! `FEATURE_EXTRACTION`.

use std::collections::BTreeSet;

use finetuner_protocol::Options;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    ops::{ADAPTER_A, ADAPTER_B},
    options::OptionReader,
    params::RawTensor,
    random::uniform_weights,
};

/// Field of the run's configuration.
const FIELD: &str = "model_options.lora";
/// PEFT's keyword for all linear layers.
const ALL_LINEAR: &str = "all-linear";
/// Rank limit. A larger rank saves nothing in any known layer.
const MAX_RANK: usize = 8192;

/// Layers that PEFT adapts by default, by model type.
const DEFAULT_TARGETS: &[(&str, &[&str])] = &[
    ("bert", &["query", "value"]),
    ("gemma3_text", &["q_proj", "v_proj"]),
    ("qwen3", &["q_proj", "v_proj"]),
    ("roberta", &["query", "value"]),
    ("t5", &["q", "v"]),
    ("xlm-roberta", &["query", "value"]),
];

/// Selection of the linear layers that get adapters.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// PEFT's default for the model type, or else all layers.
    Default,
    /// All linear layers of the network.
    AllLinear,
    /// Layers with these names or name endings.
    Named(Vec<String>),
}

/// LoRA settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    /// Rank: the number of rows of the first factor.
    pub r: usize,
    /// Factor of the adapters' output, before the division by the rank.
    pub lora_alpha: f64,
    /// Dropout rate of the adapters' inputs in training.
    pub lora_dropout: f64,
    /// Layers that get adapters.
    pub target_modules: Targets,
    /// Modules that are trained and saved completely.
    pub modules_to_save: Vec<String>,
    /// Whether to divide by the square root of the rank (arXiv:2312.03732).
    pub use_rslora: bool,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Targets::Default,
            modules_to_save: Vec::new(),
            use_rslora: false,
        }
    }
}

impl LoraSpec {
    /// Parses the options of a run.
    ///
    /// # Errors
    /// [`Error::Config`] names an invalid option, its value and the allowed values.
    pub(crate) fn parse(options: &Options) -> Result<Self> {
        let read = OptionReader::new(FIELD, Some(options));
        let defaults = Self::default();
        let r = read.count("r", defaults.r, 1)?;
        if r > MAX_RANK {
            return Err(read.bad("r", &format!("give at most {MAX_RANK}")));
        }
        let target_modules = match read.value("target_modules") {
            None => Targets::Default,
            Some(Value::String(word)) if word == ALL_LINEAR => Targets::AllLinear,
            Some(_) => Targets::Named(names(&read, "target_modules")?),
        };
        let modules_to_save = match read.value("modules_to_save") {
            None => Vec::new(),
            Some(_) => names(&read, "modules_to_save")?,
        };
        let lora_dropout = read.number("lora_dropout", 0.0, 0.0, 0.99)?;
        // Other settings of PEFT are fixed.
        read.choice("bias", "none", &["none"])?;
        read.choice("task_type", "FEATURE_EXTRACTION", &["FEATURE_EXTRACTION"])?;
        let spec = Self {
            r,
            lora_alpha: read.positive("lora_alpha", defaults.lora_alpha)?,
            lora_dropout,
            target_modules,
            modules_to_save,
            use_rslora: read.flag("use_rslora", false)?,
        };
        read.finish()?;
        Ok(spec)
    }

    /// Returns the factor of the adapters' output.
    pub(crate) fn scale(&self) -> f32 {
        scale(self.lora_alpha, self.r, self.use_rslora)
    }

    /// Returns whether a tensor belongs to a module that is trained completely.
    ///
    /// `names` are the tensor's name here and in `transformers`.
    pub(crate) fn trains_whole(&self, names: [&str; 2]) -> bool {
        let mut wanted = self.modules_to_save.iter();
        wanted.any(|wanted| names.iter().any(|name| has_module(name, wanted)))
    }

    /// Resolves [`Targets::Default`] for a model type.
    ///
    /// The default is that of PEFT, or all layers if PEFT has none.
    pub(crate) fn of_model(&self, kind: &str) -> Self {
        let known = DEFAULT_TARGETS.iter().find(|(known, _)| *known == kind);
        let target_modules = match (&self.target_modules, known) {
            (Targets::Default, Some((_, names))) => {
                Targets::Named(names.iter().map(|name| (*name).to_owned()).collect())
            }
            (Targets::Default, None) => Targets::AllLinear,
            (targets, _) => targets.clone(),
        };
        Self {
            target_modules,
            ..self.clone()
        }
    }

    /// Selects the layers that get adapters.
    ///
    /// `layers` holds the names of all linear layers, here and in `transformers`.
    ///
    /// # Errors
    /// [`Error::Config`] if a name matches no layer.
    pub(crate) fn choose(&self, layers: &[[String; 2]]) -> Result<BTreeSet<String>> {
        if layers.is_empty() {
            let reason = "the model has no linear layers to adapt; remove this option";
            return Err(Error::config(FIELD, reason));
        }
        let adaptable = layers
            .iter()
            .filter(|[own, theirs]| !self.trains_whole([own, theirs]));
        let adaptable: Vec<&[String; 2]> = adaptable.collect();
        let own = |layer: &[String; 2]| layer[0].clone();
        let Targets::Named(wanted) = &self.target_modules else {
            return Ok(adaptable.into_iter().map(own).collect());
        };
        let mut chosen = BTreeSet::new();
        for name in wanted {
            let of_name = adaptable
                .iter()
                .filter(|names| names.iter().any(|layer| is_layer(layer, name)));
            let before = chosen.len();
            chosen.extend(of_name.map(|layer| own(layer)));
            let named = |[own, theirs]: &[String; 2]| is_layer(own, name) || is_layer(theirs, name);
            if chosen.len() == before && !layers.iter().any(named) {
                return Err(Error::config(
                    FIELD,
                    format!(
                        "`target_modules` names `{name}`, but no linear layer of the model has that \
                         name. Its layers are {}; `{ALL_LINEAR}` selects all",
                        endings(layers)
                    ),
                ));
            }
        }
        if chosen.is_empty() {
            let reason =
                "`target_modules` names only layers that `modules_to_save` trains completely";
            return Err(Error::config(FIELD, reason));
        }
        Ok(chosen)
    }

    /// Checks that the model has all modules to save.
    ///
    /// `tensors` holds the names of all tensors, here and in `transformers`.
    ///
    /// # Errors
    /// [`Error::Config`] names a missing module.
    pub(crate) fn check_modules(&self, tensors: &[[String; 2]]) -> Result<()> {
        for wanted in &self.modules_to_save {
            let mut names = tensors.iter().flatten();
            if !names.any(|name| has_module(name, wanted)) {
                let reason =
                    format!("`modules_to_save` names `{wanted}`: the model has no such module");
                return Err(Error::config(FIELD, reason));
            }
        }
        Ok(())
    }

    /// Returns new factors for a layer of this shape.
    ///
    /// The first is uniformly random, the second zero, so that training starts from the
    /// original model.
    pub(crate) fn factors(
        &self,
        layer: &str,
        shape: &[usize],
        seed: u64,
    ) -> [(String, RawTensor); 2] {
        let (rows, inputs) = match *shape {
            [rows, ref inputs @ ..] => (rows, inputs.iter().product::<usize>()),
            [] => (0, 0),
        };
        // As in `kaiming_uniform_` with `a = sqrt(5)`.
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        let a = uniform_weights(seed, self.r * inputs, bound);
        [
            (format!("{layer}{ADAPTER_A}"), (vec![self.r, inputs], a)),
            (
                format!("{layer}{ADAPTER_B}"),
                (vec![rows, self.r], vec![0.0; rows * self.r]),
            ),
        ]
    }

    /// Returns PEFT's `adapter_config.json`.
    ///
    /// `layers` are the adapted layers' names in `transformers`. `base` is the model's
    /// name, with the commit if it is from the hub.
    pub(crate) fn to_json(&self, layers: &[String], base: Option<(&str, Option<&str>)>) -> Value {
        let modules = (!self.modules_to_save.is_empty()).then_some(&self.modules_to_save);
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": base.map(|(name, _)| name),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": python_number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": modules,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": {},
            "revision": base.and_then(|(_, revision)| revision),
            "target_modules": layers,
            "task_type": "FEATURE_EXTRACTION",
            "use_dora": false,
            "use_rslora": self.use_rslora,
        })
    }
}

/// Returns the factor of an adapter's output.
pub(crate) fn scale(alpha: f64, rank: usize, by_root: bool) -> f32 {
    let rank = rank as f64;
    (alpha / if by_root { rank.sqrt() } else { rank }) as f32
}

/// Converts a number to JSON like Python: without a fraction if it is an integer.
fn python_number(number: f64) -> Value {
    match number.fract() == 0.0 && number.abs() < 1e15 {
        true => (number as i64).into(),
        false => number.into(),
    }
}

/// Reads an option that is a list of names.
fn names(read: &OptionReader<'_>, option: &str) -> Result<Vec<String>> {
    let list = read.value(option).and_then(Value::as_array);
    let names: Option<Vec<String>> = list.and_then(|list| {
        let names = list.iter().map(|name| {
            let name = name.as_str().filter(|name| !name.is_empty())?;
            Some(name.to_owned())
        });
        names.collect()
    });
    let names = names.filter(|names| !names.is_empty());
    names.ok_or_else(|| {
        let wanted = match option {
            "target_modules" => format!("give a list of layer names, or `{ALL_LINEAR}`"),
            _ => "give a list of module names".to_owned(),
        };
        read.bad(option, &wanted)
    })
}

/// Returns whether a layer's name is `wanted` or ends with it at a dot.
fn is_layer(layer: &str, wanted: &str) -> bool {
    let before = layer.strip_suffix(wanted);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Returns whether a tensor belongs to a module of this name, at any depth.
fn has_module(tensor: &str, wanted: &str) -> bool {
    let mut places = tensor.match_indices(wanted);
    places.any(|(at, _)| {
        let (before, behind) = (&tensor[..at], &tensor[at + wanted.len()..]);
        let begins = before.is_empty() || before.ends_with('.');
        begins && (behind.is_empty() || behind.starts_with('.'))
    })
}

/// Returns the distinct name endings of all layers.
fn endings(layers: &[[String; 2]]) -> String {
    let last = layers.iter().map(|[_, layer]| {
        let parts: Vec<&str> = layer.rsplitn(3, '.').take(2).collect();
        match parts[..] {
            // Skip a preceding number, but keep a preceding name: `dense` alone is ambiguous.
            [last, before] if before.parse::<u32>().is_err() => format!("`{before}.{last}`"),
            [last, ..] => format!("`{last}`"),
            [] => String::new(),
        }
    });
    let last: BTreeSet<String> = last.collect();
    last.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: Value) -> Result<LoraSpec> {
        LoraSpec::parse(&options.as_object().unwrap().clone().into())
    }

    fn layers() -> Vec<[String; 2]> {
        let names =
            ["query", "value", "output.dense"].map(|name| format!("layer.0.attention.{name}"));
        names.into_iter().map(|name| [name.clone(), name]).collect()
    }

    #[test]
    fn options_have_the_defaults_of_peft() {
        assert_eq!(parse(json!({})).unwrap(), LoraSpec::default());
        let spec = parse(json!({"r": 16, "lora_alpha": 32, "use_rslora": true})).unwrap();
        assert_eq!((spec.r, spec.scale()), (16, 8.0));
    }

    #[test]
    fn unsupported_options_are_rejected_by_name() {
        for (options, part) in [
            (
                json!({"rank": 8}),
                "`rank` is 8: the options are bias, lora_alpha",
            ),
            (json!({"r": 0}), "`r` is 0"),
            (json!({"r": 9000}), "at most 8192"),
            (json!({"lora_alpha": 0}), "`lora_alpha` is 0"),
            (json!({"lora_dropout": 1}), "`lora_dropout` is 1"),
            (json!({"target_modules": "query"}), "a list of layer names"),
            (json!({"target_modules": []}), "`target_modules` is []"),
            (json!({"modules_to_save": [""]}), "`modules_to_save` is"),
            (json!({"bias": "all"}), "`bias` is \"all\""),
            (json!({"use_dora": true}), "`use_dora` is true"),
            (json!({"task_type": "CAUSAL_LM"}), "`task_type`"),
        ] {
            let error = parse(options).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains("model_options.lora"), "{error}");
        }
    }

    #[test]
    fn layers_are_selected_by_name_by_ending_or_all() {
        let choose = |targets: Value, kind: &str| {
            let spec = parse(json!({"target_modules": targets})).unwrap();
            spec.of_model(kind)
                .choose(&layers())
                .map(|chosen| chosen.into_iter().collect::<Vec<_>>())
        };
        let names = |endings: &[&str]| -> Vec<String> {
            let names = endings.iter();
            names
                .map(|name| format!("layer.0.attention.{name}"))
                .collect()
        };
        assert_eq!(
            choose(json!(null), "bert").unwrap(),
            names(&["query", "value"])
        );
        let all = names(&["output.dense", "query", "value"]);
        assert_eq!(choose(json!(null), "vit").unwrap(), all);
        assert_eq!(choose(json!("all-linear"), "bert").unwrap(), all);
        assert_eq!(
            choose(json!(["dense"]), "bert").unwrap(),
            names(&["output.dense"])
        );
        assert_eq!(
            choose(json!(["layer.0.attention.query"]), "bert").unwrap(),
            names(&["query"])
        );
        // A name must match from a dot on.
        let error = choose(json!(["query", "ery"]), "bert")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("names `ery`, but no linear layer"),
            "{error}"
        );
        assert!(error.contains("`attention.query`"), "{error}");
    }

    #[test]
    fn modules_to_save_are_trained_completely_and_get_no_adapter() {
        let spec =
            parse(json!({"modules_to_save": ["attention.output"], "target_modules": "all-linear"}));
        let spec = spec.unwrap();
        let tensor = "layer.0.attention.output.dense.weight";
        assert!(spec.trains_whole([tensor; 2]));
        assert!(!spec.trains_whole(["layer.0.attention.outputs.weight"; 2]));
        assert_eq!(spec.choose(&layers()).unwrap().len(), 2);
        let tensors = layers();
        spec.check_modules(&tensors).unwrap();
        let other = parse(json!({"modules_to_save": ["pooler"]})).unwrap();
        let error = other.check_modules(&tensors).unwrap_err().to_string();
        assert!(
            error.contains("`pooler`: the model has no such module"),
            "{error}"
        );
    }
}
