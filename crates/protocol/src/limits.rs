//! Limits of settings that can be checked without any data.

use serde_json::Value;

use crate::{
    Callback, Data, Miner, MultiDatasetBatchSampler, Optimizer, RunConfig, Sampler, Scheduler,
    SchedulerStep, backbone::find_backbone, text::start_of,
};

pub use crate::invalid_field::{InvalidField, check_name};

/// Maximum number of epochs; the wire format requires fewer than 50.
pub const MAX_EPOCHS: u64 = 49;

/// Minimum learning rate. The steps of a smaller one are lost in the rounding of any
/// weight above 1e-5.
pub const MIN_LEARNING_RATE: f64 = 1e-12;

/// Maximum number of batches per optimizer step.
const MAX_ACCUMULATION_STEPS: u64 = 1 << 16;

/// Maximum length in bytes of the name of a model, a loss and the like.
const MAX_NAME: usize = 1000;

/// Checks the number of threads that load data.
///
/// # Errors
/// If it is 0.
pub fn check_workers(num_workers: u64) -> Result<(), InvalidField> {
    if num_workers == 0 {
        return Err(InvalidField::new("num_workers", 0, "at least 1 is needed"));
    }
    Ok(())
}

/// Refuses null in the value of an option.
fn check_value(field: &str, value: &Value) -> Result<(), InvalidField> {
    match value {
        Value::Null => Err(InvalidField::new(
            field,
            "null",
            "NaN and infinite numbers become null, for which a backend would use the default: give \
             a finite number, or leave the option out",
        )),
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| check_value(field, value)),
        Value::Object(members) => members
            .iter()
            .try_for_each(|(name, value)| check_value(&format!("{field}.{name}"), value)),
        _ => Ok(()),
    }
}

/// Maximum number of data sets of a run.
const MAX_DATA_SETS: usize = 32;
/// Maximum weight of a data set.
const MAX_WEIGHT: f64 = 1000.0;

