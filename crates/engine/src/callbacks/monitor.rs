//! Tracks one metric from epoch to epoch.

use finetuner_protocol::{Callback, Level, MonitorMode, greater_is_better};

use super::context::Context;
use crate::{
    Error, Result,
    evaluation::{AtK, METRICS, is_graded},
};

/// Reranking metrics whose names contain no rank.
pub(super) const WITHOUT_RANK: [&str; 3] = ["map", "pearson", "spearman"];

/// Returns the metric that a name refers to: Keras's `loss` is the training loss.
pub(crate) fn metric_name(monitor: &str) -> &str {
    match monitor {
        "loss" => "train_loss",
        other => other,
    }
}

/// Returns whether a callback monitors a metric other than a loss.
pub(super) fn is_watched(all: &[Callback]) -> bool {
    all.iter().any(|callback| match callback {
        Callback::BestModelCheckpoint(best) => !best.monitor.ends_with("loss"),
        Callback::EarlyStopping(early) => !early.monitor.ends_with("loss"),
        _ => false,
    })
}

/// Returns whether a name is a metric of pairs or triplets.
///
/// A caption may precede it.
fn is_of_pairs(name: &str) -> bool {
    let starts = name.match_indices('_').map(|(place, _)| place + 1);
    std::iter::once(0)
        .chain(starts)
        .any(|start| is_graded(&name[start..]))
}

/// Returns each monitored metric other than a loss, after its callback's name.
pub(crate) fn watched_metrics(callbacks: &[Callback]) -> impl Iterator<Item = (&str, &str)> {
    let watched = callbacks.iter().filter_map(|callback| match callback {
        Callback::BestModelCheckpoint(best) => Some((callback.name(), metric_name(&best.monitor))),
        Callback::EarlyStopping(early) => Some((callback.name(), metric_name(&early.monitor))),
        _ => None,
    });
    watched.filter(|(_, name)| !["train_loss", "val_loss"].contains(name))
}

/// A monitored metric and its direction.
pub(super) struct Monitor {
    name: String,
    smaller_is_better: bool,
    /// Minimum improvement over the best value.
    min_delta: f64,
    pub(super) best: Option<f64>,
}

impl Monitor {
    /// Checks the options of the callback `callback`.
    pub(super) fn new(
        callback: &str,
        name: &str,
        mode: &MonitorMode,
        min_delta: f64,
    ) -> Result<Self> {
        let name = metric_name(name);
        // A caption or model name may precede the metric.
        let known = |name: &str| {
            ["train_loss", "val_loss"].contains(&name)
                || METRICS.iter().any(|(metric, _)| name.ends_with(metric))
                || is_of_pairs(name)
                || (name.rsplit('_').next())
                    .is_some_and(|name| AtK::parse(name).is_some() || WITHOUT_RANK.contains(&name))
        };
        if !known(name) {
            return Err(Error::config(
                format!("callbacks.{callback}.monitor"),
                format!(
                    "`{name}` is not a metric of this run: use train_loss, val_loss or a metric of \
                     EvaluationCallback, such as recall_at_k or recall@10"
                ),
            ));
        }
        let greater = greater_is_better(name);
        if greater.is_none() && *mode == MonitorMode::Auto {
            let reason = format!(
                "`{name}` is a threshold, for which neither high nor low is better: \
                 monitor the metric that it yields, or set `mode`"
            );
            return Err(Error::config(
                format!("callbacks.{callback}.monitor"),
                reason,
            ));
        }
        let smaller_is_better = match mode {
            MonitorMode::Min => true,
            MonitorMode::Max => false,
            MonitorMode::Auto => greater == Some(false),
            other => {
                return Err(Error::config(
                    format!("callbacks.{callback}.mode"),
                    format!("`{other}` is not one of auto, min, max"),
                ));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            smaller_is_better,
            min_delta,
            best: None,
        })
    }

    /// Returns whether the epoch's value is the best so far, and logs it.
    ///
    /// Returns `None` if the metric was not measured.
    pub(super) fn improved(&mut self, context: &mut Context<'_>) -> Option<bool> {
        let Some(&value) = context.metrics.get(&self.name) else {
            let message = format!("Could not retrieve monitor metric {}", self.name);
            context.log(Level::Warning, message);
            return None;
        };
        let better = self.best.is_none_or(|best| {
            if self.smaller_is_better {
                value < best - self.min_delta
            } else {
                value > best + self.min_delta
            }
        });
        if !better {
            context.log(Level::Info, "Model did not improve");
            return Some(false);
        }
        let worst = if self.smaller_is_better {
            "inf"
        } else {
            "-inf"
        };
        let before = self
            .best
            .map_or(worst.to_owned(), |best| format!("{best:.3}"));
        let message = format!("Model improved from {before} to {value:.3}!");
        context.log(Level::Info, message);
        self.best = Some(value);
        Some(true)
    }
}
