//! Assigns roles to columns by name. The known names are those of data sets for
//! sentence-transformers.

use finetuner_protocol::text::start_of;

use super::assigned::{Field, Roles, log_roles};
use crate::{
    error::{Error, Result},
    layout::{Kind, Kinds},
    table::{Cell, Table},
};

/// Role of a column with a known name. Items of an example have the order of the
/// variants: columns are sorted by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Anchor,
    Hypothesis,
    Positive,
    /// A negative, by the number in its name; 0 without one.
    Negative(u32),
    Text,
    Image,
    Label,
    Score(u32),
}

/// Returns the role of a column, or `None` if its name is not known.
fn known(name: &str) -> Option<Known> {
    let name = name.trim().to_ascii_lowercase().replace(['-', ' '], "_");
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[letters.len()..].parse().unwrap_or(0);
    Some(match (name.as_str(), letters.trim_end_matches('_')) {
        ("sentence_a", _) | (_, "anchor" | "query" | "question" | "premise") => Known::Anchor,
        (_, "sentence" | "text") if number == 1 => Known::Anchor,
        ("sentence_b", _) | (_, "entailment" | "passage") => Known::Positive,
        (_, "positive" | "answer" | "response" | "document") => Known::Positive,
        (_, "sentence" | "text") if number == 2 => Known::Positive,
        (_, "hypothesis") => Known::Hypothesis,
        (_, "negative" | "negatives" | "hard_negative" | "hard_negatives" | "contradiction") => {
            Known::Negative(number)
        }
        (_, "text" | "sentence" | "caption" | "title") if number == 0 => Known::Text,
        (_, "image" | "img" | "picture" | "photo" | "file_name" | "filename") => Known::Image,
        (_, "image_path" | "image_url" | "mesh") => Known::Image,
        (_, "label" | "labels" | "class" | "category") => Known::Label,
        (_, "score" | "scores" | "similarity" | "margin" | "margins") => Known::Score(number),
        _ => return None,
    })
}

/// Returns whether a column of this name changes the examples of the columns beside it.
pub(crate) fn changes_examples(name: &str) -> bool {
    matches!(
        known(name),
        Some(Known::Negative(_) | Known::Label | Known::Score(_))
    )
}

/// Returns the roles of columns with known names. Other columns are ignored.
///
/// Returns `None` if the known names do not determine the roles. Beside an image, a
/// second text and negatives are errors: leaving them out would change what is trained.
pub(super) fn roles_from_known_names(
    names: &[String],
    kinds: Kinds,
    table: &dyn Table,
) -> Result<Option<Roles>> {
    let mut columns: Vec<(Known, usize)> = names
        .iter()
        .enumerate()
        .filter_map(|(column, name)| Some((known(name)?, column)))
        .collect();
    columns.sort_unstable();
    let with = |has_role: &dyn Fn(Known) -> bool| -> Vec<usize> {
        let found = columns.iter().filter(|(known, _)| has_role(*known));
        found.map(|(_, column)| *column).collect()
    };
    let ranked = with(&|known| known <= Known::Negative(u32::MAX));
    let ranked_is_empty = ranked.is_empty();
    let (texts, images) = (with(&|k| k == Known::Text), with(&|k| k == Known::Image));
    let labels = with(&|known| known == Known::Label);
    let scores = with(&|known| matches!(known, Known::Score(_)));
    let mut one_role = columns.iter().filter(|(known, _)| {
        *known < Known::Negative(0) || matches!(known, Known::Label | Known::Score(_))
    });
    let mut before: Option<&(Known, usize)> = None;
    let duplicate = one_role.find_map(|column| {
        let same = before.filter(|before| before.0 == column.0);
        before = Some(column);
        same.map(|same| (same.1, column.1))
    });
    if let Some((a, b)) = duplicate {
        return Err(Error::setup(format!(
            "`{}`: the columns `{}` and `{}` may have the same role: name the columns to train on \
             with `Columns`",
            start_of(table.name()),
            start_of(&names[a]),
            start_of(&names[b])
        )));
    }
    let mut items: Vec<Field> = Vec::new();
    if kinds.0 == kinds.1 {
        let own = if kinds.0 == Kind::Text { texts } else { images };
        let has = |role: Known| columns.iter().any(|(known, _)| *known == role);
        let first = has(Known::Anchor) || has(Known::Hypothesis);
        let all = match (ranked.is_empty(), first, &*own) {
            (true, _, own) => own.to_vec(),
            (false, true, _) => ranked,
            (false, false, [text]) => std::iter::once(*text).chain(ranked).collect(),
            (false, false, _) => return Ok(None),
        };
        items.extend(all.into_iter().map(|column| Field {
            column,
            kind: kinds.0,
        }));
    } else {
        let mut all = texts.iter().chain(&ranked).copied();
        let (Some(text), [image]) = (all.next(), &*images) else {
            return Ok(None);
        };
        let negatives = with(&|known| matches!(known, Known::Negative(_)));
        if let Some(other) = negatives.first().copied().or(all.next()) {
            let reason = match negatives.is_empty() {
                true => "one text beside each image",
                false => "no negatives",
            };
            return Err(Error::setup(format!(
                "`{}`: training on texts and images takes {reason}: remove the column `{}`, or \
                 name the columns to train on with `Columns::new().text(...).image(...)`",
                start_of(table.name()),
                start_of(&names[other])
            )));
        }
        let field = |column, kind| Field { column, kind };
        items = vec![field(text, Kind::Text), field(*image, Kind::Image)];
        items.sort_by_key(|item| item.column);
    }
    // The names of several texts or images don't tell positives from negatives.
    let is_ambiguous = ranked_is_empty && items.len() > 2;
    if items.is_empty() || is_ambiguous || (items.len() == 1 && labels.is_empty()) {
        return Ok(None);
    }
    Roles::of_columns(items, labels.first().copied(), scores, names.len(), table).map(Some)
}

