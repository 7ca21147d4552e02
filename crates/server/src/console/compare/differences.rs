//! Differences between the settings of runs. An explicit setting equals an
//! omitted one with the same default. Datasets are compared by content, not by
//! name.

use std::collections::BTreeMap;

use finetuner_engine::plan::default_options;
use finetuner_protocol::{Generation, HyperParameters, RunConfig, SchedulerStep};
use serde_json::{Map, Value};

use crate::{console::config::config_of, database::RunRow};

/// Ignored fields: names, which always differ, and settings without effect on the
/// result.
const IGNORED: [&str; 4] = ["run_name", "experiment_name", "data.evaluate", "public"];

/// Default values of model options.
const DEFAULTS: [(&str, &str); 4] = [
    ("model.options.augmentation", "none"),
    ("model.options.gradient_checkpointing", "no"),
    ("model.options.precision", "float32"),
    ("model.options.seed", "0"),
];

/// A setting with different values among the runs.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) label: String,
    /// One value per run; `None` if the run does not have the setting.
    pub(super) values: Vec<Option<String>>,
}

/// The settings of a run.
struct Settings {
    /// Settings in the configuration, by their full paths.
    named: BTreeMap<String, String>,
    /// Defaults of the options that the configuration omits.
    defaults: BTreeMap<String, String>,
}

impl Settings {
    fn get(&self, field: &str) -> Option<&String> {
        self.named.get(field).or_else(|| self.defaults.get(field))
    }
}

/// Returns the settings in which runs differ.
pub(super) fn of(runs: &[RunRow]) -> Vec<Difference> {
    let all = runs.iter().map(|run| {
        let contents: Value = serde_json::from_str(&run.data).unwrap_or_default();
        let mut settings = flattened(config_of(run));
        settings
            .named
            .insert("device".to_owned(), run.device.clone());
        (settings, contents)
    });
    between(&all.collect::<Vec<_>>())
}

fn between(all: &[(Settings, Value)]) -> Vec<Difference> {
    let mut fields: Vec<&String> = all
        .iter()
        .flat_map(|(settings, _)| settings.named.keys())
        .collect();
    fields.sort();
    fields.dedup();
    let fields = fields.into_iter().filter_map(|field| {
        let values = all.iter().map(|(settings, _)| settings.get(field).cloned());
        let values: Vec<Option<String>> = values.collect();
        // Data is what it holds, whatever it is called.
        let compared = all.iter().map(|(settings, contents)| {
            let value = settings.get(field)?;
            Some(contents[value].as_str().unwrap_or(value).to_owned())
        });
        let compared: Vec<Option<String>> = compared.collect();
        let differ = compared.iter().any(|value| *value != compared[0]);
        let values = disambiguated(values, &compared);
        (differ && !IGNORED.contains(&field.as_str())).then(|| Difference {
            label: label(field),
            values,
        })
    });
    fields.collect()
}

/// Appends the start of the content's SHA-256 to datasets with equal names and
/// different contents.
fn disambiguated(values: Vec<Option<String>>, compared: &[Option<String>]) -> Vec<Option<String>> {
    let is_twin = |place: usize| {
        let mut others = values.iter().zip(compared);
        others.any(|(value, content)| {
            value.is_some() && *value == values[place] && *content != compared[place]
        })
    };
    let told = values.iter().enumerate().map(|(place, value)| {
        let content = compared[place].as_deref().filter(|_| is_twin(place));
        match (value, content.and_then(|content| content.get(..8))) {
            (Some(value), Some(start)) => Some(format!("{value} ({start})")),
            _ => value.clone(),
        }
    });
    told.collect()
}

/// Returns the display name of a setting, without its section prefix.
fn label(field: &str) -> String {
    match field {
        "model.name" => "model".to_owned(),
        "model.artifact" => "model of artifact".to_owned(),
        field => {
            let starts = ["hyper_parameters.", "callbacks.", "data."];
            let start = starts.iter().find_map(|start| field.strip_prefix(start));
            start.unwrap_or(field).to_owned()
        }
    }
}

/// Returns the settings of a configuration as paths and values. Configurations of both
/// client generations get the same names, and omitted settings their defaults.
fn flattened(config: Value) -> Settings {
    let read = serde_json::from_value::<RunConfig>(config.clone()).ok();
    let is_training = config["model"].is_object();
    let mut read = read.filter(|_| is_training);
    let whole = read.as_mut().and_then(|read| {
        read.generation = Generation::V0_8;
        join_scheduler_steps(&mut read.hyper_parameters);
        serde_json::to_value(read).ok()
    });
    let mut named = BTreeMap::new();
    walk("", whole.as_ref().unwrap_or(&config), &mut named);
    for (field, value) in DEFAULTS.iter().filter(|_| is_training) {
        named
            .entry((*field).to_owned())
            .or_insert_with(|| (*value).to_owned());
    }
    let mut defaults = BTreeMap::new();
    for (field, value) in read.as_ref().map(default_options).unwrap_or_default() {
        walk(&format!("hyper_parameters.{field}"), &value, &mut defaults);
    }
    Settings { named, defaults }
}

