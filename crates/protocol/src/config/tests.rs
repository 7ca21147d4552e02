//! Tests of run configurations: serialization, and limits.

use super::*;
use crate::MAX_EPOCHS;

fn valid() -> RunConfig {
    RunConfig {
        run_name: "r".to_owned(),
        experiment_name: "e".to_owned(),
        model: Model {
            name: Some("m".to_owned()),
            ..Model::default()
        },
        data: Data {
            train_data: "t".to_owned(),
            ..Data::default()
        },
        ..RunConfig::default()
    }
}

#[test]
fn unknown_fields_survive_a_round_trip_in_both_formats() {
    for generation in [Generation::V0_2, Generation::V0_8] {
        let mut json = serde_json::to_value(RunConfig {
            generation,
            ..valid()
        })
        .unwrap();
        json["new"] = json!({"a": 1});
        json["model"]["new"] = json!([1]);
        json["data"]["new"] = json!("x");
        json["hyper_parameters"]["new"] = json!(null);
        json["hyper_parameters"]["loss"] = json!("NextYearsLoss");
        json["callbacks"] = json!([
            {"name": "NextYearsCallback", "options": {"a": {"b": 1}}},
            {"name": "BestModelCheckpoint", "options": {"new": 2}},
        ]);
        let config: RunConfig = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(config.generation, generation);
        let again = serde_json::to_value(&config).unwrap();
        json["callbacks"][1] = again["callbacks"][1].clone();
        assert_eq!(again, json);
        assert_eq!(again["callbacks"][1]["options"]["new"], 2);
    }
}

#[test]
fn newer_settings_are_sent_only_if_set() {
    let mut config = valid();
    let plain = serde_json::to_string(&config).unwrap();
    for name in ["more_train_data", "multi_dataset", "prompts", "_weight"] {
        assert!(!plain.contains(name), "{plain}");
    }
    config.data.more_train_data = vec![MoreData::new("b").weight(0.5)];
    config.data.train_data_weight = Some(2.0);
    config.data.multi_dataset_batch_sampler = Some("proportional".into());
    config.hyper_parameters.prompts = Some(crate::Prompts::new().anchor("query: "));
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(
        json["data"]["more_train_data"],
        json!([{"name": "b", "weight": 0.5}])
    );
    assert_eq!(
        json["hyper_parameters"]["prompts"],
        json!({"anchor": "query: "})
    );
    let again: RunConfig = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(again.data, config.data);
    assert_eq!(serde_json::to_value(&again).unwrap(), json);
}

#[test]
fn accumulation_steps_are_sent_only_if_set() {
    for generation in [Generation::V0_2, Generation::V0_8] {
        let mut config = RunConfig {
            generation,
            ..valid()
        };
        let hyper = |config: &RunConfig| {
            let json = serde_json::to_value(config).unwrap();
            json["hyper_parameters"].as_object().unwrap().clone()
        };
        assert!(!hyper(&config).contains_key("gradient_accumulation_steps"));
        config.hyper_parameters.gradient_accumulation_steps = Some(4);
        assert_eq!(hyper(&config)["gradient_accumulation_steps"], 4);
        let json = serde_json::to_value(&config).unwrap();
        let read: RunConfig = serde_json::from_value(json).unwrap();
        assert_eq!(read.hyper_parameters.gradient_accumulation_steps, Some(4));
    }
}

#[test]
fn a_configuration_inside_a_json_string_is_read() {
    let text = serde_json::to_string(&valid()).unwrap();
    let config: RunConfig = serde_json::from_value(Value::String(text)).unwrap();
    assert_eq!(config.run_name, "r");
}

#[test]
fn values_over_a_limit_are_refused_by_field() {
    type Change = fn(&mut RunConfig);
    let cases: [(&str, Change); 23] = [
        ("run_name", |c| c.run_name.clear()),
        ("run_name", |c| c.run_name = "a/b".to_owned()),
        ("run_name", |c| c.run_name = "x".repeat(256)),
        ("experiment_name", |c| c.experiment_name = "..".to_owned()),
        ("model", |c| c.model.name = None),
        ("model_artifact", |c| {
            c.model.artifact = Some("a".to_owned())
        }),
        ("train_data", |c| c.data.train_data.clear()),
        ("val_split", |c| c.data.val_split = 1.0),
        ("train_data_weight", |c| {
            c.data.more_train_data = vec![MoreData::new("b")];
            c.data.train_data_weight = Some(0.0);
        }),
        ("train_data_weight", |c| {
            c.data.train_data_weight = Some(2.0)
        }),
        ("more_train_data", |c| {
            c.data.more_train_data = vec![MoreData::new("b").weight(1000.5)];
        }),
        ("more_train_data", |c| {
            c.data.more_train_data = vec![MoreData::new("b"), MoreData::new("t")];
        }),
        ("multi_dataset_batch_sampler", |c| {
            c.data.multi_dataset_batch_sampler = Some("proportional".into());
        }),
        ("multi_dataset_batch_sampler", |c| {
            c.data.more_train_data = vec![MoreData::new("b")];
            c.data.multi_dataset_batch_sampler = Some("best".into());
        }),
        ("multi_dataset_batch_sampler", |c| {
            c.data.more_train_data = vec![MoreData::new("b").weight(2.0)];
            c.data.multi_dataset_batch_sampler = Some("round_robin".into());
        }),
        ("epochs", |c| c.hyper_parameters.epochs = 0),
        ("epochs", |c| c.hyper_parameters.epochs = 50),
        ("batch_size", |c| c.hyper_parameters.batch_size = Some(0)),
        ("gradient_accumulation_steps", |c| {
            c.hyper_parameters.gradient_accumulation_steps = Some(0)
        }),
        ("gradient_accumulation_steps", |c| {
            c.hyper_parameters.gradient_accumulation_steps = Some(65_537)
        }),
        ("learning_rate", |c| {
            c.hyper_parameters.learning_rate = Some(f64::NAN)
        }),
        ("sampler", |c| c.data.sampler = "best".into()),
        ("scheduler_step", |c| {
            c.hyper_parameters.scheduler_step = Some("hour".into())
        }),
    ];
    assert_eq!(valid().check(), Ok(()));
    for (field, change) in cases {
        let mut config = valid();
        change(&mut config);
        let error = config.check().unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().starts_with(&format!("`{field}` is ")));
    }
    let mut last = valid();
    last.hyper_parameters.epochs = MAX_EPOCHS;
    assert_eq!(last.check(), Ok(()));
}
