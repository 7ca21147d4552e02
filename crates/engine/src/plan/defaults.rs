//! Defaults of the options that a configuration leaves out.

use std::collections::{BTreeMap, HashMap};

use finetuner_protocol::{RunConfig, Scheduler};
use serde_json::Value;

use crate::{
    loss::{Criterion, LossSpec},
    optim::{OptimizerSpec, ScheduleSpec},
    options::defaults_in,
};

/// Returns the defaults of absent options of the loss, the miner, the optimizers and the
/// scheduler, by their names within the hyper-parameters: `loss_options.margin`, and
/// `loss_options.distance.p` for an option of a class. They depend on the configured
/// loss, miner, optimizers and scheduler.
///
/// A configuration that can't be used has fewer of them.
#[must_use]
pub fn default_options(config: &RunConfig) -> BTreeMap<String, Value> {
    let hyper = &config.hyper_parameters;
    let loss = LossSpec {
        loss: hyper.loss.clone(),
        options: hyper.loss_options.clone(),
        miner: hyper.miner.clone(),
        miner_options: hyper.miner_options.clone(),
    };
    let optimizer = OptimizerSpec {
        name: hyper.optimizer.clone(),
        options: hyper.optimizer_options.clone(),
        fields: ["optimizer", "optimizer_options"],
    };
    let own = hyper.loss_optimizer.as_ref().unwrap_or(&hyper.optimizer);
    let loss_optimizer = OptimizerSpec {
        name: own.clone(),
        options: hyper.loss_optimizer_options.clone(),
        fields: ["loss_optimizer", "loss_optimizer_options"],
    };
    let schedule = ScheduleSpec {
        scheduler: hyper.scheduler.clone(),
        options: hyper.scheduler_options.clone(),
        step: hyper.scheduler_step.clone(),
    };
    let mut defaults = defaults_in(|| {
        // Only the defaults are wanted. Errors were reported when the run was submitted.
        let _ = Criterion::new(&loss, 2, 0, 0);
        let _ = optimizer.build(HashMap::new());
        let _ = loss_optimizer.build(HashMap::new());
        // The defaults depend neither on the length nor on the learning rate.
        let _ = schedule.build(usize::MAX / 64, 1, f64::INFINITY);
    });
    if hyper.scheduler.is_none() {
        defaults.insert("scheduler".to_owned(), Scheduler::Constant.as_str().into());
    }
    // It is the learning rate of the model.
    defaults.remove("loss_optimizer_options.lr");
    defaults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_the_named_loss_and_optimizer() {
        let config = json!({
            "model": {"name": "m"},
            "data": {"train_data": "a"},
            "hyper_parameters": {
                "loss": "TripletMarginLoss",
                "miner": "TripletMarginMiner",
                "optimizer": "SGD",
                "optimizer_options": {"momentum": 0.5},
                "scheduler": "polynomial",
                "scheduler_options": {"num_warmup_steps": 9, "power": 2.0},
            },
            "run_name": "r",
            "experiment_name": "e",
        });
        let config: RunConfig = serde_json::from_value(config).unwrap();
        let defaults = default_options(&config);
        for (name, value) in [
            ("loss_options.margin", json!(0.05)),
            ("loss_options.distance", json!("LpDistance")),
            ("loss_options.distance.p", json!(2.0)),
            ("loss_options.reducer", json!("AvgNonZeroReducer")),
            ("scheduler_options.lr_end", json!(1e-7)),
            ("miner_options.type_of_triplets", json!("all")),
            ("optimizer_options.nesterov", json!(false)),
        ] {
            assert_eq!(defaults.get(name), Some(&value), "{name}: {defaults:?}");
        }
        for given in [
            "optimizer_options.momentum",
            "scheduler",
            "scheduler_options.power",
        ] {
            assert!(!defaults.contains_key(given), "{given} is given");
        }
        assert!(
            !defaults.contains_key("optimizer_options.betas"),
            "that is Adam's"
        );
    }
}
