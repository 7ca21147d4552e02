//! Roles that were assigned to columns.

use finetuner_protocol::text::start_of;

use super::count::is_numeric;
use crate::{
    error::{Error, Result},
    layout::Kind,
    table::{Cell, Table},
};

/// The relation between the items of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// An item and its label.
    Labelled,
    /// Two items and their similarity.
    Scored,
    /// Two items that are positives of each other.
    Related,
    /// Items that become the chunks of one document: an anchor, its positive and its
    /// negatives, or a pair with a label.
    Chunks,
    /// Every cell is a text.
    Texts,
}

/// A column that holds items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) column: usize,
    pub(crate) kind: Kind,
}

/// The roles of a file's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) meaning: Meaning,
    /// The columns of the anchor, its positive, and its negatives, in this order.
    pub(crate) items: Vec<Field>,
    pub(crate) label: Option<usize>,
    pub(crate) scores: Vec<usize>,
    /// Number of columns that each row must have.
    pub(crate) width: usize,
}

impl Roles {
    pub(super) fn new(meaning: Meaning, items: Vec<Field>, width: usize) -> Self {
        Self {
            meaning,
            items,
            label: None,
            scores: Vec::new(),
            width,
        }
    }

    /// Returns the roles of named columns.
    ///
    /// If a row has several items and no scores, a label column of numbers is the
    /// score, as in data sets for sentence-transformers.
    pub(super) fn of_columns(
        items: Vec<Field>,
        mut label: Option<usize>,
        mut scores: Vec<usize>,
        width: usize,
        table: &dyn Table,
    ) -> Result<Self> {
        if let (Some(column), true) = (label, items.len() > 1 && scores.is_empty())
            && is_numeric(table.sample(), column, 1.0)
        {
            (label, scores) = (None, vec![column]);
        }
        let is_list = |field: &Field| {
            let cells = table
                .sample()
                .iter()
                .filter_map(|row| row.cells.get(field.column));
            cells.into_iter().any(|cell| matches!(cell, Cell::List(_)))
        };
        let meaning = match (items.len(), label, scores.len()) {
            (0, ..) | (1, None, _) => {
                return Err(Error::setup(format!(
                    "`{}`: {}; expected an item and its label, two items, or an anchor with its \
                     positive and negatives. Name the columns with `Columns`",
                    start_of(table.name()),
                    match items.len() {
                        0 => "no column has items",
                        _ => "only one column has items, and no column has labels",
                    }
                )));
            }
            (1, Some(_), _) => {
                scores.clear();
                Meaning::Labelled
            }
            (2, None, 0) if !items.iter().any(is_list) => Meaning::Related,
            (2, None, 1) if !items.iter().any(is_list) => Meaning::Scored,
            _ => Meaning::Chunks,
        };
        Ok(Self {
            meaning,
            items,
            label,
            scores,
            width,
        })
    }
}

/// Logs the roles of the columns, so that the user can check them.
pub(super) fn log_roles(roles: &Roles, names: &[String], table: &dyn Table) {
    let shown = |columns: &mut dyn Iterator<Item = usize>| -> String {
        let names = columns.filter_map(|column| names.get(column));
        let names: Vec<String> = names.map(|name| format!("`{}`", start_of(name))).collect();
        names.join(", ")
    };
    let items = shown(&mut roles.items.iter().map(|item| item.column));
    let others = shown(&mut roles.label.iter().chain(&roles.scores).copied());
    tracing::info!(
        file = %start_of(table.name()),
        "columns: items {items}{}",
        match (others.is_empty(), roles.label.is_some()) {
            (true, _) => String::new(),
            (false, true) => format!("; label {others}"),
            (false, false) => format!("; scores {others}"),
        }
    );
}
