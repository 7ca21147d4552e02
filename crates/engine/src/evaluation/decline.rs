//! Decides whether metrics got worse by the training.

use finetuner_protocol::greater_is_better;

use super::Metrics;

/// Returns the metrics that got worse, with their values before and after the training.
///
/// They must be at least half of the metrics that measure quality and were measured
/// before the training too; otherwise the result is empty.
#[must_use]
pub fn declined<'a>(before: &Metrics, after: &'a Metrics) -> Vec<(&'a str, f64, f64)> {
    let (mut fallen, mut judged) = (Vec::new(), 0);
    for (name, after) in after {
        // A threshold does not measure quality.
        let Some((greater, before)) = greater_is_better(name).zip(before.get(name)) else {
            continue;
        };
        judged += 1;
        let is_worse = match greater {
            true => after < before,
            false => after > before,
        };
        if is_worse {
            fallen.push((name.as_str(), *before, *after));
        }
    }
    // If little changed, some metrics rise and some fall.
    match fallen.len() * 2 < judged {
        true => Vec::new(),
        false => fallen,
    }
}
