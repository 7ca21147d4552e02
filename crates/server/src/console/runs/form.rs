//! The form that filters a list of runs.

use maud::{Markup, html};

use super::{listed::Listed, table::Shown};
use crate::console::{annotations, frame::problem, state::State as RunState};

/// Renders the form with the current filters.
pub(super) fn markup(
    listed: &Listed,
    shown: &Shown<'_>,
    tags: &[String],
    wrong: Option<&str>,
) -> Markup {
    let asked = &listed.asked;
    html! {
        form .row method="get" action=(listed.here) role="search" {
            label { "Text " input #q name="q" type="search" value=(asked.q); }
            label { "State " select #state name="state" {
                option value="" { "any" }
                @for state in RunState::ALL {
                    option value=(state.word()) selected[asked.state == state.word()] { (state.label()) }
                }
            } }
            (annotations::choice(&asked.tag, tags))
            label { "Conditions " input #filter .wide name="filter" value=(asked.filter)
                placeholder="learning_rate<1e-4, recall_at_20>0.5" aria-describedby="fields"
                autocapitalize="none" spellcheck="false"; }
            @if shown.metrics.len() > 1 {
                label { "Metric " select #metric name="metric" {
                    @for metric in &shown.metrics {
                        option value=(metric) selected[Some(metric) == shown.metric.as_ref()] { (metric) }
                    }
                } }
            }
            @if !asked.sort.is_empty() { input type="hidden" name="sort" value=(asked.sort); }
            button type="submit" { "Filter" }
        }
        (problem(wrong))
        details .hint {
            summary { "Syntax of conditions" }
            p #fields {
                "A metric after the training (" code { "recall_at_20" } "), before it (" code { "recall_at_20.before" }
                ") or its change (" code { "recall_at_20.change" } "); a hyper-parameter (" code { "epochs" } ", "
                code { "batch_size" } ", " code { "loss" } "); " code { "model" } ", " code { "train_data" } ", "
                code { "experiment" } ", " code { "name" } ", " code { "state" } ", " code { "tags" } ", "
                code { "note" } ", " code { "duration" } " in seconds. Compare with " code { "= != < <= > >=" }
                ", and with " code { "~" } " for a part of a text. Separate conditions with commas; a run must meet all of them."
            }
        }
    }
}
