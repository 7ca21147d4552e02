//! The roles of a file's columns: given by the options, by the columns' names, or by
//! the first rows.

use finetuner_protocol::{Modality, Task, text::start_of};

use super::{
    columns::Columns,
    table::{Cell, Row, Table},
};
use crate::error::{Error, Result};

/// The kind of data that a file's rows hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Items of the two kinds that a model compares.
    Items { first: Kind, second: Kind },
    /// Every cell is a text.
    Texts,
}

/// The kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Image,
    Mesh,
}

impl Kind {
    pub(super) fn modality(self) -> Modality {
        match self {
            Self::Text => Modality::Text,
            Self::Image => Modality::Image,
            Self::Mesh => Modality::Mesh,
        }
    }
}

impl Layout {
    /// Returns the layout of the columns for a model with this task.
    pub(crate) fn of_task(task: &Task) -> Result<Self> {
        let (first, second) = match task {
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
        Ok(Self::Items { first, second })
    }
}

/// The meaning of a file's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
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
pub(super) struct Field {
    pub(super) column: usize,
    pub(super) kind: Kind,
}

/// The roles of a file's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) meaning: Meaning,
    /// The anchor first, then its match, then negatives.
    pub(super) items: Vec<Field>,
    pub(super) label: Option<usize>,
    pub(super) scores: Vec<usize>,
    /// Number of columns of each row.
    pub(super) width: usize,
}

/// The kinds of the two items that a model compares.
type Kinds = (Kind, Kind);

