//! Curves of a run: losses, learning rate, and metrics measured during the
//! training.

use std::collections::BTreeMap;

use finetuner_protocol::Event;
use maud::html;

use super::shown::Shown;
use crate::{
    app::App,
    console::{
        chart::{Curve, Point, View, figure},
        failure::Page,
        links::run_path,
        metrics,
    },
    database::{RunRow, StoredEvent},
    error::ApiError,
};

/// Approximate number of points in a curve.
const POINTS: u64 = 600;
/// Approximate number of points read for a curve of which only a range is
/// visible.
const RANGE_POINTS: u64 = 6000;
/// Maximum number of measurements read from the log.
const MAX_MEASUREMENTS: u64 = 2000;
/// Maximum number of metric curves.
const MAX_METRICS: usize = 8;
/// Prefix of the engine's log lines with a measurement between two steps.
const METRIC_PREFIX: &str = "Metric: '";

/// The curves of a run.
#[derive(Default)]
pub(crate) struct Curves {
    pub(crate) loss: Curve,
    pub(crate) val_loss: Curve,
    pub(crate) learning_rate: Curve,
    /// Mean loss of the last completed epoch.
    pub(crate) train_loss: Option<f64>,
    /// Curves of metrics, most informative first.
    pub(crate) metrics: Vec<Curve>,
}

/// Renders the curves section of a run's page.
pub(super) async fn section(app: &App, shown: &Shown) -> Page {
    let fields = [("tab", shown.tab.word())];
    figures(app, &shown.run, &shown.view, &run_path(&shown.run), &fields).await
}

/// Renders the curves of a run, and the form that changes their view on `page`.
/// The form keeps `fields`, the page's other query parameters.
pub(super) async fn figures(
    app: &App,
    run: &RunRow,
    view: &View,
    page: &str,
    fields: &[(&str, &str)],
) -> Page {
    // A visible range gets a higher resolution.
    let points = if view.is_part() { RANGE_POINTS } else { POINTS };
    let curves = of(app, run, points).await?;
    let losses = [curves.loss, curves.val_loss];
    let losses: Vec<Curve> = losses
        .into_iter()
        .filter(|curve| !curve.points.is_empty())
        .collect();
    if losses.is_empty() {
        return Ok(html! {});
    }
    Ok(html! {
        section aria-labelledby="curves-title" {
            div .head {
                h2 #curves-title { "Curves" }
                (view.form(page, fields))
            }
            div .figures {
                (figure("Loss", &losses, view))
                @if !curves.metrics.is_empty() { (figure("Metrics", &curves.metrics, view)) }
                (figure("Learning rate", &[curves.learning_rate], view))
            }
        }
    })
}

/// Reads the curves of a run, sampled at about `points` steps.
pub(crate) async fn of(app: &App, run: &RunRow, points: u64) -> Result<Curves, ApiError> {
    let steps = app.database.sampled_steps(run.id, points).await?;
    let Some(start) = steps.first().map(|stored| stored.at) else {
        return Ok(Curves::default());
    };
    let epochs = app.database.epochs(run.id).await?;
    let clock = Clock::of(&steps, start);
    let point = |stored: &StoredEvent, value: fn(&Event) -> f64| match stored.event {
        Event::Step {
            epoch, step, steps, ..
        } => Some(clock.point(
            step_number(epoch, step, steps),
            stored.at,
            value(&stored.event),
        )),
        _ => None,
    };
    let of_steps = |name: &str, value: fn(&Event) -> f64| Curve {
        name: name.to_owned(),
        points: steps
            .iter()
            .filter_map(|stored| point(stored, value))
            .collect(),
    };
    let loss = of_steps("loss", |event| match event {
        Event::Step { loss, .. } => *loss,
        _ => f64::NAN,
    });
    let learning_rate = of_steps("learning rate", |event| match event {
        Event::Step { learning_rate, .. } => *learning_rate,
        _ => f64::NAN,
    });
    let validation = epochs.iter().filter_map(|stored| match stored.event {
        Event::Epoch {
            epoch,
            val_loss: Some(loss),
            ..
        } => Some(clock.point(epoch as f64 * clock.per_epoch, stored.at, loss)),
        _ => None,
    });
    let val_loss = Curve {
        name: "val_loss".to_owned(),
        points: validation.collect(),
    };
    let train_loss = epochs.iter().rev().find_map(|stored| match stored.event {
        Event::Epoch { train_loss, .. } => Some(train_loss),
        _ => None,
    });
    let lines = app
        .database
        .lines_that_begin(run.id, METRIC_PREFIX, MAX_MEASUREMENTS)
        .await?;
    let metrics = measured(run, &lines, &clock);
    Ok(Curves {
        loss,
        val_loss,
        learning_rate,
        train_loss,
        metrics,
    })
}

