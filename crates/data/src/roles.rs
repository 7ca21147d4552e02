//! The roles of a file's columns: given by the options, by the columns' names, or by
//! the first rows.

mod given;
mod names;
mod place;

use finetuner_protocol::{Modality, Task, text::start_of};

use crate::{
    error::{Error, Result},
    table::{Cell, Row, Table},
};
use given::given;
use names::{in_order, recognised};
use place::by_place;

pub(crate) use names::{looks_like_header, warn_of_header};

/// The kind of data that a file's rows hold.
///
/// ```
/// use finetuner_data::Layout;
/// use finetuner_protocol::Task;
///
/// assert_ne!(Layout::of_task(&Task::TextToText)?, Layout::TEXTS);
/// assert!(Layout::of_task(&Task::from("text-to-speech")).is_err());
/// # Ok::<(), finetuner_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The kinds of the two items that a model compares; `None` if every cell is a
    /// text.
    kinds: Option<Kinds>,
}

/// The kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Image,
    Mesh,
}

impl Kind {
    pub(crate) fn modality(self) -> Modality {
        match self {
            Self::Text => Modality::Text,
            Self::Image => Modality::Image,
            Self::Mesh => Modality::Mesh,
        }
    }
}

impl Layout {
    /// Every cell is a text, as `synthesize` needs it.
    pub const TEXTS: Self = Self { kinds: None };

    /// Returns the layout of the columns for a model with this task.
    ///
    /// # Errors
    /// Returns an error if models with this task take no rows.
    pub fn of_task(task: &Task) -> Result<Self> {
        let kinds = match task {
            Task::TextToText => (Kind::Text, Kind::Text),
            Task::ImageToImage => (Kind::Image, Kind::Image),
            Task::TextToImage => (Kind::Text, Kind::Image),
            Task::MeshToMesh => (Kind::Mesh, Kind::Mesh),
            other => {
                return Err(Error::setup(format!(
                    "a model for {other} can't be trained on a file of rows: give documents"
                )));
            }
        };
        Ok(Self { kinds: Some(kinds) })
    }
}

/// The meaning of a file's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// An item and its label.
    Labelled,
    /// Two items and how similar they are.
    Scored,
    /// Two items of the same meaning.
    Related,
    /// Items that become one document: an anchor, its match and negatives, or a
    /// pair with a label.
    Members,
    /// Every cell is a text.
    Texts,
}

/// A column with items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) column: usize,
    pub(crate) kind: Kind,
}

/// The roles of a file's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) meaning: Meaning,
    /// The anchor first, then its match, then negatives.
    pub(crate) items: Vec<Field>,
    pub(crate) label: Option<usize>,
    pub(crate) scores: Vec<usize>,
    /// Number of columns of each row.
    pub(crate) width: usize,
}

/// The kinds of the two items that a model compares.
type Kinds = (Kind, Kind);

impl Roles {
    pub(crate) fn of_table(layout: &Layout, table: &dyn Table) -> Result<Self> {
        let Some(kinds) = layout.kinds else {
            return Ok(Self::new(Meaning::Texts, Vec::new(), 0));
        };
        let (options, names) = (table.options(), table.names());
        let roles = match names {
            Some(names) if !options.columns.is_empty() => {
                Some(given(&options.columns, names, kinds, table)?)
            }
            Some(names) if !options.is_labeled => recognised(names, kinds, table)?,
            _ => None,
        };
        if let (Some(roles), Some(names)) = (&roles, names) {
            tell(roles, names, table);
        }
        match (roles, table.delimiter(), names) {
            (Some(roles), ..) => Ok(roles),
            (None, None, Some(names)) => in_order(names, kinds, table),
            (None, ..) => by_place(kinds, table),
        }
    }

    fn new(meaning: Meaning, items: Vec<Field>, width: usize) -> Self {
        Self {
            meaning,
            items,
            label: None,
            scores: Vec::new(),
            width,
        }
    }

    /// Returns the roles of columns with names. A label of numbers beside two items
    /// is a score, as in data sets for sentence-transformers.
    fn of_names(
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
                    "`{}`: {}; an item and its label, two items, or an anchor with its match and \
                     negatives are wanted. Name the columns with `Columns`",
                    start_of(table.name()),
                    match items.len() {
                        0 => "no column has items",
                        _ => "only one column has items, and none a label",
                    }
                )));
            }
            (1, Some(_), _) => {
                scores.clear();
                Meaning::Labelled
            }
            (2, None, 0) if !items.iter().any(is_list) => Meaning::Related,
            (2, None, 1) if !items.iter().any(is_list) => Meaning::Scored,
            _ => Meaning::Members,
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

/// Logs the roles of the columns.
fn tell(roles: &Roles, names: &[String], table: &dyn Table) {
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

/// Returns whether at least this part of a column's cells are numbers.
fn is_numeric(sample: &[Row], column: usize, part: f64) -> bool {
    let cells = || sample.iter().filter_map(|row| row.cells.get(column));
    let numbers = cells().filter(|cell| cell.is_number()).count();
    numbers > 0 && numbers as f64 >= cells().count() as f64 * part
}

/// `1 column`, `2 columns`.
pub(crate) fn columns(count: usize) -> String {
    format!("{count} column{}", if count == 1 { "" } else { "s" })
}

/// Returns the number of columns of a row up to the last that is not empty.
pub(crate) fn filled(row: &Row) -> usize {
    let last = row.cells.iter().rposition(|cell| !cell.is_empty());
    last.map_or(0, |last| last + 1)
}