/// Moves the field `scheduler_step` of older clients into the scheduler's options, with
/// the precedence that the training has, and replaces a missing number of steps.
fn join_scheduler_steps(hyper: &mut HyperParameters) {
    let step = hyper.scheduler_step.take();
    let options = hyper.scheduler_options.get_or_insert_with(Default::default);
    if let Some(step) = step.filter(|_| options.scheduler_step == SchedulerStep::Batch) {
        options.scheduler_step = step;
    }
    if options.num_training_steps.is_null() {
        options.num_training_steps = "auto".into();
    }
}

/// Returns whether a hyper-parameter is a class with its options, such as the distance
/// of a loss. It equals the name alone if all its options have their defaults.
fn is_class(prefix: &str, fields: &Map<String, Value>) -> bool {
    prefix.starts_with("hyper_parameters.")
        && fields.get("name").is_some_and(Value::is_string)
        && fields
            .iter()
            .all(|(name, value)| name == "name" || name == "options" && !value.is_array())
}

fn walk(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let below = |name: &str| match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}.{name}"),
    };
    match value {
        // The defaults of its options have these names too.
        Value::Object(fields) if is_class(prefix, fields) => {
            for value in fields.values() {
                walk(prefix, value, into);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(&below(name), value, into);
            }
        }
        Value::Array(values) if values.iter().any(|v| v.is_object() || v.is_array()) => {
            for (i, value) in values.iter().enumerate() {
                let number = (i + 1).to_string();
                match (value["name"].as_str(), value["options"].is_object()) {
                    // Callbacks are matched by name, not by position in the list.
                    (Some(name), true) => {
                        let mut name = below(name);
                        while into.contains_key(&name) {
                            name.push('+');
                        }
                        into.insert(name.clone(), "yes".to_owned());
                        walk(&name, &value["options"], into);
                    }
                    (Some(name), false) => {
                        into.insert(below(name), "yes".to_owned());
                    }
                    (None, _) => walk(&below(&number), value, into),
                }
            }
        }
        Value::Array(values) if !values.is_empty() => {
            let texts = values.iter().filter_map(text);
            into.insert(prefix.to_owned(), texts.collect::<Vec<_>>().join(", "));
        }
        value => {
            if let Some(text) = text(value).filter(|text| !text.is_empty()) {
                into.insert(prefix.to_owned(), text);
            }
        }
    }
}