impl Roles {
    pub(super) fn of_table(layout: &Layout, table: &dyn Table) -> Result<Self> {
        let Layout::Items { first, second } = *layout else {
            return Ok(Self::new(Meaning::Texts, Vec::new(), 0));
        };
        let kinds = (first, second);
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

/// Returns the roles that the options give.
fn given(columns: &Columns, names: &[String], kinds: Kinds, table: &dyn Table) -> Result<Roles> {
    let file = start_of(table.name());
    let find = |name: &String| {
        let place = names.iter().position(|known| known.trim() == name.trim());
        place.ok_or_else(|| {
            let known: Vec<String> = names.iter().map(|n| format!("`{}`", start_of(n))).collect();
            Error::setup(format!(
                "`columns`: `{file}` has no column `{}`; it has {}",
                start_of(name),
                known.join(", ")
            ))
        })
    };
    let one = |name: &Option<String>| name.as_ref().map(find).transpose();
    let (anchor, positive) = (one(&columns.anchor)?, one(&columns.positive)?);
    let (text, image) = (one(&columns.text)?, one(&columns.image)?);
    let negatives: Vec<usize> = columns.negatives.iter().map(find).collect::<Result<_>>()?;
    let bad = |reason: &str| Err(Error::setup(format!("`columns` of `{file}`: {reason}")));
    let mut items = Vec::new();
    if kinds.0 == kinds.1 {
        let own = if kinds.0 == Kind::Text { text } else { image };
        let other = if kinds.0 == Kind::Text { image } else { text };
        if other.is_some() {
            return bad("the model embeds texts or pictures, not both: name the others only");
        }
        if anchor.is_some() && own.is_some() {
            return bad("`anchor` and `text` or `image` both name the first item: give one");
        }
        let first = anchor.or(own);
        if first.is_none() && (positive.is_some() || !negatives.is_empty()) {
            return bad("`positive` and `negative` need an `anchor`");
        }
        if positive.is_none() && !negatives.is_empty() {
            return bad("`negative` needs a `positive`");
        }
        let all = first.into_iter().chain(positive).chain(negatives);
        items.extend(all.map(|column| Field {
            column,
            kind: kinds.0,
        }));
    } else {
        if !negatives.is_empty() {
            return bad("a model of texts and pictures takes no negatives");
        }
        let (Some(text), Some(image)) = (text.or(anchor).or(positive), image) else {
            return bad(
                "a model of texts and pictures needs both: name them with `text` and `image`",
            );
        };
        let field = |column, kind| Field { column, kind };
        items = vec![field(text, Kind::Text), field(image, Kind::Image)];
        items.sort_by_key(|item| item.column);
    }
    let label = one(&columns.label)?;
    let scores: Vec<usize> = columns.scores.iter().map(find).collect::<Result<_>>()?;
    let mut used: Vec<usize> = items.iter().map(|item| item.column).collect();
    used.extend(label.iter().chain(&scores));
    used.sort_unstable();
    if let Some(twice) = used.windows(2).find(|pair| pair[0] == pair[1]) {
        let name = names.get(twice[0]).map_or("", String::as_str);
        return bad(&format!("`{}` is named twice", start_of(name)));
    }
    if items.len() == 1 && !scores.is_empty() {
        return bad("`score` needs two items to compare: `anchor` and `positive`");
    }
    Roles::of_names(items, label, scores, names.len(), table)
}

/// The role that the name of a column gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Anchor,
    Hypothesis,
    Positive,
    /// Negatives are in the order of their numbers.
    Negative(u32),
    Text,
    Image,
    Label,
    Score(u32),
}

/// Returns the role of a name in data sets for sentence-transformers.
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

/// Returns the roles that names give, or `None` if the names say too little.
fn recognised(names: &[String], kinds: Kinds, table: &dyn Table) -> Result<Option<Roles>> {
    let mut columns: Vec<(Known, usize)> = names
        .iter()
        .enumerate()
        .filter_map(|(column, name)| Some((known(name)?, column)))
        .collect();
    columns.sort_unstable();
    let of = |wanted: &dyn Fn(Known) -> bool| -> Vec<usize> {
        let found = columns.iter().filter(|(known, _)| wanted(*known));
        found.map(|(_, column)| *column).collect()
    };
    let ranked = of(&|known| known <= Known::Negative(u32::MAX));
    let ranked_is_empty = ranked.is_empty();
    let (texts, images) = (of(&|k| k == Known::Text), of(&|k| k == Known::Image));
    let labels = of(&|known| known == Known::Label);
    let scores = of(&|known| matches!(known, Known::Score(_)));
    let mut one_role = columns.iter().filter(|(known, _)| {
        *known < Known::Negative(0) || matches!(known, Known::Label | Known::Score(_))
    });
    let mut before: Option<&(Known, usize)> = None;
    let twice = one_role.find_map(|column| {
        let same = before.filter(|before| before.0 == column.0);
        before = Some(column);
        same.map(|same| (same.1, column.1))
    });
    if let Some((a, b)) = twice {
        return Err(Error::setup(format!(
            "`{}`: the columns `{}` and `{}` may mean the same: name the columns to train on with \
             `Columns`",
            start_of(table.name()),
            start_of(&names[a]),
            start_of(&names[b])
        )));
    }
    let mut items: Vec<Field> = Vec::new();
    if kinds.0 == kinds.1 {
        let own = if kinds.0 == Kind::Text { texts } else { images };
        let has = |wanted: Known| columns.iter().any(|(known, _)| *known == wanted);
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
        let text = texts.first().or(ranked.first());
        let (Some(text), [image]) = (text, &*images) else {
            return Ok(None);
        };
        let field = |column, kind| Field { column, kind };
        items = vec![field(*text, Kind::Text), field(*image, Kind::Image)];
        items.sort_by_key(|item| item.column);
    }
    // Several texts that say nothing of each other are no negatives.
    let vague = ranked_is_empty && items.len() > 2;
    if items.is_empty() || vague || (items.len() == 1 && labels.is_empty()) {
        return Ok(None);
    }
    Roles::of_names(items, labels.first().copied(), scores, names.len(), table).map(Some)
}

/// Returns the roles of columns with unknown names: two items in their order, or an
/// item with its label.
fn in_order(names: &[String], kinds: Kinds, table: &dyn Table) -> Result<Roles> {
    let is = |column: usize, wanted: fn(Known) -> bool| known(&names[column]).is_some_and(wanted);
    let all = 0..names.len();
    let scores: Vec<usize> = all
        .clone()
        .filter(|i| is(*i, |known| matches!(known, Known::Score(_))))
        .collect();
    let label = all.clone().find(|i| is(*i, |known| known == Known::Label));
    let items: Vec<usize> = all
        .filter(|i| !scores.contains(i) && Some(*i) != label)
        .collect();
    let possible = match items.len() {
        1 => label.is_some(),
        n => n == 2 && kinds.0 == kinds.1,
    };
    if !possible {
        let known: Vec<String> = names.iter().map(|n| format!("`{}`", start_of(n))).collect();
        return Err(Error::setup(format!(
            "`{}` has the columns {}: say with `Columns` which of them to train on, such as \
             `Columns::new().anchor(...).positive(...)`",
            start_of(table.name()),
            known.join(", ")
        )));
    }
    let items = items.into_iter().map(|column| Field {
        column,
        kind: kinds.0,
    });
    let roles = Roles::of_names(items.collect(), label, scores, names.len(), table)?;
    tell(&roles, names, table);
    Ok(roles)
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

/// Returns the roles by the number of columns and their first cells, as the Python
/// client does.
fn by_place(kinds: Kinds, table: &dyn Table) -> Result<Roles> {
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

/// Returns whether at least this part of a column's cells are numbers.
fn is_numeric(sample: &[Row], column: usize, part: f64) -> bool {
    let cells = || sample.iter().filter_map(|row| row.cells.get(column));
    let numbers = cells().filter(|cell| cell.is_number()).count();
    numbers > 0 && numbers as f64 >= cells().count() as f64 * part
}

/// `1 column`, `2 columns`.
pub(super) fn columns(count: usize) -> String {
    format!("{count} column{}", if count == 1 { "" } else { "s" })
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

/// Returns the number of columns of a row up to the last that is not empty.
pub(super) fn filled(row: &Row) -> usize {
    let last = row.cells.iter().rposition(|cell| !cell.is_empty());
    last.map_or(0, |last| last + 1)
}

/// Warns of a first row that looks like the names of columns.
pub(super) fn warn_of_header(table: &dyn Table) {
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
    let Some(row) = table.sample().first().filter(|row| row.cells.len() > 1) else {
        return;
    };
    let cells: Vec<&str> = row.cells.iter().filter_map(Cell::text).collect();
    let is_name = |cell: &&str| {
        let cell = cell.trim().to_ascii_lowercase();
        let letters = cell.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
        known(&cell).is_some() || OTHERS.contains(&letters)
    };
    if table.names().is_none() && cells.iter().all(is_name) {
        tracing::warn!(
            file = %start_of(table.name()),
            "the first row looks like a header (`{}`) and is read as data: name its columns with \
             `CsvOptions::header` or `CsvOptions::columns`",
            start_of(&cells.join(", "))
        );
    }
}
