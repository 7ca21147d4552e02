//! The results table of a comparison: metrics and losses, with the best values
//! marked.

use finetuner_protocol::{MetricsInfo, greater_is_better};
use maud::{Markup, html};

use crate::{
    console::{
        chart::style_of,
        links::run_path,
        metrics,
        run::Curves,
        state::{badge, duration},
        words::{name, number, seconds, visible},
    },
    database::{RunRow, now_ms},
};

/// Column names of the final losses of a run.
const LOSSES: [&str; 2] = ["val_loss", "train_loss"];

/// Renders the results as a table. Marks the best value of each metric.
pub(super) fn table(runs: &[RunRow], curves: &[Curves]) -> Markup {
    let own: Vec<MetricsInfo> = runs
        .iter()
        .zip(curves)
        .map(|(run, curves)| with_losses(metrics::of(run), curves))
        .collect();
    let mut all = MetricsInfo::default();
    for own in &own {
        all.before.extend(own.before.clone());
        all.after.extend(own.after.clone());
    }
    let names = metrics::changes(&all).into_iter().map(|one| one.name);
    let (losses, mut names): (Vec<String>, Vec<String>) =
        names.partition(|name| LOSSES.contains(&name.as_str()));
    names.extend(losses);
    let now = now_ms();
    html! {
        div .scroll tabindex="0" role="region" aria-label="Table of results" { table .cards {
            thead { tr {
                th scope="col" { "Run" } th scope="col" { "State" }
                @for name in &names { th scope="col" .number { (visible(name)) } }
                th scope="col" .number { "Duration" }
            } }
            tbody { @for (i, (run, one)) in runs.iter().zip(&own).enumerate() { tr {
                (title(i, run))
                td data-label="State" { (badge(run)) }
                @for metric in &names { (result(&own, one, metric)) }
                td .number data-label="Duration" { (duration(run, now).map_or(String::new(), seconds)) }
            } } }
        } }
        p .hint { "Values after the training, with their change; losses of the last epoch. "
            span .best { "Marked" } " values are the best of these runs." }
    }
}

/// Renders a run's name beside the colour of its curves.
pub(super) fn title(place: usize, run: &RunRow) -> Markup {
    html! {
        th scope="row" {
            span class={ "key " (style_of(place)) } {} a href=(run_path(run)) { (name(&run.name)) }
        }
    }
}

fn with_losses(mut own: MetricsInfo, curves: &Curves) -> MetricsInfo {
    let last = curves.val_loss.points.last().map(|point| point.value);
    for (name, value) in LOSSES.into_iter().zip([last, curves.train_loss]) {
        if let Some(value) = value {
            own.after.entry(name.to_owned()).or_insert(value);
        }
    }
    own
}

/// Renders one metric of one run.
fn result(all: &[MetricsInfo], own: &MetricsInfo, metric: &str) -> Markup {
    let after = own.after.get(metric).copied();
    let change = metrics::Change {
        name: metric.to_owned(),
        before: own.before.get(metric).copied(),
        after,
    };
    html! { td .number data-label=(visible(metric)) { @if let Some(value) = after {
        @if is_best(all, metric, value) {
            strong .best { (number(value)) span .hidden { " (best)" } }
        } @else { (number(value)) }
        " " (metrics::change(&change))
    } } }
}

/// Returns whether a value is the best of these runs. False if all values are
/// equal.
fn is_best(runs: &[MetricsInfo], metric: &str, value: f64) -> bool {
    let Some(greater) = greater_is_better(metric) else {
        return false;
    };
    let mut others = runs.iter().filter_map(|run| run.after.get(metric));
    let worse = |other: f64| {
        if greater {
            other < value
        } else {
            other > value
        }
    };
    others.clone().any(|other| worse(*other))
        && others.all(|other| worse(*other) || *other == value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_best_value_follows_the_direction_of_the_metric() {
        let run = |values: &[(&str, f64)]| {
            let after = values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value));
            MetricsInfo::new(BTreeMap::new(), after.collect())
        };
        let runs = [
            run(&[
                ("recall@10", 0.5),
                ("val_loss", 0.2),
                ("cosine_ap_threshold", 0.1),
            ]),
            run(&[
                ("recall@10", 0.7),
                ("val_loss", 0.3),
                ("cosine_ap_threshold", 0.2),
            ]),
            run(&[("recall@10", 0.7)]),
        ];
        assert!(is_best(&runs, "recall@10", 0.7) && !is_best(&runs, "recall@10", 0.5));
        assert!(is_best(&runs, "val_loss", 0.2) && !is_best(&runs, "val_loss", 0.3));
        assert!(!is_best(&runs, "cosine_ap_threshold", 0.2));
        // Equal values have no best one.
        assert!(!is_best(&runs[1..], "recall@10", 0.7));
    }
}