/// Formats a scalar. Equal numbers have equal texts.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(if *value { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(value) if value != 0.0 && value.abs() < 1e-3 => format!("{value:e}"),
            Some(value) => value.to_string(),
            None => number.to_string(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differ(one: (Value, Value), other: (Value, Value)) -> Vec<(String, Vec<Option<String>>)> {
        let [one, other] = [one, other].map(|(config, data)| (flattened(config), data));
        let found = between(&[one, other]).into_iter();
        found.map(|field| (field.label, field.values)).collect()
    }

    #[test]
    fn default_values_and_names_are_not_differences() {
        let short = json!({"model": {"name": "m"}, "data": {"train_data": "a-1"}, "run_name": "x"});
        let long = json!({
            "model": {"name": "m", "freeze": false, "output_dim": null, "options": {"seed": 0}},
            "data": {"train_data": "a-2", "val_split": 0.0, "num_workers": 4},
            "hyper_parameters": {"epochs": 5, "optimizer": "Adam", "loss_options": {}},
            "callbacks": [], "run_name": "y",
        });
        let same = differ(
            (short.clone(), json!({"a-1": "0f"})),
            (long.clone(), json!({"a-2": "0f"})),
        );
        assert_eq!(same, []);
        let found = differ((short, json!({"a-1": "0f"})), (long, json!({"a-2": "1e"})));
        let names = vec![Some("a-1".to_owned()), Some("a-2".to_owned())];
        assert_eq!(found, [("train_data".to_owned(), names)]);
        // The same name with replaced content.
        let config = json!({"model": {"name": "m"}, "data": {"train_data": "a"}});
        let [one, other] = ["0123456789", "abcdef0123"].map(|sum| json!({"a": sum}));
        let found = differ((config.clone(), one), (config, other));
        let names = vec![
            Some("a (01234567)".to_owned()),
            Some("a (abcdef01)".to_owned()),
        ];
        assert_eq!(found, [("train_data".to_owned(), names)]);
    }

    #[test]
    fn options_with_their_defaults_are_no_differences() {
        let config = |hyper: Value| {
            let model = json!({"name": "m"});
            json!({"model": model, "data": {"train_data": "a"}, "hyper_parameters": hyper})
        };
        let short = json!({"loss": "TripletMarginLoss", "optimizer": "Adam"});
        let long = |margin: f64| {
            json!({
                "loss": "TripletMarginLoss", "loss_options": {"margin": margin, "swap": false},
                "optimizer": "Adam", "optimizer_options": {"betas": [0.9, 0.999], "eps": 1e-8},
            })
        };
        let with = |one: Value, other: Value| {
            differ((config(one), Value::Null), (config(other), Value::Null))
        };
        assert_eq!(with(short.clone(), long(0.05)), []);
        let values = vec![Some("0.05".to_owned()), Some("0.2".to_owned())];
        let margin = ("loss_options.margin".to_owned(), values);
        assert_eq!(with(short, long(0.2)), [margin]);
    }

    #[test]
    fn classes_in_the_options_of_a_loss_have_defaults() {
        let differ_in = |one: [Value; 2], other: [Value; 2]| {
            let config = |[distance, reducer]: [Value; 2]| {
                let options = json!({"distance": distance, "reducer": reducer});
                let hyper = json!({"loss": "ContrastiveLoss", "loss_options": options});
                json!({
                    "model": {"name": "m"}, "data": {"train_data": "a"},
                    "hyper_parameters": hyper,
                })
            };
            differ((config(one), Value::Null), (config(other), Value::Null))
        };
        let short = || [json!("LpDistance"), json!({"name": "PerAnchorReducer"})];
        let long = |p: f64| {
            [
                json!({"name": "LpDistance", "options": {"p": p, "normalize_embeddings": true}}),
                json!({"name": "PerAnchorReducer", "options": {"aggregation": "mean"}}),
            ]
        };
        assert_eq!(differ_in(short(), long(2.0)), []);
        let values = vec![Some("2".to_owned()), Some("3".to_owned())];
        let found = differ_in(short(), long(3.0));
        assert_eq!(found, [("loss_options.distance.p".to_owned(), values)]);
        let found = differ_in(short(), [json!("SNRDistance"), short()[1].clone()]);
        assert_eq!(found[0].0, "loss_options.distance");
        let none = || [Value::Null, short()[1].clone()];
        assert_eq!(differ_in(none(), long(2.0)), []);
        let found = differ_in(none(), [json!("SNRDistance"), short()[1].clone()]);
        let values = vec![
            Some("LpDistance".to_owned()),
            Some("SNRDistance".to_owned()),
        ];
        assert_eq!(found, [("loss_options.distance".to_owned(), values)]);
    }

    #[test]
    fn steps_of_the_scheduler_are_compared_between_generations() {
        let config = |hyper: Value| {
            let model = json!({"name": "m"});
            json!({"model": model, "data": {"train_data": "a"}, "hyper_parameters": hyper})
        };
        let differ_in = |one: Value, other: Value| {
            differ((config(one), Value::Null), (config(other), Value::Null))
        };
        let by = |step: &str| json!({"scheduler_options": {"scheduler_step": step}});
        let old = |step: &str| json!({"scheduler_step": step});
        for (one, other) in [
            (json!({}), old("batch")),
            (by("epoch"), old("epoch")),
            (json!({}), by("batch")),
            (json!({}), json!({"scheduler": "constant"})),
            (
                json!({"scheduler": "cosine"}),
                json!({"scheduler": "cosine", "scheduler_options": {"num_cycles": 0.5}}),
            ),
            (
                json!({}),
                json!({"scheduler_options": {"num_training_steps": null}}),
            ),
        ] {
            assert_eq!(differ_in(one, other), []);
        }
        let found = differ_in(json!({}), old("epoch"));
        assert_eq!(found[0].0, "scheduler_options.scheduler_step");
    }

    #[test]
    fn lists_are_compared_item_by_item() {
        let config = |limit: u64, rate: &str| {
            let rate: Value = serde_json::from_str(rate).unwrap();
            json!({
                "model": {"name": "m"}, "data": {"train_data": "a"},
                "hyper_parameters": {"learning_rate": rate, "loss_options": {"dims": [2, limit]}},
                "callbacks": [
                    {"name": "BestModelCheckpoint", "options": {}},
                    {"name": "EvaluationCallback", "options": {"query_data": "q", "limit": limit}},
                ],
            })
        };
        let none = Value::Null;
        let found = differ(
            (config(8, "0.00001"), none.clone()),
            (config(20, "1e-5"), none),
        );
        let labels: Vec<&str> = found.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["EvaluationCallback.limit", "loss_options.dims"]);
        assert_eq!(found[1].1[1].as_deref(), Some("2, 20"));
    }
}
