//! The form that selects the columns of a list of runs.

use maud::{Markup, html};

use super::{
    columns::{KNOWN, label},
    listed::Listed,
    table::Shown,
};
use crate::console::words::visible;

/// Renders the form. It offers the hyper-parameters and metrics of the listed runs.
pub(super) fn markup(listed: &Listed, shown: &Shown<'_>) -> Markup {
    let own = &listed.columns;
    let known = KNOWN.iter().map(|(field, ..)| (*field).to_owned());
    let mut offered: Vec<String> = known.collect();
    for field in shown.fields().into_iter().chain(own.0.clone()) {
        if !offered.contains(&field) {
            offered.push(field);
        }
    }
    if listed.is_of_one() {
        offered.retain(|field| field != "experiment");
    }
    html! {
        details #columns {
            summary { "Columns" }
            form method="get" action=(listed.here) {
                (listed.hidden_fields())
                fieldset .choices {
                    legend .hidden { "Columns to show" }
                    @for field in &offered { label {
                        input type="checkbox" name="c" value=(field) checked[own.has(field)];
                        " " (visible(label(field)))
                    } }
                }
                label { "Others, separated by commas " input .wide name="more"
                    placeholder="recall_at_20.change, scheduler" autocapitalize="none"
                    spellcheck="false"; }
                div .row {
                    button type="submit" name="columns" value="set" { "Show these columns" }
                    button .quiet type="submit" name="columns" value="default" { "Default columns" }
                }
            }
        }
    }
}
