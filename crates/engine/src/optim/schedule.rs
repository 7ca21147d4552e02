//! Learning rate schedules. Names and formulas follow
//! `transformers.get_scheduler`.

use finetuner_protocol::{Scheduler, SchedulerOptions, SchedulerStep};
use serde_json::Value;

use crate::{Error, Result, options::OptionReader};

/// A schedule, as a run's configuration names it.
#[derive(Clone, Debug, Default)]
pub struct ScheduleSpec {
    /// The schedule; the rate is constant if `None`.
    pub scheduler: Option<Scheduler>,
    /// Its options.
    pub options: Option<SchedulerOptions>,
    /// `batch` or `epoch`, in the field of clients up to 0.7.1.
    pub step: Option<SchedulerStep>,
}

/// A learning rate schedule: a factor for each step.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
    warmup: f64,
    total: f64,
    /// Whether the rate changes only between epochs.
    by_epoch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine {
        cycles: f64,
    },
    CosineWithRestarts {
        cycles: f64,
    },
    /// The final rate relative to the initial one, and the power.
    Polynomial {
        end: f64,
        power: f64,
    },
}

impl ScheduleSpec {
    /// Limits warm-up steps to the steps of training. Returns a warning if they
    /// were more.
    pub(crate) fn limit_warmup(&mut self, epochs: usize, steps_per_epoch: usize) -> Option<String> {
        let total = self.steps(epochs, steps_per_epoch)?;
        let options = self.options.as_mut()?;
        let asked = options.num_warmup_steps;
        if asked <= total {
            return None;
        }
        options.num_warmup_steps = total;
        Some(format!(
            "`num_warmup_steps` is {asked}, but training has {total} steps: the learning rate \
             rises until the last of them"
        ))
    }

    /// Returns the length of the schedule in steps, or `None` if the settings
    /// are invalid.
    fn steps(&self, epochs: usize, steps_per_epoch: usize) -> Option<u64> {
        let options = self.options.clone().unwrap_or_default();
        let by = match (&self.step, &options.scheduler_step) {
            (Some(old), SchedulerStep::Batch) => old,
            (_, new) => new,
        };
        let by_epoch = *by == SchedulerStep::Epoch;
        match &options.num_training_steps {
            Value::Number(number) => number.as_u64(),
            _ if by_epoch => Some(epochs as u64),
            _ => Some((epochs * steps_per_epoch) as u64),
        }
    }

    /// Builds the schedule of a run over `epochs` of `steps_per_epoch` each,
    /// with the initial `learning_rate`.
    ///
    /// # Errors
    /// [`Error::Config`] names an invalid option.
    pub fn build(
        &self,
        epochs: usize,
        steps_per_epoch: usize,
        learning_rate: f64,
    ) -> Result<Schedule> {
        let options = self.options.clone().unwrap_or_default();
        let bad = |name: &str, value: &dyn std::fmt::Display, wanted: &str| {
            Error::config(
                "scheduler_options",
                format!("`{name}` is {value}: {wanted}"),
            )
        };
        let by = match (&self.step, &options.scheduler_step) {
            (Some(old), SchedulerStep::Batch) => old,
            (_, new) => new,
        };
        let by_epoch = match by {
            SchedulerStep::Epoch => true,
            SchedulerStep::Batch => false,
            other => {
                return Err(bad("scheduler_step", &other, "give `batch` or `epoch`"));
            }
        };
        let auto = if by_epoch {
            epochs
        } else {
            epochs * steps_per_epoch
        } as u64;
        let total = match &options.num_training_steps {
            Value::String(auto_word) if auto_word == "auto" => auto,
            Value::Null => auto,
            value => value.as_u64().filter(|n| *n > 0).ok_or_else(|| {
                bad(
                    "num_training_steps",
                    value,
                    "give a whole number of at least 1, or `auto`",
                )
            })?,
        };
        if options.num_warmup_steps > total {
            let wanted = format!("give at most the {total} steps of training");
            return Err(bad("num_warmup_steps", &options.num_warmup_steps, &wanted));
        }
        let extra = finetuner_protocol::Options::from(options.extra.clone());
        let read = OptionReader::new("scheduler_options", Some(&extra));
        let kind = match &self.scheduler {
            None | Some(Scheduler::Constant) => Kind::Constant,
            Some(Scheduler::ConstantWithWarmup) => Kind::ConstantWithWarmup,
            Some(Scheduler::Linear) => Kind::Linear,
            Some(Scheduler::Cosine) => Kind::Cosine {
                cycles: read.positive("num_cycles", 0.5)?,
            },
            Some(Scheduler::CosineWithRestarts) => Kind::CosineWithRestarts {
                cycles: read.positive("num_cycles", 1.0)?,
            },
            Some(Scheduler::Polynomial) => {
                let end = read.positive("lr_end", 1e-7)?;
                if end >= learning_rate {
                    let wanted = format!("give less than the learning rate, {learning_rate}");
                    return Err(bad("lr_end", &end, &wanted));
                }
                Kind::Polynomial {
                    end: end / learning_rate,
                    power: read.positive("power", 1.0)?,
                }
            }
            Some(other) => {
                let known: Vec<&str> = Scheduler::KNOWN.iter().map(Scheduler::as_str).collect();
                let reason = format!("`{other}` is not known; use one of {}", known.join(", "));
                return Err(Error::config("scheduler", reason));
            }
        };
        read.finish()?;
        Ok(Schedule {
            kind,
            warmup: options.num_warmup_steps as f64,
            total: total as f64,
            by_epoch,
        })
    }
}

impl Schedule {
    /// Returns the factor of the learning rate in a step; epoch and step count
    /// from 0.
    #[must_use]
    pub fn factor(&self, epoch: usize, step: usize) -> f64 {
        let at = if self.by_epoch { epoch } else { step } as f64;
        if self.kind == Kind::Constant {
            return 1.0;
        }
        if at < self.warmup {
            return at / self.warmup.max(1.0);
        }
        let progress = (at - self.warmup) / (self.total - self.warmup).max(1.0);
        let wave = |x: f64| 0.5 * (1.0 + (std::f64::consts::PI * x).cos());
        match self.kind {
            Kind::Constant | Kind::ConstantWithWarmup => 1.0,
            Kind::Linear => (1.0 - progress).max(0.0),
            Kind::Cosine { cycles } => wave(2.0 * cycles * progress).max(0.0),
            Kind::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Kind::CosineWithRestarts { cycles } => wave((cycles * progress) % 1.0).max(0.0),
            Kind::Polynomial { end, .. } if at > self.total => end,
            Kind::Polynomial { end, power } => {
                let left = 1.0 - (at - self.warmup) / (self.total - self.warmup).max(1.0);
                (1.0 - end) * left.powf(power) + end
            }
        }
    }
}
