//! Curves of everything that a run measures.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Largest number of points of a curve. Longer curves are thinned by half until
/// they fit.
const MOST_POINTS: usize = 20_000;

/// A value of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Number of training steps so far.
    pub(crate) step: usize,
    pub(crate) value: f64,
    /// Unix time in seconds.
    pub(crate) time: f64,
}

/// A curve, thinned if it is long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Curve {
    points: Vec<Point>,
    /// Only every n-th value is kept.
    every: usize,
    seen: usize,
}

/// Values measured at one step.
pub(super) struct Row<'a> {
    pub(super) step: usize,
    pub(super) time: f64,
    pub(super) values: Vec<(&'a str, f64)>,
}

/// Curves by name, such as `train/loss`, in the order of their first values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History(Vec<(String, Curve)>);

impl History {
    pub(crate) fn add(&mut self, name: &str, step: usize, value: f64) {
        let index = match self.0.iter().position(|(known, _)| known == name) {
            Some(index) => index,
            None => {
                self.0.push((name.to_owned(), Curve::default()));
                self.0.len() - 1
            }
        };
        let curve = &mut self.0[index].1;
        let every = curve.every.max(1);
        if curve.seen.is_multiple_of(every) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let time = now.map_or(0.0, |now| now.as_secs_f64());
            curve.points.push(Point { step, value, time });
        }
        curve.seen += 1;
        if curve.points.len() > MOST_POINTS {
            let mut index = 0;
            curve.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            curve.every = every * 2;
        }
    }

    /// Returns the name and points of each curve.
    pub(super) fn curves(&self) -> impl Iterator<Item = (&str, &[Point])> {
        let all = self.0.iter();
        all.map(|(name, curve)| (name.as_str(), &curve.points[..]))
    }

    /// Returns all points by step. Points of one step are in the order of the
    /// curves.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut all: Vec<(usize, usize, &str, Point)> = Vec::new();
        for (order, (name, points)) in self.curves().enumerate() {
            all.extend(points.iter().map(|point| (point.step, order, name, *point)));
        }
        all.sort_by_key(|(step, order, _, _)| (*step, *order));
        let mut rows: Vec<Row<'_>> = Vec::new();
        for (step, _, name, point) in all {
            match rows.last_mut() {
                // Each name is in a row only once.
                Some(row)
                    if row.step == step && row.values.iter().all(|(known, _)| *known != name) =>
                {
                    row.time = row.time.max(point.time);
                    row.values.push((name, point.value));
                }
                _ => rows.push(Row {
                    step,
                    time: point.time,
                    values: vec![(name, point.value)],
                }),
            }
        }
        rows
    }

    /// Removes values of single steps.
    pub(super) fn by_epoch(&self) -> Self {
        let kept = self.0.iter().filter(|(name, _)| !name.starts_with("step/"));
        Self(kept.cloned().collect())
    }

    /// Removes values measured before training.
    pub(super) fn without_start(&self) -> Self {
        let mut all = self.clone();
        for (_, curve) in &mut all.0 {
            curve.points.retain(|point| point.step > 0);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_evenly() {
        let mut history = History::default();
        for step in 0..MOST_POINTS * 3 {
            history.add("step/loss", step, step as f64);
        }
        let (_, points) = history.curves().next().unwrap();
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 2);
        let gap = points[1].step - points[0].step;
        assert!(points.windows(2).all(|w| w[1].step - w[0].step == gap));
    }

    #[test]
    fn each_row_contains_the_measurements_of_one_step() {
        let mut history = History::default();
        history.add("eval/hit", 0, 0.5);
        history.add("train_loss", 4, 1.0);
        history.add("eval/hit", 4, 0.75);
        history.add("eval/hit", 4, 0.8);
        let rows: Vec<_> = history
            .rows()
            .into_iter()
            .map(|row| (row.step, row.values))
            .collect();
        assert_eq!(
            rows,
            [
                (0, vec![("eval/hit", 0.5)]),
                (4, vec![("eval/hit", 0.75)]),
                (4, vec![("eval/hit", 0.8), ("train_loss", 1.0)]),
            ]
        );
        assert_eq!(history.without_start().rows().len(), 2);
    }
}