impl Data {
    /// Checks the settings for several data sets.
    fn check_mix(&self) -> Result<(), InvalidField> {
        let more = &self.more_train_data;
        if more.len() >= MAX_DATA_SETS {
            let allowed = "a run can use at most 32 data sets: join some of them";
            return Err(InvalidField::new("more_train_data", more.len(), allowed));
        }
        let weight_of_first = self.train_data_weight.map(|w| ("train_data_weight", w));
        let weights = more.iter().map(|data| ("more_train_data", data.weight));
        let weights: Vec<(&'static str, f64)> =
            weight_of_first.into_iter().chain(weights).collect();
        for (field, weight) in &weights {
            if !(*weight > 0.0 && *weight <= MAX_WEIGHT) {
                let allowed = "a weight must be above 0 and at most 1000";
                return Err(InvalidField::new(field, weight, allowed));
            }
        }
        if let (Some(weight), true) = (self.train_data_weight, more.is_empty()) {
            let allowed = "it requires `more_train_data`";
            return Err(InvalidField::new("train_data_weight", weight, allowed));
        }
        if let (Some(sampler), true) = (&self.multi_dataset_batch_sampler, more.is_empty()) {
            let allowed = "it requires `more_train_data`";
            let given = start_of(sampler.as_str());
            let field = "multi_dataset_batch_sampler";
            return Err(InvalidField::new(field, given, allowed));
        }
        for (place, data) in more.iter().enumerate() {
            let before = more[..place].iter().map(|data| &data.name);
            let twice = std::iter::once(&self.train_data)
                .chain(before)
                .any(|name| *name == data.name);
            if twice || data.name.is_empty() {
                let allowed =
                    "each data set must have its own name; use `weight` to train on it more often";
                return Err(InvalidField::new(
                    "more_train_data",
                    start_of(&data.name),
                    allowed,
                ));
            }
        }
        match &self.multi_dataset_batch_sampler {
            None | Some(MultiDatasetBatchSampler::Proportional) => Ok(()),
            Some(MultiDatasetBatchSampler::RoundRobin) => {
                match weights.iter().find(|(_, weight)| *weight != 1.0) {
                    None => Ok(()),
                    Some(_) => Err(InvalidField::new(
                        "multi_dataset_batch_sampler",
                        "round_robin",
                        "it takes the same number of batches of each data set: leave the weights \
                         out, or choose `proportional`",
                    )),
                }
            }
            Some(other) => Err(InvalidField::new(
                "multi_dataset_batch_sampler",
                start_of(other.as_str()),
                "it must be `proportional` or `round_robin`",
            )),
        }
    }
}

impl RunConfig {
    /// Finds the first setting that no backend can accept.
    ///
    /// ```
    /// let mut config = finetuner_protocol::RunConfig::default();
    /// config.hyper_parameters.epochs = 50;
    /// assert!(config.check().is_err());
    /// ```
    ///
    /// # Errors
    /// [`InvalidField`] names the argument, its value and the limit.
    pub fn check(&self) -> Result<(), InvalidField> {
        let hyper = &self.hyper_parameters;
        check_name("run_name", &self.run_name)?;
        check_name("experiment_name", &self.experiment_name)?;
        match (&self.model.name, &self.model.artifact) {
            (None, None) => {
                return Err(InvalidField::new(
                    "model",
                    "empty",
                    "name a backbone, or set `model_artifact`",
                ));
            }
            (Some(name), None) if name.is_empty() => {
                return Err(InvalidField::new("model", "empty", "name a backbone"));
            }
            (Some(_), Some(_)) => {
                return Err(InvalidField::new(
                    "model_artifact",
                    "given in addition to a model's name",
                    "a run starts from one of them: leave the other out",
                ));
            }
            _ => {}
        }
        if self.data.train_data.is_empty() {
            return Err(InvalidField::new(
                "train_data",
                "empty",
                "name the data to train on",
            ));
        }
        if !(0.0..1.0).contains(&self.data.val_split) {
            return Err(InvalidField::new(
                "val_split",
                self.data.val_split,
                "it must be at least 0 and less than 1",
            ));
        }
        self.data.check_mix()?;
        self.check_lengths()?;
        check_workers(self.data.num_workers)?;
        if self.data.num_items_per_class < 2 {
            return Err(InvalidField::new(
                "num_items_per_class",
                self.data.num_items_per_class,
                "at least 2 are needed",
            ));
        }
        if matches!(self.data.sampler, Sampler::Other(_)) {
            return Err(InvalidField::new(
                "sampler",
                format!("`{}`", self.data.sampler),
                "it must be one of auto, class, random",
            ));
        }
        if self.model.output_dim == Some(0) {
            return Err(InvalidField::new("output_dim", 0, "at least 1 is needed"));
        }
        if let Some(mining) = &hyper.mine_hard_negatives {
            mining.check()?;
        }
        if hyper.epochs == 0 || hyper.epochs > MAX_EPOCHS {
            return Err(InvalidField::new(
                "epochs",
                hyper.epochs,
                "1 to 49 are allowed",
            ));
        }
        if hyper.batch_size == Some(0) {
            return Err(InvalidField::new(
                "batch_size",
                0,
                "at least 1 is needed; leave it out to let the backend choose",
            ));
        }
        if let Some(steps) = hyper.gradient_accumulation_steps
            && !(1..=MAX_ACCUMULATION_STEPS).contains(&steps)
        {
            return Err(InvalidField::new(
                "gradient_accumulation_steps",
                steps,
                "1 to 65536 are allowed; 1 is the default",
            ));
        }
        if let Some(rate) = hyper.learning_rate
            && !(MIN_LEARNING_RATE..1.0).contains(&rate)
        {
            return Err(InvalidField::new(
                "learning_rate",
                rate,
                "it must be at least 1e-12, because a smaller one changes nothing, and less than 1",
            ));
        }
        let steps = [
            hyper.scheduler_step.as_ref(),
            hyper.scheduler_options.as_ref().map(|o| &o.scheduler_step),
        ];
        for step in steps.into_iter().flatten() {
            if matches!(step, SchedulerStep::Other(_)) {
                return Err(InvalidField::new(
                    "scheduler_step",
                    format!("`{step}`"),
                    "it must be `batch` or `epoch`",
                ));
            }
        }
        if let Some(options) = &hyper.scheduler_options {
            let steps = &options.num_training_steps;
            if steps.as_u64().is_none() && steps != "auto" {
                return Err(InvalidField::new(
                    "num_training_steps",
                    steps,
                    "it must be a whole number or `auto`",
                ));
            }
        }
        if self.data.eval_data.as_deref() == Some("") {
            return Err(InvalidField::new(
                "eval_data",
                "empty",
                "name the data to validate with, or leave it out",
            ));
        }
        self.check_onnx()?;
        self.callbacks.iter().try_for_each(Callback::check)
    }

