//! The state of a list of runs: filters, order, columns and page.

use maud::{Markup, html};
use serde::Deserialize;

use super::{columns::Columns, search::Order};
use crate::{
    console::words::{path, query},
    database::{Among, ExperimentRow},
};

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    /// `live` for the table without the rest of the page.
    pub(super) part: String,
    /// Text to find in name, description or note.
    pub(super) q: String,
    pub(super) state: String,
    /// Tag to filter by.
    pub(super) tag: String,
    /// Conditions, such as `learning_rate<1e-4, recall_at_20>0.5`.
    pub(super) filter: String,
    pub(super) sort: String,
    /// Metric to show.
    pub(super) metric: String,
    pub(super) page: Option<u64>,
    /// `set` to store the selected columns, `default` to reset them; else empty.
    pub(super) columns: String,
}

/// A list of runs with parsed parameters.
pub(super) struct Listed {
    /// The experiment; `None` for the runs of all experiments.
    pub(super) of: Option<ExperimentRow>,
    pub(super) here: String,
    pub(super) asked: ListQuery,
    pub(super) order: Order,
    pub(super) columns: Columns,
    pub(super) number: u64,
}

impl Listed {
    pub(super) fn new(of: Option<ExperimentRow>, asked: ListQuery, columns: Columns) -> Self {
        let here = match &of {
            Some(experiment) => path(&["experiments", &experiment.name]),
            None => path(&["runs"]),
        };
        Self {
            of,
            here,
            order: Order::read(&asked.sort),
            number: asked.page.unwrap_or(1).max(1),
            columns,
            asked,
        }
    }

    /// Returns whether the list has the runs of one experiment.
    pub(super) fn is_of_one(&self) -> bool {
        self.of.is_some()
    }

    /// Returns the scope of the list for database queries.
    pub(super) fn among(&self, project: &str) -> Among {
        match &self.of {
            Some(experiment) => experiment.id.into(),
            None => Among::Project(project.to_owned()),
        }
    }

    /// Returns the query parameters of the list, except the page number.
    pub(super) fn fields(&self) -> [(&'static str, &str); 6] {
        let asked = &self.asked;
        [
            ("q", &asked.q),
            ("state", &asked.state),
            ("tag", &asked.tag),
            ("filter", &asked.filter),
            ("sort", &asked.sort),
            ("metric", &asked.metric),
        ]
    }

    /// Returns the URL of this list with some parameters changed.
    pub(super) fn with(&self, changes: &[(&str, &str)]) -> String {
        let page = self.number.to_string();
        let page = if self.number > 1 { page.as_str() } else { "" };
        let mut fields = vec![("part", ""), ("page", page)];
        fields.extend(self.fields());
        for (name, value) in &mut fields {
            if let Some((_, changed)) = changes.iter().find(|(changed, _)| changed == name) {
                *value = *changed;
            }
        }
        format!("{}{}", self.here, query(&fields))
    }

    /// Renders the query parameters as hidden fields for another form of the
    /// page.
    pub(super) fn hidden_fields(&self) -> Markup {
        html! { @for (name, value) in self.fields() { @if !value.is_empty() {
            input type="hidden" name=(name) value=(value);
        } } }
    }
}