/// Returns the step number over all epochs. `epoch` counts from 1.
fn step_number(epoch: u64, step: u64, steps: u64) -> f64 {
    (epoch.saturating_sub(1) * steps + step) as f64
}

/// Maps step numbers to epochs and times.
struct Clock {
    per_epoch: f64,
    start: u64,
    /// Step numbers over all epochs with their report times, in milliseconds.
    steps: Vec<(f64, u64)>,
}

impl Clock {
    fn of(steps: &[StoredEvent], start: u64) -> Self {
        let mut per_epoch = 1;
        let done = steps.iter().filter_map(|stored| match stored.event {
            Event::Step {
                epoch, step, steps, ..
            } => {
                per_epoch = steps.max(1);
                Some((step_number(epoch, step, steps), stored.at))
            }
            _ => None,
        });
        let steps = done.collect();
        Self {
            per_epoch: per_epoch as f64,
            start,
            steps,
        }
    }

    fn point(&self, step: f64, at: u64, value: f64) -> Point {
        Point {
            step,
            epoch: step / self.per_epoch,
            time: at.saturating_sub(self.start) as f64 / 1000.0,
            value,
        }
    }

    /// Returns the time of a step: that of the next reported step, or of the last
    /// one.
    fn when(&self, step: f64) -> u64 {
        let after = self.steps.partition_point(|(done, _)| *done < step);
        let known = self.steps.get(after).or(self.steps.last());
        known.map_or(self.start, |(_, at)| *at)
    }
}

/// Returns the curves of metrics that were measured during the training,
/// including the values before and after it. Metrics without a value in between
/// are in the table only.
fn measured(run: &RunRow, lines: &[String], clock: &Clock) -> Vec<Curve> {
    let mut between: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (name, step, value) in lines.iter().filter_map(|line| read(line)) {
        let name = metrics::name_of(name, &run.config);
        between.entry(name).or_default().push((step, value));
    }
    let end = clock.steps.last().map_or(0.0, |(step, _)| *step);
    let changes = metrics::changes(&metrics::of(run)).into_iter();
    let curves = changes.filter_map(|change| {
        let own = between.remove(&change.name)?;
        let before = change.before.map(|value| (0.0, value));
        let after = change.after.map(|value| (end, value));
        let mut all: Vec<(f64, f64)> = before.into_iter().chain(own).chain(after).collect();
        all.dedup_by(|next, last| next.0 == last.0);
        let points = all
            .into_iter()
            .map(|(step, value)| clock.point(step, clock.when(step), value));
        Some(Curve {
            name: change.name,
            points: points.collect(),
        })
    });
    curves.take(MAX_METRICS).collect()
}

/// Parses name, step and value of a line such as `Metric: 'x' after 10 steps:
/// 0.5`.
fn read(line: &str) -> Option<(&str, f64, f64)> {
    let (name, rest) = line.strip_prefix(METRIC_PREFIX)?.rsplit_once("' after ")?;
    let (step, value) = rest.split_once(" steps: ")?;
    Some((name, step.parse().ok()?, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_read_from_the_log() {
        let line = "Metric: 'recall_at_k' after 10 steps: 0.25000";
        assert_eq!(read(line), Some(("recall_at_k", 10.0, 0.25)));
        let odd = "Metric: 'it's ' after 'noon_hit_at_k' after 3 steps: 1.00000";
        assert_eq!(read(odd), Some(("it's ' after 'noon_hit_at_k", 3.0, 1.0)));
        assert_eq!(read("Metric: 'x' after many steps"), None);
    }

    #[test]
    fn steps_are_counted_over_all_epochs() {
        assert_eq!(step_number(1, 3, 10), 3.0);
        assert_eq!(step_number(3, 1, 10), 21.0);
        let clock = Clock {
            per_epoch: 10.0,
            start: 1000,
            steps: vec![(1.0, 1000), (5.0, 3000)],
        };
        assert_eq!((clock.when(2.0), clock.when(9.0)), (3000, 3000));
        assert_eq!(clock.point(5.0, 3000, 0.5).time, 2.0);
        assert_eq!(clock.point(5.0, 3000, 0.5).epoch, 0.5);
    }
}
