//! Trains the epochs of a run.

use std::{collections::BTreeMap, time::Instant};

use finetuner_protocol::{Event, Level};

use super::{
    log::{PROGRESS_INTERVAL, log},
    prepared::Data,
    progress::Progress,
};
use crate::{
    Error, Result,
    callbacks::{Context, TrainingCallback},
    observer::Observer,
    plan::Plan,
    record::History,
    train::Step,
};

/// Trains all epochs that are left, and calls the callbacks.
pub(super) fn train_epochs(
    plan: &Plan,
    data: &Data,
    callbacks: &mut [Box<dyn TrainingCallback>],
    context: &mut Context<'_>,
    run: &Progress,
) -> Result<()> {
    context.log(Level::Info, "Finetuning ...");
    while context.trainer.position().epoch < plan.epochs && !context.stop {
        train_epoch(plan, data, callbacks, context, run)?;
    }
    for callback in &mut *callbacks {
        callback.on_fit_end(context)?;
    }
    for callback in &mut *callbacks {
        callback.after_fit(context)?;
    }
    context.log(Level::Info, "Done ✨");
    Ok(())
}

/// Reasons to leave the epoch between two steps.
#[derive(Clone, Copy, Default)]
struct StepBreak {
    /// The observer wants a checkpoint or the end of the run.
    pause: bool,
    /// A callback is due.
    interval: bool,
}

fn train_epoch(
    plan: &Plan,
    data: &Data,
    callbacks: &mut [Box<dyn TrainingCallback>],
    context: &mut Context<'_>,
    run: &Progress,
) -> Result<()> {
    let epoch = context.trainer.position().epoch + 1;
    let started = Instant::now();
    let steps = context.trainer.steps_per_epoch(&data.train);
    let progress = |step: usize| {
        let (epochs, seconds) = (plan.epochs, started.elapsed().as_secs_f64());
        format!("Training [{epoch}/{epochs}] {step}/{steps} {seconds:.1} s")
    };
    let mut last_line = started;
    let train_loss = loop {
        let mut step_break = StepBreak::default();
        let (observer, history) = (&mut *context.observer, &mut context.history);
        let watching = &*callbacks;
        let trained = context.trainer.epoch(&data.train, |step| {
            report_step(&step, plan.epochs, observer, history);
            if last_line.elapsed() >= PROGRESS_INTERVAL && step.step < steps {
                last_line = Instant::now();
                let done = progress(step.step);
                let line = format!("{done} • loss: {:.3}", step.mean_loss);
                log(observer, Level::Info, line);
            }
            step_break = StepBreak {
                pause: observer.interrupted().is_some() || observer.wants_checkpoint(),
                interval: watching
                    .iter()
                    .any(|callback| callback.wants_interval(&step)),
            };
            // The trainer is borrowed during a step. Callbacks and checkpoints need it.
            if step_break.pause || step_break.interval {
                return Err(Error::Interrupted);
            }
            Ok(())
        });
        match trained {
            Ok(loss) => break loss,
            Err(Error::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if step_break.interval {
            for callback in &mut *callbacks {
                callback.on_interval(context)?;
            }
        }
        if step_break.pause {
            run.pause(callbacks, context)?;
        }
    };
    let val_loss = if data.validation.is_empty() {
        None
    } else {
        Some(context.trainer.validation_loss(&data.validation)?)
    };
    context.observer.event(Event::Epoch {
        epoch: epoch as u64,
        epochs: plan.epochs as u64,
        train_loss,
        val_loss,
    });
    let validated = val_loss.map_or(String::new(), |loss| format!(" • val_loss: {loss:.3}"));
    let line = format!("{} • loss: {train_loss:.3}{validated}", progress(steps));
    context.log(Level::Info, line);
    if epoch == 1 && train_loss == 0.0 {
        let warning = "The loss of the whole first epoch is 0: the model learned nothing. A \
                       larger `margin`, a higher `batch_size` or no `miner` may help";
        context.log(Level::Warning, warning.to_owned());
    }
    context.metrics = BTreeMap::from([("train_loss".to_owned(), train_loss)]);
    if let Some(loss) = val_loss {
        context.metrics.insert("val_loss".to_owned(), loss);
    }
    let done = context.trainer.position().total_steps;
    for (name, value) in &context.metrics {
        context.history.add(&format!("epoch/{name}"), done, *value);
    }
    for callback in &mut *callbacks {
        callback.on_epoch_end(context)?;
    }
    if plan.keep_checkpoints > 0
        || context.observer.interrupted().is_some()
        || context.observer.wants_checkpoint()
    {
        run.pause(callbacks, context)?;
    }
    Ok(())
}

/// Reports a step to the observer and records it.
fn report_step(step: &Step, epochs: usize, observer: &mut dyn Observer, history: &mut History) {
    let done = (step.epoch - 1) * step.steps + step.step;
    history.add("step/loss", done, f64::from(step.loss));
    history.add("step/learning_rate", done, step.learning_rate);
    observer.event(Event::Step {
        epoch: step.epoch as u64,
        epochs: epochs as u64,
        step: step.step as u64,
        steps: step.steps as u64,
        loss: f64::from(step.loss),
        mean_loss: step.mean_loss,
        learning_rate: step.learning_rate,
    });
}
