//! Roles of columns without names. They follow from the number of columns and the first
//! rows, as in the Python client.

use finetuner_protocol::text::start_of;

use super::{
    assigned::{Field, Meaning, Roles},
    count::{column_count_text, count_filled_columns, is_numeric},
};
use crate::{
    error::{Error, Result},
    layout::{Kind, Kinds},
    table::{Cell, Row, Table},
};

/// Returns the roles by the number of columns and the cells of the sample.
///
/// Two columns are a pair, and three are a scored pair if the third has a number or the
/// items are a text and an image. Otherwise the columns after a pair are its negatives,
/// then one score for each negative or one for each item after the anchor.
pub(super) fn by_place(kinds: Kinds, table: &dyn Table) -> Result<Roles> {
    let (options, sample) = (table.options(), table.sample());
    // Text and image may be in either order, which is the same in all rows.
    let references = |column: usize| {
        let cells = sample.iter().filter_map(|row| row.cells.get(column));
        let texts = cells.filter_map(Cell::text);
        texts.filter(|cell| options.is_reference(cell)).count()
    };
    let (first, second) = match kinds {
        (Kind::Text, Kind::Image) if references(0) > references(1) => (Kind::Image, Kind::Text),
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
        // Reading the file without rows fails later, with an error of its own.
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
            "the roles of the columns are not clear: the row has {}, separated by `{delimiter}`; \
             expected two items, two items and a score, an item and a label, or an anchor with \
             its positive, its negatives, and optionally a score for each",
            column_count_text(width)
        );
        return Err(Error::rows(table.name(), number, reason));
    }
    tracing::info!(
        file = %start_of(table.name()),
        "{}: an anchor, its positive, {negatives} negatives and {numbers} scores",
        column_count_text(width)
    );
    let items = (0..2 + negatives)
        .map(|column| field(column, first))
        .collect();
    let mut roles = Roles::new(Meaning::Chunks, items, width);
    roles.scores = (width - numbers..width).collect();
    Ok(roles)
}

/// Returns whether a column has a number or an empty cell.
fn has_number(sample: &[Row], column: usize) -> bool {
    let mut cells = sample.iter().filter_map(|row| row.cells.get(column));
    cells.any(|cell| cell.is_number() || cell.is_empty())
}

/// Returns the most frequent number of columns, without empty ones at the end.
///
/// If the first row has an equally frequent number, that number is returned.
fn usual_width(sample: &[Row]) -> Option<usize> {
    let widths: Vec<usize> = sample
        .iter()
        .map(count_filled_columns)
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