/// Returns the roles of columns with unknown names.
///
/// Apart from labels and scores, two columns are a pair in the order of the file, and a
/// single column is an item with a label.
pub(super) fn roles_from_unknown_names(
    names: &[String],
    kinds: Kinds,
    table: &dyn Table,
) -> Result<Roles> {
    let is = |column: usize, role: fn(Known) -> bool| known(&names[column]).is_some_and(role);
    let all = 0..names.len();
    let scores: Vec<usize> = all
        .clone()
        .filter(|i| is(*i, |known| matches!(known, Known::Score(_))))
        .collect();
    let label = all.clone().find(|i| is(*i, |known| known == Known::Label));
    let items: Vec<usize> = all
        .filter(|i| !scores.contains(i) && Some(*i) != label)
        .collect();
    let is_clear = match items.len() {
        1 => label.is_some(),
        n => n == 2 && kinds.0 == kinds.1,
    };
    if !is_clear {
        let known: Vec<String> = names.iter().map(|n| format!("`{}`", start_of(n))).collect();
        return Err(Error::setup(format!(
            "`{}` has the columns {}: name those to train on with `Columns`, such as \
             `Columns::new().anchor(...).positive(...)`",
            start_of(table.name()),
            known.join(", ")
        )));
    }
    let items = items.into_iter().map(|column| Field {
        column,
        kind: kinds.0,
    });
    let roles = Roles::of_columns(items.collect(), label, scores, names.len(), table)?;
    log_roles(&roles, names, table);
    Ok(roles)
}

/// Returns whether all cells of a row are common names of columns.
pub(crate) fn looks_like_header<'a>(mut cells: impl Iterator<Item = &'a str>) -> bool {
    const OTHERS: [&str; 9] = [
        "description",
        "doc",
        "file",
        "id",
        "image_path",
        "item",
        "path",
        "score",
        "url",
    ];
    cells.all(|cell| {
        let cell = cell.trim().to_ascii_lowercase();
        let letters = cell.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
        known(&cell).is_some() || OTHERS.contains(&letters)
    })
}

/// Warns if the first row is read as data but looks like the names of columns.
pub(crate) fn warn_of_header(table: &dyn Table) {
    let Some(row) = table.sample().first().filter(|row| row.cells.len() > 1) else {
        return;
    };
    let cells: Vec<&str> = row.cells.iter().filter_map(Cell::text).collect();
    if table.names().is_none() && looks_like_header(cells.iter().copied()) {
        tracing::warn!(
            file = %start_of(table.name()),
            "the first row looks like a header (`{}`) and is read as data: name its columns with \
             `CsvOptions::header` or `CsvOptions::columns`",
            start_of(&cells.join(", "))
        );
    }
}
