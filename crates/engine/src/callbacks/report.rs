//! Reports and records the results of evaluations.

use finetuner_protocol::{Event, Level, Stage};

use super::context::Context;
use crate::{evaluation::Metrics, train::Step};

/// Reports and records the results of an evaluation.
pub(super) fn report(context: &mut Context<'_>, stage: Stage, metrics: &Metrics) {
    context.observer.event(Event::Evaluation {
        stage,
        metrics: metrics.clone(),
    });
    record(context, metrics);
    match stage {
        Stage::Before => context.before.extend(metrics.clone()),
        Stage::After => context.after.extend(metrics.clone()),
    }
}

/// Records and logs the results of an evaluation between two steps.
pub(super) fn report_interval(context: &mut Context<'_>, metrics: Metrics) {
    record(context, &metrics);
    let steps = context.trainer.position().total_steps;
    for (name, value) in metrics {
        let message = format!("Metric: '{name}' after {steps} steps: {value:.5}");
        context.log(Level::Info, message);
    }
}

/// Records the results of an evaluation for callbacks that monitor them.
///
/// It is called after each epoch.
pub(super) fn report_epoch(context: &mut Context<'_>, metrics: Metrics) {
    record(context, &metrics);
    context.metrics.extend(metrics);
}

/// Returns whether an evaluation with `steps_per_interval` is due after a step.
pub(super) fn is_interval(steps_per_interval: Option<u64>, step: &Step) -> bool {
    let steps = (step.epoch - 1) * step.steps + step.step;
    steps_per_interval.is_some_and(|interval| (steps as u64).is_multiple_of(interval))
}

/// Adds metrics to the history of the run.
fn record(context: &mut Context<'_>, metrics: &Metrics) {
    let steps = context.trainer.position().total_steps;
    for (name, value) in metrics {
        context.history.add(&format!("eval/{name}"), steps, *value);
    }
}