    /// Finds the first option whose value became null.
    ///
    /// JSON has no NaN and no infinite numbers: [`crate::Options`] turns them into null,
    /// which a backend treats like an option that was left out. A client calls this
    /// before it sends the configuration.
    ///
    /// ```
    /// use finetuner_protocol::{Options, RunConfig};
    ///
    /// let mut config = RunConfig::default();
    /// config.hyper_parameters.loss_options = Some(Options::new().margin(f64::NAN));
    /// let found = config.check_numbers().unwrap_err();
    /// assert_eq!(found.field, "loss_options.margin");
    /// ```
    ///
    /// # Errors
    /// [`InvalidField`] names the option.
    pub fn check_numbers(&self) -> Result<(), InvalidField> {
        let hyper = &self.hyper_parameters;
        let all = [
            ("model_options", &self.model.options),
            ("loss_options", &hyper.loss_options),
            ("loss_optimizer_options", &hyper.loss_optimizer_options),
            ("miner_options", &hyper.miner_options),
            ("optimizer_options", &hyper.optimizer_options),
        ];
        for (field, options) in all {
            let options = options.iter().flat_map(|options| options.iter());
            for (name, value) in options {
                check_value(&format!("{field}.{name}"), value)?;
            }
        }
        if let Some(options) = &hyper.scheduler_options {
            for (name, value) in &options.extra {
                check_value(&format!("scheduler_options.{name}"), value)?;
            }
        }
        Ok(())
    }

    /// Refuses names that are too long, because errors would repeat them.
    fn check_lengths(&self) -> Result<(), InvalidField> {
        let hyper = &self.hyper_parameters;
        let names = [
            ("model", self.model.name.as_deref()),
            ("model_artifact", self.model.artifact.as_deref()),
            ("train_data", Some(self.data.train_data.as_str())),
            ("eval_data", self.data.eval_data.as_deref()),
            ("loss", Some(hyper.loss.as_str())),
            ("miner", hyper.miner.as_ref().map(Miner::as_str)),
            ("optimizer", Some(hyper.optimizer.as_str())),
            (
                "loss_optimizer",
                hyper.loss_optimizer.as_ref().map(Optimizer::as_str),
            ),
            ("scheduler", hyper.scheduler.as_ref().map(Scheduler::as_str)),
        ];
        for (field, name) in names {
            let name = name.unwrap_or_default();
            if name.len() > MAX_NAME {
                let limit = format!("at most {MAX_NAME} bytes are allowed");
                return Err(InvalidField::new(field, format!("`{name}`"), &limit));
            }
        }
        let options = [
            ("model_options", &self.model.options),
            ("loss_options", &hyper.loss_options),
            ("loss_optimizer_options", &hyper.loss_optimizer_options),
            ("miner_options", &hyper.miner_options),
            ("optimizer_options", &hyper.optimizer_options),
        ];
        for (field, options) in options {
            let mut names = options.iter().flat_map(|options| options.keys());
            if let Some(name) = names.find(|name| name.len() > MAX_NAME) {
                let limit = format!("the name of an option may have at most {MAX_NAME} bytes");
                return Err(InvalidField::new(field, format!("`{name}`"), &limit));
            }
        }
        Ok(())
    }

