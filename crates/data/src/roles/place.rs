//! Roles that follow from the number of columns and the first rows, as in the Python
//! client.

use finetuner_protocol::text::start_of;

use super::{Field, Kind, Kinds, Meaning, Roles, columns, filled, is_numeric};
use crate::{
    error::{Error, Result},
    table::{Cell, Row, Table},
};

/// Returns the roles by the number of columns and their first cells, as the Python
/// client does.
pub(super) fn by_place(kinds: Kinds, table: &dyn Table) -> Result<Roles> {
    let (options, sample) = (table.options(), table.sample());
    // Text and picture may come in either order, the same in all rows.
    let places = |column: usize| {
        let cells = sample.iter().filter_map(|row| row.cells.get(column));
        let texts = cells.filter_map(Cell::text);
        texts.filter(|cell| options.names_something(cell)).count()
    };
    let (first, second) = match kinds {
        (Kind::Text, Kind::Image) if places(0) > places(1) => (Kind::Image, Kind::Text),
        kinds => kinds,
    };
    let field = |column, kind| Field { column, kind };
    let pair = || vec![field(0, first), field(1, second)];
    if options.is_labeled {
        let mut roles = Roles::new(Meaning::Labelled, vec![field(0, first)], 2);
        roles.label = Some(1);
        return Ok(roles);
    }
    let width = match usual_width(sample) {
        // No rows is an error of the reading.
        None | Some(2) => return Ok(Roles::new(Meaning::Related, pair(), 2)),
        Some(width) => width,
    };
    let scored = width == 3 && (first != second || has_number(sample, 2));
    if scored {
        let mut roles = Roles::new(Meaning::Scored, pair(), 3);
        roles.scores = vec![2];
        return Ok(roles);
    }
    let numbers = (3..width)
        .rev()
        .take_while(|column| is_numeric(sample, *column, 0.5))
        .count();
    let negatives = (width - numbers).saturating_sub(2);
    if width < 3
        || first != second
        || !(numbers == 0 || negatives == numbers || negatives + 1 == numbers)
    {
        let number = sample.first().map_or(0, |row| row.number);
        let delimiter = table.delimiter().unwrap_or(',');
        let reason = format!(
            "Can not determine the context of the csv: it has {}, separated by `{delimiter}`; two \
             items, two items and a score, an item and a label, or an anchor with its match, \
             negatives, and a score for each or none are possible",
            columns(width)
        );
        return Err(Error::rows(table.name(), number, reason));
    }
    tracing::info!(
        file = %start_of(table.name()),
        "{}: an anchor, its match, {negatives} negatives and {numbers} scores",
        columns(width)
    );
    let items = (0..2 + negatives)
        .map(|column| field(column, first))
        .collect();
    let mut roles = Roles::new(Meaning::Members, items, width);
    roles.scores = (width - numbers..width).collect();
    Ok(roles)
}

/// Returns whether a column holds a number or nothing in some row.
fn has_number(sample: &[Row], column: usize) -> bool {
    let mut cells = sample.iter().filter_map(|row| row.cells.get(column));
    cells.any(|cell| cell.is_number() || cell.is_empty())
}

/// Returns the number of columns that most rows have, without empty ones at the end,
/// or that of the first row if there is no majority.
fn usual_width(sample: &[Row]) -> Option<usize> {
    let widths: Vec<usize> = sample
        .iter()
        .map(filled)
        .filter(|width| *width > 0)
        .collect();
    let count = |width: usize| widths.iter().filter(|other| **other == width).count();
    let first = *widths.first()?;
    let most = widths.iter().copied().max_by_key(|width| count(*width))?;
    Some(if count(most) > count(first) {
        most
    } else {
        first
    })
}