    fn check_onnx(&self) -> Result<(), InvalidField> {
        let name = self.model.name.as_deref().unwrap_or_default();
        let refused = self.model.to_onnx && find_backbone(name).is_some_and(|b| !b.onnx);
        if refused {
            return Err(InvalidField::new(
                "to_onnx",
                true,
                &format!("`{name}` can't be exported to ONNX"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn a_learning_rate_that_does_nothing_is_refused() {
        let check = |rate: f64| {
            let mut config = RunConfig {
                run_name: "run".to_owned(),
                experiment_name: "experiment".to_owned(),
                ..RunConfig::default()
            };
            config.model.name = Some("clip-small".to_owned());
            config.data.train_data = "data".to_owned();
            config.hyper_parameters.epochs = 1;
            config.hyper_parameters.learning_rate = Some(rate);
            config.check()
        };
        for rate in [0.0, -1e-5, 5e-324, 1e-300, 9.9e-13, 1.0, f64::NAN] {
            let error = check(rate).unwrap_err();
            assert_eq!(error.field, "learning_rate", "{rate}");
            assert!(error.limit.contains("at least 1e-12"), "{error}");
        }
        for rate in [MIN_LEARNING_RATE, 1e-5, 0.99] {
            assert_ne!(
                check(rate).map_err(|e| e.field),
                Err("learning_rate".into())
            );
        }
    }

    #[test]
    fn errors_show_the_start_of_a_long_value() {
        let long = "x".repeat(100_000);
        let mut configs = [(); 4].map(|()| RunConfig {
            run_name: "r".to_owned(),
            experiment_name: "e".to_owned(),
            ..RunConfig::default()
        });
        for config in &mut configs {
            config.model.name = Some("bert-base-cased".to_owned());
            config.data.train_data = "train".to_owned();
        }
        assert_eq!(configs[0].check(), Ok(()));
        configs[0].model.name = Some(long.clone());
        configs[1].hyper_parameters.loss = long.as_str().into();
        configs[2].hyper_parameters.loss_options = Some([(long.clone(), 1)].into());
        configs[3].hyper_parameters.scheduler_step = Some(long.into());
        for config in configs {
            let found = config.check().unwrap_err().to_string();
            assert!(found.len() < 300 && found.contains("xxxx…"), "{found}");
        }
    }

    #[test]
    fn non_finite_numbers_are_found_anywhere_in_the_options() {
        let field = |set: fn(&mut RunConfig)| {
            let mut config = RunConfig::default();
            set(&mut config);
            config.check_numbers().map_err(|e| e.field)
        };
        assert_eq!(field(|_| {}), Ok(()));
        for (set, wanted) in [
            (
                (|c| {
                    c.hyper_parameters.optimizer_options =
                        Some(Options::new().weight_decay(f64::INFINITY))
                }) as fn(&mut RunConfig),
                "optimizer_options.weight_decay",
            ),
            (
                |c| {
                    c.hyper_parameters.optimizer_options = Some(Options::new().betas(0.9, f64::NAN))
                },
                "optimizer_options.betas",
            ),
            (
                |c| c.hyper_parameters.miner_options = Some(Options::from([("margin", f64::NAN)])),
                "miner_options.margin",
            ),
            (
                |c| {
                    let inner = serde_json::json!({"p": f64::NAN});
                    c.model.options = Some(Options::new().with("pooler_options", inner));
                },
                "model_options.pooler_options.p",
            ),
        ] {
            assert_eq!(field(set), Err(wanted.to_owned()));
        }
    }
}
